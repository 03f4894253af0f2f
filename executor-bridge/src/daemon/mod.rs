//! The bridge of one target as a process: started on demand under a lock, serves clients on its Unix socket, ends when it
//! was idle for long enough. What the clients want done is `session`'s; this module owns socket, frames and life.

mod build_end;
mod dispatch;
mod hangup;
mod peer;
mod run;
mod serve;
mod zuul_slot;

pub(crate) use run::{run_detached, run_foreground};
pub(crate) use zuul_slot::{SlotBridge, run_in_slot};
