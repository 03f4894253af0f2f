//! Zuul's console stream, protocol version 1 (zuul 14.3.0: zuul_console, zuul_stream): what a task writes in the pod, line by
//! line, on a TCP port of this host. Knows what Zuul's callback expects, byte for byte; where logs are is `session`'s.

mod connection;
mod last_line;
mod log_stream;
mod not_found_timer;
mod request;
mod server;
mod siblings;

pub(crate) use server::Console;
