//! Whose rights git has: those of the repository's owner. A repository has hooks and settings that name programs, and whoever owns it can
//! change them; git itself refuses a repository of another user for that reason. `git::serve` calls it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use podbridge_files::users::{self, Identity};
use rustix::process::{Gid, Uid, chdir, geteuid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use super::Error;

/// What git needs to know about the owner.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    /// Home of the user that this process has become; `None`: it is still the same user.
    pub(super) home: Option<OsString>,
    /// Directories of root, whose repositories every user may believe.
    pub(super) safe_directories: Vec<PathBuf>,
}

/// Becomes the owner of the repository at `path` if this process is root's and the owner is another user; the owner of a new repository
/// is the one of the directory that it is made in. The caller has no other thread.
pub(super) fn become_owner(path: &Path) -> Result<Owner, Error> {
    let places = places(path);
    let owners: Vec<_> = places.iter().map(|(_, uid)| *uid).collect();
    let other = owners.iter().copied().find(|uid| *uid != 0);
    let home = match other.filter(|_| geteuid().is_root()) {
        Some(uid) => Some(become_user(uid).map_err(|source| Error::Owner { uid, source })?),
        None => None,
    };
    let of_root = places.into_iter().filter(|(_, uid)| *uid == 0 && !geteuid().is_root());
    Ok(Owner {
        home,
        safe_directories: of_root.filter_map(|(place, _)| fs::canonicalize(place).ok()).collect(),
    })
}

/// Returns the directories where git will find the repository, with their owners; if there are none, the directory that it is made in.
fn places(path: &Path) -> Vec<(PathBuf, u32)> {
    let owned = |place: PathBuf| {
        let owner = fs::metadata(&place).ok()?.uid();
        Some((place, owner))
    };
    let mut with_suffix = path.as_os_str().to_owned();
    with_suffix.push(".git");
    let with_suffix = PathBuf::from(with_suffix);
    let candidates = [
        path.to_owned(),
        path.join(".git"),
        with_suffix.join(".git"),
        with_suffix,
    ];
    let found: Vec<_> = candidates.into_iter().filter_map(owned).collect();
    if found.is_empty() {
        path.ancestors()
            .map(Path::to_owned)
            .find_map(owned)
            .into_iter()
            .collect()
    } else {
        found
    }
}

/// Takes the identity of a user for good; returns the user's home.
fn become_user(uid: u32) -> io::Result<OsString> {
    let identity = users::lookup(&uid.to_string()).unwrap_or(Identity {
        uid,
        gid: uid,
        groups: Vec::new(),
        account: None,
    });
    // A number that the container does not know has no group there.
    let gid = if identity.account.is_some() { identity.gid } else { uid };
    let groups: Vec<_> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    // The user may not be allowed to enter the directory that root is in.
    chdir("/")?;
    set_thread_groups(&groups)?;
    set_thread_gid(Gid::from_raw(gid))?;
    set_thread_uid(Uid::from_raw(uid))?;
    Ok(identity
        .account
        .map_or_else(|| "/".into(), |account| account.home.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn the_owner_is_that_of_the_repository_or_of_the_directory_for_a_new_one() {
        if !geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (path, owner) in [("mixed", 0), ("mixed/.git", 1001), ("named.git", 1002), ("home", 1003)] {
            fs::create_dir(root.join(path)).unwrap();
            chown(root.join(path), Some(owner), None).unwrap();
        }
        for (path, expected) in [
            ("mixed", vec![0, 1001]),
            ("named", vec![1002]),
            ("named.git", vec![1002]),
            ("home/new/x.git", vec![1003]),
            ("new", vec![0]),
        ] {
            let owners: Vec<_> = places(&root.join(path)).into_iter().map(|(_, uid)| uid).collect();
            assert_eq!(owners, expected, "{path}");
        }
    }
}
