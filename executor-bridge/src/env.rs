//! The process's environment: the names that podbridge reads, and the only code that reads them, the arguments and the working directory.
//! Other modules take an `Environment`, so that tests can give one of their own.
#![expect(clippy::disallowed_methods, reason = "the one module that reads the environment")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
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
/// The link to use: auto, exec-proxy, direct, kubectl or local.
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

/// Variables that decide which API server is reached and trusted, or what a bridge keeps: every target has them. client-go and Go's
/// standard library read the same names.
pub(crate) const CONNECTION_VARIABLES: &[&str] = &[
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "KUBERNETES_MASTER",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "NO_PROXY",
    "PODBRIDGE_AGENT",
    "PODBRIDGE_LEASE",
    "POD_NAMESPACE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Variables that no credential plugin gets: they differ from one shell or task to the next, and would cost a bridge each.
const SESSION_VARIABLES: &[&str] = &[
    "COLUMNS",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LINES",
    "LS_COLORS",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
    "OLDPWD",
    "PROMPT_COMMAND",
    "PS1",
    "PS2",
    "PS4",
    "PWD",
    "SHLVL",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_TTY",
    "STY",
    "TERM",
    "TMUX",
    "TMUX_PANE",
    "WINDOWID",
    "XDG_SESSION_ID",
    "_",
];
/// Prefixes of further such variables. Those of podbridge and Ansible are options, which the target holds by itself.
const SESSION_PREFIXES: &[&str] = &["ANSIBLE_", "K8S_AUTH_", "PODBRIDGE_"];

/// Variables that the process of a bridge keeps, beside podbridge's own. It has no others: what credential plugins and kubectl get beside
/// them is in the target, and no credential of whoever started the bridge can be read in /proc for as long as it runs.
const BRIDGE_VARIABLES: &[&str] = &[
    HOME,
    KUBECONFIG,
    PATH,
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TZ",
    XDG_RUNTIME_DIR,
];

/// Returns whether the process of a bridge keeps this variable.
pub(crate) fn is_for_bridge(name: &OsStr) -> bool {
    let is_own = name.as_bytes().starts_with(b"PODBRIDGE_") && name != PODBRIDGE_TOKEN;
    is_own || BRIDGE_VARIABLES.iter().any(|known| name == *known)
}

/// Returns whether a credential plugin gets this variable.
pub(crate) fn reaches_credential_plugin(name: &str) -> bool {
    !SESSION_VARIABLES.contains(&name) && !SESSION_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Variables and working directory of a process.
pub(crate) trait Environment {
    /// Returns the value of a variable; `None` if it is absent or empty.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// Returns all variables that are set, in no particular order.
    fn variables(&self) -> Vec<(OsString, OsString)>;
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

    fn variables(&self) -> Vec<(OsString, OsString)> {
        std::env::vars_os().collect()
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
