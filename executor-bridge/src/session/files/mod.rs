//! Single files between clients and a container: put, get, stat.

mod capability;
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
