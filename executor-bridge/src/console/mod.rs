//! Zuul's console stream, protocol version 1 (zuul 14.3.0: zuul_console, zuul_stream): serves the output that a task
//! writes in the pod, as it is written, on a TCP port of this host. The replies are byte for byte those that Zuul's
//! callback expects. `session` knows in which container or pod a log is. `daemon` starts the console for the bridge of a
//! Zuul build, or of a pod that a job made.

mod connection;
mod last_line;
mod log_stream;
mod not_found_timer;
mod request;
mod server;
mod siblings;
mod strangers;

#[cfg(any(test, fuzzing))]
pub(crate) use request::check as check_request;
pub(crate) use server::Console;
