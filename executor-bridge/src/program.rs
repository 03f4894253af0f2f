//! The path of this program, also after a package upgrade has replaced or removed the file, and the next program of a name in PATH that is not
//! this one. `launch` starts this program again, `podbridge git` names it to git, and `link` looks for the agent's binary beside it; the
//! kubectl shim and the link kubectl need the next kubectl.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::env::{self, Environment as _, PATH, Process};

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

/// Returns the program of that name that comes after this program in PATH, or the first one if this program is not in PATH under that name;
/// `None` without one, and without /proc.
pub(crate) fn next_in_path(name: &str) -> Option<PathBuf> {
    let own_file = fs::metadata("/proc/self/exe").ok()?;
    let path = Process.variable(PATH)?;
    first_after_own(&own_file, candidates(&path, name))
}

/// Returns the executable files of that name, in the order of PATH.
fn candidates<'a>(path: &'a OsStr, name: &'a str) -> impl Iterator<Item = (PathBuf, Metadata)> + 'a {
    env::split_paths(path).filter_map(move |directory| {
        // An empty entry of PATH is the working directory. The candidate needs a slash: without one it would be looked up in PATH.
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &directory
        };
        let candidate = directory.join(name);
        let metadata = fs::metadata(&candidate).ok().filter(Metadata::is_file)?;
        access(&candidate, Access::EXEC_OK).ok().map(|()| (candidate, metadata))
    })
}

/// Returns the first file after the shim's own, or the first of all if the own file is not among them.
fn first_after_own(own_file: &Metadata, candidates: impl Iterator<Item = (PathBuf, Metadata)>) -> Option<PathBuf> {
    let mut files = Vec::new();
    let mut found = None;
    for (path, metadata) in candidates {
        let file = (metadata.dev(), metadata.ino());
        if files.contains(&file) {
            continue;
        }
        files.push(file);
        if file == (own_file.dev(), own_file.ino()) {
            found = None;
        } else {
            found = found.or(Some(path));
        }
    }
    found
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
