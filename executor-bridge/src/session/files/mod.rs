//! Single files between a client and a container: put, get and stat. Each continues over the next link after a break.
//! `session` calls the three functions; `exec` uses `passed_file` and `put::to_header`.

mod capability;
mod disk_turns;
mod get;
mod get_sink;
pub(crate) mod passed_file;
pub(crate) mod put;
mod put_source;
mod read_ahead;
mod running_digest;
mod stat;

pub(crate) use get::get;
pub(crate) use put::put;
pub(crate) use stat::stat;
