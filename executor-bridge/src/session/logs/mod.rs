//! Console logs of a Zuul build's pod: which there are, which exec writes one, and their content over as many links as it takes.

mod follower;
mod index;
mod log_id;
mod requests;
mod source;
mod watch;
mod writers;

pub(crate) use follower::{LogEvent, LogFollower, Position, READER_STALL};
pub(crate) use index::{Interest, LogIndex};
pub(crate) use log_id::LogId;
pub(crate) use requests::{LogListDecoder, exists, list, remove, send, unsupported};
pub(crate) use source::LogSource;
pub(crate) use watch::watch_logs;
