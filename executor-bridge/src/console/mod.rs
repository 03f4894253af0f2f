//! Zuul's console stream, protocol version 1 (zuul 14.3.0: zuul_console, zuul_stream): serves what a task writes in the
//! pod, line by line, on a TCP port of this host. Matches byte for byte what Zuul's callback expects. Does not know
//! where logs are: `session` knows. `daemon` starts it for a bridge in Zuul's slot.

mod connection;
mod last_line;
mod log_stream;
mod not_found_timer;
mod request;
mod server;
mod siblings;

pub(crate) use server::Console;
