//! The bridge of one target as a process: started on demand under a lock, serves clients on its Unix socket, ends when it
//! was idle for long enough. What the clients want done is `session`'s; this module owns socket, frames and life.

mod build_end;
mod client;
mod hangup;
mod launch;
mod operations;
mod serve;
mod slot;
mod socket;

pub(crate) use launch::{Options, launch, run_detached, run_foreground};
pub(crate) use slot::{Slot, run_in_slot};
