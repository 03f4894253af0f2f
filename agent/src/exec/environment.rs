//! The environment of a command, and where its program is looked up. Pure: the agent's own environment is an argument.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Command, ExecId};
use crate::sys::users::Account;

/// Marks every process of an exec's tree, also one that left its session. See `process_tree`.
const COOKIE: &str = "PODBRIDGE_EXEC_ID";
/// Where a program is looked up when PATH is not set; what container runtimes use.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `NAME=value` of the exec's cookie.
pub(crate) fn cookie(id: ExecId) -> Vec<u8> {
    format!("{COOKIE}={id}").into_bytes()
}

/// The agent's own environment as bytes.
pub(crate) fn own() -> Vec<(Vec<u8>, Vec<u8>)> {
    std::env::vars_os()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

/// Own environment, then the account's, then the command's, then the cookie; later ones win.
pub(crate) fn merged(
    own: Vec<(Vec<u8>, Vec<u8>)>,
    account: Option<&Account>,
    command: &Command,
) -> Vec<(Vec<u8>, Vec<u8>)> {
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
    set(COOKIE.as_bytes(), command.id.to_string().as_bytes());
    env
}

/// As execve wants it. Entries with a NUL are refused by `rpc`, and the system has none.
pub(crate) fn to_strings(env: &[(Vec<u8>, Vec<u8>)]) -> Vec<CString> {
    env.iter()
        .filter_map(|(name, value)| CString::new([name, &b"="[..], value].concat()).ok())
        .collect()
}

/// The paths to try for a program: as execvp does, and at last `beside`, where an operator may put what images lack (rsync, git).
pub(crate) fn candidates(program: &CStr, env: &[(Vec<u8>, Vec<u8>)], beside: Option<&Path>) -> Vec<CString> {
    if program.to_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = env
        .iter()
        .find(|(name, _)| name == b"PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value);
    path.split(|byte| *byte == b':')
        .map(|directory| if directory.is_empty() { &b"."[..] } else { directory })
        .chain(beside.map(|directory| directory.as_os_str().as_bytes()))
        .filter_map(|directory| CString::new([directory, &b"/"[..], program.to_bytes()].concat()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
        (name.into(), value.into())
    }

    #[test]
    fn programs_are_looked_up_as_execvp_does() {
        let env = [pair("PATH", "/a::/b")];
        let names = |program: &str| {
            let found = candidates(&CString::new(program).unwrap(), &env, Some(Path::new("/run/podbridge")));
            found.into_iter().map(|c| c.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names("ls"), ["/a/ls", "./ls", "/b/ls", "/run/podbridge/ls"]);
        assert_eq!(names("./ls"), ["./ls"]);
        assert_eq!(candidates(c"ls", &[], None).len(), 6);
    }
}
