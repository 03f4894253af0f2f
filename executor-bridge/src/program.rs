//! Where this program is, also when a package has replaced or removed it since it was started. Whoever starts it again or looks
//! beside it asks here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::env;

/// Where it was started from; another release may be there by now, or nothing.
pub(crate) fn path() -> io::Result<PathBuf> {
    env::current_program().map(|path| match path.exists() {
        true => path,
        false => unmarked(path),
    })
}

/// What to start: the program that is installed, else this very one, which stays as long as we run.
pub(crate) fn to_start() -> PathBuf {
    let installed = path().ok().filter(|path| path.exists());
    installed.unwrap_or_else(|| "/proc/self/exe".into())
}

/// The kernel says so in the name of a file that is no longer there (proc_pid_exe(5)).
fn unmarked(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(name) => OsStr::from_bytes(name).into(),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_where_it_was() {
        assert_eq!(
            unmarked("/usr/bin/podbridge (deleted)".into()),
            PathBuf::from("/usr/bin/podbridge")
        );
        assert_eq!(
            unmarked("/usr/bin/podbridge".into()),
            PathBuf::from("/usr/bin/podbridge")
        );
        assert_eq!(path().unwrap(), env::current_program().unwrap());
        assert_eq!(to_start(), env::current_program().unwrap());
    }
}
