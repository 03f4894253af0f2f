//! The environment of a command: the agent's own, completed by the account, the terminal and the request. Pure: the agent's
//! own environment is an argument. `process` and `process_tree` call it.

use std::ffi::CString;

use podbridge_files::users::Account;

use super::{Command, ExecId};
use crate::env::{EXEC_ID, Variables};

/// Returns the `NAME=value` that marks every process of an exec's tree, also a process that left the session. See
/// `process_tree`.
pub(crate) fn cookie(id: ExecId) -> Vec<u8> {
    format!("{EXEC_ID}={id}").into_bytes()
}

/// Adds to `own` the variables of the account, of the terminal and of the command, and the cookie; later ones win.
pub(crate) fn merged(own: Variables, account: Option<&Account>, command: &Command) -> Variables {
    let mut env = own;
    let mut set = |name: &[u8], value: &[u8]| {
        env.retain(|(known, _)| known != name);
        env.push((name.to_vec(), value.to_vec()));
    };
    if let Some(account) = account {
        set(b"HOME", account.home.as_bytes());
        set(b"USER", account.name.as_bytes());
        set(b"LOGNAME", account.name.as_bytes());
        set(b"SHELL", account.shell.as_bytes());
    }
    if command.pty.is_some() {
        set(b"TERM", b"xterm");
    }
    for (name, value) in &command.env {
        set(name, value);
    }
    set(EXEC_ID.as_bytes(), command.id.to_string().as_bytes());
    env
}

/// Returns `NAME=value` strings as execve(2) takes them. An entry with a NUL byte is dropped; `rpc` refuses requests that hold
/// one, and the system's own environment has none.
pub(crate) fn to_strings(env: &[(Vec<u8>, Vec<u8>)]) -> Vec<CString> {
    env.iter()
        .filter_map(|(name, value)| CString::new([name, &b"="[..], value].concat()).ok())
        .collect()
}
