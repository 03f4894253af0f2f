//! Console logs of a pod of a Zuul build: which logs exist, which exec writes each, and their content over as many links
//! as it takes. `session` owns the index; `console` and the bridges of the build's other pods ask for logs.

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
