//! The environment of a command: the agent's own, completed by the account, the terminal and the request. Pure: the agent's
//! own environment is an argument. `process` calls it.

use std::ffi::CString;

use podbridge_files::users::Identity;

use super::Command;
use super::mark::Mark;
use crate::env::{EXEC_ID, Variables};

/// Home directory of a user without an entry in the passwd file, as runc and `docker exec -u` set it. The agent's own would be another
/// user's.
const HOME_WITHOUT_ACCOUNT: &[u8] = b"/";

/// Adds to `own` the variables of the command's user, of the terminal and of the command, and the mark if it is a variable; later ones win.
/// `user` is `None` if the command runs as the agent's user.
pub(crate) fn merged(own: Variables, user: Option<&Identity>, command: &Command, mark: &Mark) -> Variables {
    let mut env = own;
    let mut set = |name: &[u8], value: &[u8]| {
        env.retain(|(known, _)| known != name);
        env.push((name.to_vec(), value.to_vec()));
    };
    match user.map(|user| &user.account) {
        None => {}
        Some(None) => set(b"HOME", HOME_WITHOUT_ACCOUNT),
        Some(Some(account)) => {
            set(b"HOME", account.home.as_bytes());
            set(b"USER", account.name.as_bytes());
            set(b"LOGNAME", account.name.as_bytes());
            set(b"SHELL", account.shell.as_bytes());
        }
    }
    if command.pty.is_some() {
        set(b"TERM", b"xterm");
    }
    for (name, value) in &command.env {
        set(name, value);
    }
    if let Mark::Variable(_) = mark {
        set(EXEC_ID.as_bytes(), command.id.to_string().as_bytes());
    }
    env
}

/// Returns `NAME=value` strings as execve(2) takes them. An entry with a NUL byte is dropped; `rpc` refuses requests that hold
/// one, and the system's own environment has none.
pub(crate) fn to_strings(env: &[(Vec<u8>, Vec<u8>)]) -> Vec<CString> {
    env.iter()
        .filter_map(|(name, value)| CString::new([name, &b"="[..], value].concat()).ok())
        .collect()
}
