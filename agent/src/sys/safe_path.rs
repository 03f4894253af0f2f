//! Directories that are not believed by their names alone, as OpenSSH's `safe_path` and systemd's CHASE_SAFE do not: each component is
//! opened below the one before, and its owner is looked at. Symbolic links of root and of this user are followed, those of others never.
//! Callers act in the open directory, so that nobody can exchange it any more. `transport` opens the directory of the agent's socket and
//! lock here, `exec` that of the spool, `lookup` that of programs beside the agent.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Limit of symbolic links in one path; the kernel has the same.
const MAX_LINKS: usize = 40;
/// Write permission of the group and of all others.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    System(#[from] Errno),
    #[error("{} belongs to uid {owner}", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("{} is a symbolic link that another user may have made", .0.display())]
    Link(PathBuf),
}

/// What to do about directories that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Refuse,
    /// Make them for this user alone.
    Make,
}

/// An open directory of this user or root. It stays the same one whatever becomes of its name.
#[derive(Debug)]
pub(crate) struct SafeDirectory {
    directory: OwnedFd,
    /// Nobody but root and this user can change what is in the directory, or what its path leads to.
    is_guarded: bool,
}

impl SafeDirectory {
    pub(crate) fn open(path: &Path, missing: Missing) -> Result<Self, Error> {
        let mut walk = Walk::new(path)?;
        while let Some(name) = walk.names.pop_front() {
            walk.enter(&name, missing)?;
        }
        let is_guarded = walk.is_guarded && !is_writable_by_others(&walk.stat);
        if !is_trusted(walk.stat.st_uid) {
            return Err(Error::Owner {
                path: path.to_owned(),
                owner: walk.stat.st_uid,
            });
        }
        Ok(Self {
            directory: walk.directory,
            is_guarded,
        })
    }

    /// Tells whether names in this directory can be believed.
    pub(crate) fn is_guarded(&self) -> bool {
        self.is_guarded
    }
}

impl AsFd for SafeDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// A directory on the way, and what is left of the path.
struct Walk {
    directory: OwnedFd,
    stat: Stat,
    /// Path of the directory, for messages.
    path: PathBuf,
    names: VecDeque<OsString>,
    links: usize,
    is_guarded: bool,
}

impl Walk {
    fn new(path: &Path) -> Result<Self, Error> {
        let root = open_component(CWD, OsStr::new("/"))?;
        Ok(Self {
            stat: fstat(&root)?,
            directory: root,
            path: PathBuf::from("/"),
            names: names(
                &std::path::absolute(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?,
            ),
            links: 0,
            is_guarded: true,
        })
    }

    fn enter(&mut self, name: &OsStr, missing: Missing) -> Result<(), Error> {
        let opened = match open_component(&self.directory, name) {
            Err(Errno::NOENT) if missing == Missing::Make => {
                match mkdirat(&self.directory, name, Mode::RWXU) {
                    // Another process of this user may have made it at the same moment.
                    Ok(()) | Err(Errno::EXIST) => open_component(&self.directory, name),
                    Err(errno) => Err(errno),
                }
            }
            opened => opened,
        };
        let opened = opened?;
        let stat = fstat(&opened)?;
        let path = self.path.join(name);
        let is_own = is_trusted(stat.st_uid);
        // In a directory with the sticky bit, others can rename only what is theirs.
        let others_may_rename = is_writable_by_others(&self.stat) && self.stat.st_mode & STICKY == 0;
        let is_guarded = self.is_guarded && is_own && !others_may_rename && is_trusted(self.stat.st_uid);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink if !is_guarded => Err(Error::Link(path)),
            FileType::Symlink => self.follow(&opened),
            FileType::Directory => {
                (self.directory, self.stat, self.path, self.is_guarded) = (opened, stat, path, is_guarded);
                Ok(())
            }
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    /// Continues with the target of a symbolic link.
    fn follow(&mut self, link: &OwnedFd) -> Result<(), Error> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = readlinkat(link, "", Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            let root = Walk::new(&target)?;
            (self.directory, self.stat, self.path) = (root.directory, root.stat, root.path);
        }
        for name in names(&target).into_iter().rev() {
            self.names.push_front(name);
        }
        Ok(())
    }
}

/// Returns the names of a path from the root on, `..` included.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

/// Opens a file of any type as a name alone; of a symbolic link, the link.
fn open_component(directory: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name.as_bytes(), flags, Mode::empty())
}

/// Tells whether this uid can do everything that this process can.
pub(crate) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn is_writable_by_others(stat: &Stat) -> bool {
    stat.st_mode & WRITABLE_BY_OTHERS != 0
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::*;

    /// What `open` says of a path.
    #[derive(Debug, PartialEq, Eq)]
    enum Verdict {
        Guarded,
        /// The directory is ours, and others can replace it.
        Unguarded,
        Owner,
        Link,
        System(Errno),
    }
    use Verdict::{Guarded, Link, Owner, System, Unguarded};

    fn verdict(path: &Path, missing: Missing) -> Verdict {
        match SafeDirectory::open(path, missing) {
            Ok(directory) if directory.is_guarded() => Guarded,
            Ok(_) => Unguarded,
            Err(Error::Owner { .. }) => Owner,
            Err(Error::Link(_)) => Link,
            Err(Error::System(errno)) => System(errno),
        }
    }

    /// Each row: directories with mode and owner, links with their targets, the path to open, and the verdict. The test needs root.
    #[test]
    fn a_path_is_believed_if_nobody_else_can_change_it() {
        if !geteuid().is_root() {
            return;
        }
        const OTHER: u32 = 1000;
        type Row<'a> = (
            &'a [(&'a str, u32, u32)],
            &'a [(&'a str, &'a str, u32)],
            &'a str,
            Verdict,
        );
        let rows: [Row<'_>; 16] = [
            (&[("a", 0o755, 0), ("a/b", 0o700, 0)], &[], "a/b", Guarded),
            (&[("a", 0o1777, 0), ("a/b", 0o700, 0)], &[], "a/b", Guarded),
            (&[("a", 0o1777, 0), ("a/b", 0o700, OTHER)], &[], "a/b", Owner),
            (&[("a", 0o777, 0), ("a/b", 0o700, 0)], &[], "a/b", Unguarded),
            (&[("a", 0o775, 0), ("a/b", 0o700, 0)], &[], "a/b", Unguarded),
            (&[("a", 0o2777, 0), ("a/b", 0o700, 0)], &[], "a/b", Unguarded),
            (&[("a", 0o755, OTHER), ("a/b", 0o700, 0)], &[], "a/b", Unguarded),
            (&[("a", 0o1777, OTHER), ("a/b", 0o700, 0)], &[], "a/b", Unguarded),
            (&[("a", 0o755, 0), ("a/b", 0o777, 0)], &[], "a/b", Unguarded),
            (&[("a", 0o755, 0), ("a/b", 0o1777, 0)], &[], "a/b", Unguarded),
            (&[("a", 0o755, 0), ("a/b", 0o700, 0)], &[("l", "a/b", 0)], "l", Guarded),
            (
                &[("a", 0o1777, 0), ("b", 0o700, 0)],
                &[("a/l", "../b", OTHER)],
                "a/l",
                Link,
            ),
            (&[("a", 0o777, 0), ("b", 0o700, 0)], &[("a/l", "../b", 0)], "a/l", Link),
            (
                &[("a", 0o777, 0)],
                &[("l", "a", 0), ("a/m", "gone", OTHER)],
                "l/m",
                Link,
            ),
            (&[], &[("l", "l", 0)], "l", System(Errno::LOOP)),
            (&[("a", 0o755, 0)], &[], "a/missing", System(Errno::NOENT)),
        ];
        for (directories, links, path, expected) in rows {
            let base = tempfile::tempdir().unwrap();
            for (name, ..) in directories {
                fs::create_dir(base.path().join(name)).unwrap();
            }
            for (name, target, owner) in links {
                symlink(target, base.path().join(name)).unwrap();
                std::os::unix::fs::lchown(base.path().join(name), Some(*owner), None).unwrap();
            }
            for (name, mode, owner) in directories {
                chown(base.path().join(name), Some(*owner), None).unwrap();
                fs::set_permissions(base.path().join(name), Permissions::from_mode(*mode)).unwrap();
            }
            let actual = verdict(&base.path().join(path), Missing::Refuse);
            assert_eq!(actual, expected, "{directories:?} {links:?} {path}");
        }
    }

    #[test]
    fn missing_directories_are_made_for_this_user_alone_and_never_through_the_link_of_another() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(verdict(&base.path().join("x/y"), Missing::Make), Guarded);
        assert_eq!(fs::metadata(base.path().join("x/y")).unwrap().mode() & 0o777, 0o700);
        let (shared, elsewhere) = (base.path().join("shared"), base.path().join("elsewhere"));
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        symlink(&elsewhere, shared.join("own")).unwrap();
        assert_eq!(verdict(&shared.join("own/deep"), Missing::Make), Link);
        assert!(!elsewhere.exists());
        fs::write(shared.join("file"), "").unwrap();
        assert_eq!(verdict(&shared.join("file"), Missing::Make), System(Errno::NOTDIR));
    }
}
