//! The bridge process of one target: started on demand under a lock, serves clients on its Unix socket, and ends when
//! it was unused for long enough. Owns the listener, the clients' connections and the process's lifetime. The
//! operations themselves belong to `session`. `commands::bridge` and the kubectl shim start it.

mod arrivals;
mod build_end;
mod dispatch;
mod early_connection;
mod hangup;
mod job_console;
mod peer;
mod run;
mod serve;
mod zuul_slot;

pub(crate) use run::{run_detached, run_foreground};
pub(crate) use zuul_slot::{SlotBridge, run_in_slot};
