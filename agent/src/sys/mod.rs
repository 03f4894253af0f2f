//! System calls, and every `unsafe` block of the agent: fork and exec, the reaper of children, the init for PID 1, the heap, /proc,
//! cgroups, containers, peers of sockets, limits, safe paths, program lookup. It knows nothing of execs, files or gRPC, and of the agent it uses `env` only.
//! All other modules may call it.

pub(crate) mod cgroup;
pub(crate) mod container;
#[allow(unsafe_code)]
pub(crate) mod descriptors;
#[allow(unsafe_code)]
pub(crate) mod exit_signal;
#[allow(unsafe_code)]
pub(crate) mod fork;
#[allow(unsafe_code)]
pub(crate) mod heap;
#[allow(unsafe_code)]
pub(crate) mod init;
pub(crate) mod limits;
pub(crate) mod lookup;
#[allow(unsafe_code)]
pub(crate) mod peer;
pub(crate) mod proc;
pub(crate) mod pty;
pub(crate) mod reaper;
pub(crate) mod safe_path;
