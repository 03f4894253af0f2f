//! Reads the environment variables and arguments of the process, and the path of its own program. No other file of the agent reads
//! `std::env`, so the constants below are the complete list of the variables that it reads by name, and of the one that it invents
//! for commands. `commands`, `telemetry`, `transport`, `git`, `exec` and `sys` call it. The only writer is `sys::heap`, because a write
//! is unsafe code, which `sys` alone holds.
#![expect(clippy::disallowed_methods, reason = "the one module that reads the environment")]

use std::env::{self, ArgsOs};
use std::ffi::{CStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Path of the agent's Unix socket when `--socket` is absent. An empty value counts as unset.
pub(crate) const AGENT_SOCKET: &str = "PODBRIDGE_AGENT_SOCKET";
/// Level of the agent's own log: error, warn, info, debug or trace. Default: warn.
pub(crate) const LOG_LEVEL: &str = "PODBRIDGE_LOG";
/// `0`: a new Python for every Ansible module.
pub(crate) const WARM_PYTHON: &str = "PODBRIDGE_WARM_PYTHON";
/// Id of the exec that a process belongs to. Commands get it; the agent itself never reads its own value.
pub(crate) const EXEC_ID: &str = "PODBRIDGE_EXEC_ID";
/// Settings of the GNU C library, read by the library once, when a program starts (ld.so(8)).
pub(crate) const GLIBC_TUNABLES: &str = "GLIBC_TUNABLES";
/// Directories where programs are looked up, separated by colons.
pub(crate) const PATH: &str = "PATH";
/// Home directory of the agent's user. An empty value counts as unset.
pub(crate) const HOME: &str = "HOME";

/// The agent's own executable, to run or to copy it: another file may have its path by now.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";
/// Name of the processes of the agent, by which a bridge looks for them. A program that is started as [`OWN_PROGRAM`] is called `exe`.
pub(crate) const PROCESS_NAME: &CStr = c"podbridge-agent";

/// Names and values of environment variables, as bytes: the system asks for no encoding.
pub(crate) type Variables = Vec<(Vec<u8>, Vec<u8>)>;

/// Returns the value of one variable; `None` if it is unset.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// Returns the whole environment.
pub(crate) fn variables() -> Variables {
    env::vars_os()
        .map(|(name, value)| (name.into_vec(), value.into_vec()))
        .collect()
}

/// Returns the arguments; the first is the name that the program was called by.
pub(crate) fn arguments() -> ArgsOs {
    env::args_os()
}

/// Returns where the agent's own executable was when it was started, for what may lie beside it. `Err` where /proc is hidden.
pub(crate) fn own_location() -> io::Result<PathBuf> {
    env::current_exe()
}
