//! Finds the file of a program by its name, as execvp(3) does. It runs nothing, and it opens no file. `exec` calls it
//! for commands, `git` for the pod's git.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::safe_path::{Missing, SafeDirectory};
use crate::env;

/// Search path when PATH is unset: the one that container runtimes set.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the paths to try for `program`, in order: the one given if it holds a slash, else one in each directory of the PATH
/// in `variables`. The last is in `fallback`, where an operator may put programs that images lack (rsync, git).
pub(crate) fn candidates(program: &CStr, variables: &[(Vec<u8>, Vec<u8>)], fallback: Option<&Path>) -> Vec<CString> {
    if program.to_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = variables
        .iter()
        .find(|(name, _)| name == env::PATH.as_bytes())
        .map_or(DEFAULT_PATH, |(_, value)| value);
    path.split(|byte| *byte == b':')
        .map(|directory| if directory.is_empty() { &b"."[..] } else { directory })
        .chain(fallback.map(|directory| directory.as_os_str().as_bytes()))
        .filter_map(|directory| CString::new([directory, &b"/"[..], program.to_bytes()].concat()).ok())
        .collect()
}

/// Returns the directory of the agent's own executable; `None` where /proc is hidden, or if another user can put programs there.
pub(crate) fn own_directory() -> Option<PathBuf> {
    let own = env::own_location().ok()?;
    let directory = own.parent()?;
    let is_guarded = SafeDirectory::open(directory, Missing::Refuse).is_ok_and(|opened| opened.is_guarded());
    is_guarded.then(|| directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
        (name.into(), value.into())
    }

    #[test]
    fn programs_are_looked_up_as_execvp_does() {
        let variables = [pair("PATH", "/a::/b")];
        let names = |program: &str| {
            let program = CString::new(program).unwrap();
            let paths = candidates(&program, &variables, Some(Path::new("/run/podbridge")));
            paths.into_iter().map(|c| c.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names("ls"), ["/a/ls", "./ls", "/b/ls", "/run/podbridge/ls"]);
        assert_eq!(names("./ls"), ["./ls"]);
        assert_eq!(candidates(c"ls", &[], None).len(), 6);
    }
}
