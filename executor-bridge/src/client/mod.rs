//! The client's side of the client protocol: finds or starts a bridge, sends requests and receives results. The subcommands and the
//! kubectl shim run commands and copy files through it; the console asks the sibling bridges of a build. Knows no Kubernetes and no gRPC.

mod ask;
mod attached;
mod bridge_address;
mod connection;
mod conversation;
mod runtime;
mod signals;
mod start;
mod streams;
mod token;

pub(crate) use crate::client::ask::ask;
pub(crate) use crate::client::attached::{AttachedEnd, run_attached};
pub(crate) use crate::client::bridge_address::BridgeAddress;
pub(crate) use crate::client::connection::{Incoming, Message};
pub(crate) use crate::client::conversation::{Conversation, begin_between_bridges};
pub(crate) use crate::client::runtime::runtime;
pub(crate) use crate::client::signals::wait_for_interrupt;
pub(crate) use crate::client::start::find_or_start;
pub(crate) use crate::client::streams::Streams;
