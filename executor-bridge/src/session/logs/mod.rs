//! Console logs of a Zuul build's pod: which there are, which exec writes one, and their content over as many links as it takes.

mod follower;
mod index;
mod log_id;
mod requests;
mod source;
mod watch;
mod writers;

pub(crate) use follower::{Event, Follow, Position, STALL};
pub(crate) use index::{Interest, Logs};
pub(crate) use log_id::LogId;
pub(crate) use requests::{Lists, exists, list, remove, send, unsupported};
pub(crate) use source::Source;
pub(crate) use watch::watch_logs;
