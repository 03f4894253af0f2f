//! The path of this program, also after a package upgrade has replaced or removed the file. `launch` starts the program again, `podbridge
//! git` names it to git, and `link` looks for the agent's binary beside it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::env;

/// Returns the path that this program was started from. Another release, or no file, may be there now.
pub(crate) fn path() -> io::Result<PathBuf> {
    env::current_program().map(|path| {
        if path.exists() {
            path
        } else {
            without_deleted_mark(path)
        }
    })
}

/// Returns the path for starting this program again: the installed file, or the running file if that was removed. The running file exists
/// as long as this process.
pub(crate) fn path_to_start() -> PathBuf {
    let installed = path().ok().filter(|path| path.exists());
    installed.unwrap_or_else(|| "/proc/self/exe".into())
}

/// Removes the mark that the kernel appends to the path of a removed file (proc_pid_exe(5)).
fn without_deleted_mark(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(name) => OsStr::from_bytes(name).into(),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_program_keeps_its_path() {
        assert_eq!(
            without_deleted_mark("/usr/bin/podbridge (deleted)".into()),
            PathBuf::from("/usr/bin/podbridge")
        );
        assert_eq!(
            without_deleted_mark("/usr/bin/podbridge".into()),
            PathBuf::from("/usr/bin/podbridge")
        );
        assert_eq!(path().unwrap(), env::current_program().unwrap());
        assert_eq!(path_to_start(), env::current_program().unwrap());
    }
}
