//! The client's side of the client protocol, for the command line: finds or starts the bridge and speaks with it.

mod ask;
mod attached;
mod bridge_address;
mod connection;
mod conversation;
mod runtime;
mod signals;
mod streams;

pub(crate) use crate::client::ask::ask;
pub(crate) use crate::client::attached::{Ended, attend};
pub(crate) use crate::client::bridge_address::BridgeAddress;
pub(crate) use crate::client::connection::{Incoming, Message};
pub(crate) use crate::client::conversation::{Conversation, begin_existing};
pub(crate) use crate::client::runtime::runtime;
pub(crate) use crate::client::signals::interrupted;
pub(crate) use crate::client::streams::Streams;
