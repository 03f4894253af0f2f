//! The process's environment: the names that podbridge reads, and the only code that reads them, the arguments and the working directory.
//! Other modules take an `Environment`, so that tests can give one of their own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

/// Kubeconfig files, with ':' between them, as kubectl reads it.
pub(crate) const KUBECONFIG: &str = "KUBECONFIG";
/// Home directory; the default kubeconfig is `.kube/config` in it.
pub(crate) const HOME: &str = "HOME";
/// Directories in which programs are looked up.
pub(crate) const PATH: &str = "PATH";
/// Directory of the sockets of bridges, before `XDG_RUNTIME_DIR`.
pub(crate) const PODBRIDGE_DIR: &str = "PODBRIDGE_DIR";
/// Directory for files of this login session (XDG Base Directory Specification).
pub(crate) const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// The link to use: auto, exec-proxy, direct or local.
pub(crate) const PODBRIDGE_LINK: &str = "PODBRIDGE_LINK";
/// The agent's Unix socket, for the link `local`.
pub(crate) const PODBRIDGE_AGENT_SOCKET: &str = "PODBRIDGE_AGENT_SOCKET";
/// A bearer token for the API server.
pub(crate) const PODBRIDGE_TOKEN: &str = "PODBRIDGE_TOKEN";
/// The agent binary that is brought into pods.
pub(crate) const PODBRIDGE_AGENT: &str = "PODBRIDGE_AGENT";
/// Directories of the image that hold Git repositories.
pub(crate) const PODBRIDGE_GIT_CACHE: &str = "PODBRIDGE_GIT_CACHE";
/// Seconds that a command goes on in the pod while no bridge is connected.
pub(crate) const PODBRIDGE_LEASE: &str = "PODBRIDGE_LEASE";
/// `1` turns podbridge off: the kubectl shim passes everything on.
pub(crate) const PODBRIDGE_DISABLE: &str = "PODBRIDGE_DISABLE";
/// Log level, or the path of a log file in Zuul's slot.
pub(crate) const PODBRIDGE_LOG: &str = "PODBRIDGE_LOG";
/// How many scripts named kubectl have run one another.
pub(crate) const PODBRIDGE_KUBECTL_DEPTH: &str = "PODBRIDGE_KUBECTL_DEPTH";
/// Address of the API server, which Kubernetes gives to every pod.
pub(crate) const KUBERNETES_SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// Variables and working directory of a process.
pub(crate) trait Environment {
    /// Returns the value of a variable; `None` if it is absent or empty.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// Returns the working directory; an error if it was removed or cannot be read.
    fn current_directory(&self) -> io::Result<PathBuf>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process;

impl Environment for Process {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name).filter(|value| !value.is_empty())
    }

    fn current_directory(&self) -> io::Result<PathBuf> {
        std::env::current_dir()
    }
}

/// Returns the words of this process's command line, the program's name first.
pub(crate) fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os()
}

/// Returns the path from which this process was started; an error without /proc.
pub(crate) fn current_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Splits a list such as `PATH` at its colons.
pub(crate) fn split_paths(list: &OsStr) -> impl Iterator<Item = PathBuf> + '_ {
    std::env::split_paths(list)
}
