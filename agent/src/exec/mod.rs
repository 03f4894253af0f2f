//! Execs, which are commands in the pod: each starts once, keeps its output until it is read, and ends with an exit record.
//! `registry` owns the execs, one `supervisor` task runs each. This domain knows no gRPC and no generated type: `rpc::exec`
//! translates, `app` makes the registry. It uses no other modules of the agent than `sys` and `env`.

mod attach;
mod command;
mod environment;
mod error;
mod exit;
mod mark;
mod output;
mod preparations;
mod process;
mod process_table;
mod process_tree;
mod registry;
mod spool;
mod start;
mod state;
mod stdin;
mod stdin_writer;
mod supervisor;
mod warm_python;

pub use attach::{Event, Reader};
pub use command::{Command, Digest, ExecId, OnDisconnect, StdinMode};
pub use error::Error;
pub use exit::{Cause, ExitRecord, StartFailure};
pub(crate) use registry::MAX_EXECS;
pub use registry::{Registry, Scope, Summary};
pub use spool::{Channel, Lengths, Offsets, Overflow};
pub(crate) use spool::{SPOOL_BYTES, Store};
pub use state::Exec;
pub use stdin::Progress;
pub use stdin_writer::StdinWriter;
pub(crate) use warm_python::WarmPython;

pub use crate::sys::pty::Size;
