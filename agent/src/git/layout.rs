//! Paths of repositories: the absolute path of a request, git's own directory, the working copy, and the names of our marker files.
//! Reads the file system and changes nothing. The other files of this module call it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use podbridge_files::users;
use rustix::process::geteuid;

use super::Error;
use crate::env;

/// Name of a repository until it is complete. The directory is beside or in its final one, so that renames complete it.
pub(super) const UNFINISHED: &str = ".podbridge-new";

/// Name of the marker file of a new repository: it exists until HEAD has a commit, and is not empty once the checkout has started.
pub(super) const UNBORN: &str = "podbridge-unborn";

/// Returns the absolute path of a repository, by the rules of ssh: `~` and relative paths are below the user's home.
pub(super) fn absolute_path(path: &Path) -> Result<PathBuf, Error> {
    let Some(named) = path.as_os_str().as_bytes().strip_prefix(b"~") else {
        return Ok(own_home().join(path).components().collect());
    };
    let end = named.iter().position(|byte| *byte == b'/').unwrap_or(named.len());
    let user = String::from_utf8_lossy(&named[..end]).into_owned();
    // Without the slashes: an absolute path would replace the home in `join`.
    let below = named[end..]
        .iter()
        .position(|byte| *byte != b'/')
        .map_or(&[][..], |at| &named[end + at..]);
    let home = if user.is_empty() {
        own_home()
    } else {
        home_of(&user).ok_or(Error::UnknownUser(user))?
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

/// Returns the directory of git's own files in a new repository: a name that ends in `.git` makes the repository bare.
pub(super) fn git_directory(path: &Path) -> PathBuf {
    if path.as_os_str().as_bytes().ends_with(b".git") {
        path.to_owned()
    } else {
        path.join(".git")
    }
}

/// Returns the working copy of such a repository; `None` if it is bare.
pub(super) fn working_copy(git_directory: &Path) -> Option<&Path> {
    git_directory.parent().filter(|_| git_directory.ends_with(".git"))
}

/// Returns whether the path is left to git: it exists and is no empty directory, or git would find it with `.git` added.
pub(super) fn is_occupied(path: &Path) -> bool {
    if fs::symlink_metadata(path).is_err() {
        let mut with_suffix = path.as_os_str().to_owned();
        with_suffix.push(".git");
        return Path::new(&with_suffix).exists();
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
    fn relative_paths_and_tildes_are_below_the_home() {
        let home = own_home();
        for (path, expected) in [
            ("/zuul/glance", PathBuf::from("/zuul/glance")),
            ("src/x", home.join("src/x")),
            ("~/src", home.join("src")),
            ("~", home.clone()),
            ("~//etc", home.join("etc")),
            ("~root/x", home_of("root").unwrap().join("x")),
        ] {
            assert_eq!(absolute_path(Path::new(path)).unwrap(), expected, "{path}");
        }
        let unknown = absolute_path(Path::new("~no-such-user/x")).unwrap_err();
        assert!(unknown.to_string().contains("no-such-user"), "{unknown}");
    }

    #[test]
    fn only_absent_and_empty_paths_get_a_new_repository() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        let (empty, unfinished) = (directory.join("empty"), directory.join("unfinished"));
        fs::create_dir_all(&empty).unwrap();
        fs::create_dir_all(unfinished.join(UNFINISHED)).unwrap();
        fs::create_dir_all(directory.join("other.git")).unwrap();
        let occupied = [
            ("", true),
            ("empty", false),
            ("unfinished", false),
            ("new", false),
            ("other", true),
        ];
        for (name, expected) in occupied {
            assert_eq!(is_occupied(&directory.join(name)), expected, "{name}");
        }
    }
}
