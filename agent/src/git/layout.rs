//! Where a repository is, or would be made. Reads names only.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::Error;
use crate::env;
use crate::sys::users;

/// What a repository is called until it is finished; beside its place or in it, so that it moves there by renames.
pub(super) const UNFINISHED: &str = ".podbridge-new";

/// A file in the repository that is there until HEAD has a commit; there is something in it from when its checkout begins.
pub(super) const UNBORN: &str = "podbridge-unborn";

/// As over ssh: `~` and what is relative is below the user's home.
pub(super) fn absolute_path(path: &Path) -> Result<PathBuf, Error> {
    let Some(named) = path.as_os_str().as_bytes().strip_prefix(b"~") else {
        return Ok(own_home().join(path).components().collect());
    };
    let end = named.iter().position(|byte| *byte == b'/').unwrap_or(named.len());
    let user = String::from_utf8_lossy(&named[..end]).into_owned();
    // Not one slash of them: what is absolute would leave the home.
    let below = named[end..]
        .iter()
        .position(|byte| *byte != b'/')
        .map_or(&[][..], |at| &named[end + at..]);
    let home = match user.is_empty() {
        true => own_home(),
        false => home_of(&user).ok_or(Error::UnknownUser(user))?,
    };
    Ok(home.join(OsStr::from_bytes(below)).components().collect())
}

fn own_home() -> PathBuf {
    let set = env::variable(env::HOME).filter(|home| !home.is_empty());
    let home = set.map(PathBuf::from);
    home.or_else(|| home_of(&geteuid().as_raw().to_string()))
        .unwrap_or_else(|| "/".into())
}

fn home_of(user: &str) -> Option<PathBuf> {
    users::lookup(user)?.account.map(|account| account.home.into())
}

/// Where git's own files are in a repository that is made here: one whose name ends in `.git` is nothing else.
pub(super) fn git_directory(path: &Path) -> PathBuf {
    match path.as_os_str().as_bytes().ends_with(b".git") {
        true => path.to_owned(),
        false => path.join(".git"),
    }
}

/// The directory of the files of such a repository, unless it is bare.
pub(super) fn working_copy(git_directory: &Path) -> Option<&Path> {
    git_directory.parent().filter(|_| git_directory.ends_with(".git"))
}

/// Whether git has something to output about the path: it is there and no empty directory, or git finds it with `.git` added.
pub(super) fn is_occupied(path: &Path) -> bool {
    if fs::symlink_metadata(path).is_err() {
        let mut longer = path.as_os_str().to_owned();
        longer.push(".git");
        return Path::new(&longer).exists();
    }
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().any(|entry| entry.file_name() != UNFINISHED),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_the_home_as_over_ssh() {
        let home = own_home();
        for (given, expected) in [
            ("/zuul/glance", PathBuf::from("/zuul/glance")),
            ("src/x", home.join("src/x")),
            ("~/src", home.join("src")),
            ("~", home.clone()),
            ("~//etc", home.join("etc")),
            ("~root/x", home_of("root").unwrap().join("x")),
        ] {
            assert_eq!(absolute_path(Path::new(given)).unwrap(), expected, "{given}");
        }
        let unknown = absolute_path(Path::new("~no-such-user/x")).unwrap_err();
        assert!(unknown.to_string().contains("no-such-user"), "{unknown}");
    }

    #[test]
    fn what_is_there_is_left_to_git() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        let (empty, unfinished) = (directory.join("empty"), directory.join("unfinished"));
        fs::create_dir_all(&empty).unwrap();
        fs::create_dir_all(unfinished.join(UNFINISHED)).unwrap();
        fs::create_dir_all(directory.join("other.git")).unwrap();
        let taken = [
            ("", true),
            ("empty", false),
            ("unfinished", false),
            ("new", false),
            ("other", true),
        ];
        for (name, expected) in taken {
            assert_eq!(is_occupied(&directory.join(name)), expected, "{name}");
        }
    }
}
