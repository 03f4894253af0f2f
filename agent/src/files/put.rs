//! Writes one file: into a temporary file beside the target, which is verified, gets its mode, owner and time, and is then renamed
//! over the target. Until the rename the target is untouched; a `Put` that is dropped leaves nothing. A target that cannot be replaced is
//! written in place, from a file that was verified, and keeps its mode and owner. Blocking calls;
//! `content_writer` makes them.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, fchown};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podbridge_files::in_place;
use podbridge_files::temporary::{self, TemporaryName};
use podbridge_files::users::{self, Identity};
use podbridge_proto::digest::{ContentDigest, ContentHasher};
use podbridge_proto::limits::{check_hole, check_length};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::hole_digest::HoleDigest;
use super::resolve::ResolvedPath;
use super::{Error, Location};

/// Mode of a new file if the request has none: 0666 less the usual umask.
const DEFAULT_MODE: u32 = 0o644;

/// Location and attributes of the file to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    pub location: Location,
    /// Permission bits; `None`: those of the replaced file, else `DEFAULT_MODE`.
    pub mode: Option<u32>,
    /// Modification time in nanoseconds since the epoch; `None`: now.
    pub mtime_ns: Option<i64>,
    /// `user` or `user:group`; `None`: the owner of the replaced file if the agent has the right to set it.
    pub user: Option<String>,
    /// Whether `verify` flushes the content to the disk, and `commit` the name.
    pub sync: bool,
}

/// A file that is being written under a temporary name.
#[derive(Debug)]
pub struct Put {
    target: Target,
    resolved: ResolvedPath,
    /// Temporary name in the target's directory; `None` after the rename, and if `refused` is set.
    temporary: Option<TemporaryName>,
    /// Reason why no file can be made beside the target, which will be written in place. `file` has no name then.
    refused: Option<Errno>,
    file: File,
    pub(super) digest: HoleDigest,
    length: u64,
}

impl Put {
    /// Creates the temporary file, mode 0600. Refuses a target that is neither absent nor a regular file.
    pub fn create(target: Target, hasher: ContentHasher) -> Result<Self, Error> {
        let resolved = ResolvedPath::for_writing(&target.location)?;
        let found = resolved.stat();
        match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            None | Some(FileType::RegularFile) => {}
            Some(FileType::Directory) => return Err(Error::system("write it", &resolved.path)(Errno::ISDIR.into())),
            Some(FileType::Symlink) => return Err(Error::SymbolicLink(resolved.path)),
            Some(_) => return Err(Error::NotRegular(resolved.path)),
        }
        if let Some(found) = &found {
            resolved.check_owner(found, owner(&target).map(|owner| owner.uid))?;
        }
        let temporary = temporary::name(temporary::random_number());
        let created = temporary::create(&resolved.directory, &temporary, Mode::RUSR | Mode::WUSR);
        let (created, refused) = match created {
            Err(errno) if in_place::may_help(errno) && in_place::open(&resolved.directory, &resolved.name).is_ok() => {
                (in_place::spool(), Some(errno))
            }
            created => (created, None),
        };
        let file = created.map_err(|errno| Error::system("write it", &resolved.path)(errno.into()))?;
        Ok(Self {
            target,
            resolved,
            temporary: refused.is_none().then_some(temporary),
            refused,
            file: File::from(file),
            digest: HoleDigest::new(hasher),
            length: 0,
        })
    }

    /// Returns the target as the request named it.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the number of content bytes so far, holes counted.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends data.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        let length = check_length(self.length, data.len() as u64, None)?;
        self.file
            .write_all_at(data, self.length)
            .map_err(Error::system("write it", &self.resolved.path))?;
        self.digest.update(data);
        self.length = length;
        Ok(())
    }

    /// Appends zeros that take no space on the disk. Those of a long hole are left for `hole_digest::hash_zeros`.
    pub fn hole(&mut self, count: u64) -> Result<(), Error> {
        self.length = check_hole(self.length, count, None)?;
        self.digest.hole(count);
        Ok(())
    }

    /// Compares the content with its sender's length and digest, then gives the file everything except its name.
    pub fn verify(&mut self, length: u64, digest: ContentDigest) -> Result<(), Error> {
        let path = &self.resolved.path;
        if length != self.length {
            return Err(Error::Length {
                path: path.clone(),
                sent: length,
                got: self.length,
            });
        }
        if self.digest.digest() != digest {
            return Err(Error::Digest(path.clone()));
        }
        // A hole at the end was not written: it exists only as length.
        self.file.set_len(length).map_err(Error::system("write it", path))?;
        if self.refused.is_none() {
            self.set_attributes()?;
        }
        if self.target.sync {
            let synced = self.file.sync_all();
            synced.map_err(Error::system("write it to the disk", path))?;
        }
        Ok(())
    }

    /// Renames a verified file over its target. Returns the reason if it could not, and the target was written in place.
    pub fn commit(mut self) -> Result<Option<Errno>, Error> {
        let ResolvedPath { directory, name, path } = &self.resolved;
        let refused = match &self.temporary {
            Some(temporary) => match renameat(directory, &temporary[..], directory, name) {
                Ok(()) => None,
                Err(errno) if in_place::may_help(errno) => Some(errno),
                Err(errno) => return Err(Error::system("replace it", path)(errno.into())),
            },
            None => self.refused,
        };
        if let Some(refused) = refused {
            return self.write_in_place(refused).map(|()| Some(refused));
        }
        self.temporary = None;
        if self.target.sync {
            // `directory` is an O_PATH descriptor, which fsync refuses: open the directory for reading.
            openat(
                directory,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .and_then(fsync)
            .map_err(|errno| Error::system("write its directory to the disk", path)(errno.into()))?;
        }
        Ok(None)
    }

    /// Writes the content into the target, which keeps its mode and owner. `refused` is why it cannot be replaced, which says more than
    /// why it cannot be opened.
    fn write_in_place(&self, refused: Errno) -> Result<(), Error> {
        let ResolvedPath { directory, name, path } = &self.resolved;
        let target = in_place::open(directory, name).map_err(|_| Error::system("replace it", path)(refused.into()))?;
        let target = File::from(target);
        in_place::overwrite(&self.file, &target, self.length)
            .map_err(|errno| Error::system("write all of it in place, so it is damaged now", path)(errno.into()))?;
        if let Some(mtime_ns) = self.target.mtime_ns {
            // Refused if the file is another user's; its time is then the time of this write.
            let _ = target.set_modified(time(mtime_ns));
        }
        if self.target.sync {
            let synced = target.sync_all();
            synced.map_err(Error::system("write it to the disk", path))?;
        }
        Ok(())
    }

    /// Sets owner, mode and time of the temporary file.
    fn set_attributes(&self) -> Result<(), Error> {
        let path = &self.resolved.path;
        let replaced = self.resolved.stat();
        match &self.target.user {
            Some(user) => {
                let identity = owner(&self.target).ok_or_else(|| Error::UnknownUser(user.clone()))?;
                let changed = fchown(&self.file, Some(identity.uid), Some(identity.gid));
                changed.map_err(Error::system("give it its owner", path))?;
            }
            None => {
                if let Some(stat) = &replaced {
                    // It may have been put there a moment ago.
                    self.resolved.check_owner(stat, None)?;
                    // Keeps the owner, as a write into the old file would. Fails without the right to chown; that is no error.
                    let _ = fchown(&self.file, Some(stat.st_uid), Some(stat.st_gid));
                }
            }
        }
        // After the owner, because chown clears set-user-ID.
        let mode = self
            .target
            .mode
            .or(replaced.map(|stat| stat.st_mode))
            .unwrap_or(DEFAULT_MODE)
            & 0o7777;
        let changed = self.file.set_permissions(Permissions::from_mode(mode));
        changed.map_err(Error::system("set its mode", path))?;
        if let Some(mtime_ns) = self.target.mtime_ns {
            let changed = self.file.set_modified(time(mtime_ns));
            changed.map_err(Error::system("set its time", path))?;
        }
        Ok(())
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // May fail if the file system is gone; no caller is left to report to.
            let _ = unlinkat(&self.resolved.directory, &temporary[..], AtFlags::empty());
        }
    }
}

/// Returns the owner that the request names; `None` if it names none, or the container has no such user.
fn owner(target: &Target) -> Option<Identity> {
    users::lookup(target.user.as_ref()?)
}

/// Returns the time that is so many nanoseconds after the epoch, or before it.
fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    if nanoseconds < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    fn hasher() -> ContentHasher {
        ContentHasher::Blake3(Box::default())
    }

    fn digest(data: &[u8]) -> ContentDigest {
        let mut hasher = hasher();
        hasher.update(data);
        hasher.digest()
    }

    fn target(path: &Path) -> Target {
        let location = Location {
            path: path.to_owned(),
            ..Location::default()
        };
        Target {
            location,
            ..Target::default()
        }
    }

    fn create(target: Target) -> Result<Put, Error> {
        Put::create(target, hasher())
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_only_when_complete_and_with_its_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b");
        let mut put = create(Target {
            mode: Some(0o4750),
            mtime_ns: Some(1_500_000_000),
            ..target(&path)
        })
        .unwrap();
        put.write(b"hello ").unwrap();
        put.write(b"world").unwrap();
        assert!(!path.exists());
        put.verify(11, digest(b"hello world")).unwrap();
        assert!(!path.exists());
        put.commit().unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()),
            (0o4750, 1, 500_000_000)
        );
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        assert_eq!(names(dir.path()), ["a b"]);
    }

    #[test]
    fn a_transfer_with_a_wrong_length_or_digest_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old").unwrap();
        let mut put = create(target(&path)).unwrap();
        put.write(b"new").unwrap();
        assert!(matches!(
            put.verify(4, digest(b"new")),
            Err(Error::Length { sent: 4, got: 3, .. })
        ));
        drop(put);
        let mut put = create(target(&path)).unwrap();
        put.write(b"new").unwrap();
        assert!(matches!(put.verify(3, digest(b"other")), Err(Error::Digest(_))));
        drop(put);
        drop(create(target(&path)).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn a_symbolic_link_is_followed_and_the_old_mode_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("real");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let mut put = create(target(&dir.path().join("link"))).unwrap();
        put.verify(0, digest(b"")).unwrap();
        put.commit().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
    }

    /// Runs as another user, because root may change every directory.
    fn as_nobody(work: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            work();
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_written_in_place_and_keeps_its_mode() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // Mode of the directory, and mode of the file of root in it.
        for (directory_mode, mode, refused) in [(0o755, 0o666, Errno::ACCESS), (0o1777, 0o622, Errno::PERM)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            fs::write(&path, "old content").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(dir.path(), Permissions::from_mode(directory_mode)).unwrap();
            let inode = fs::metadata(&path).unwrap().ino();
            let (there, directory) = (path.clone(), dir.path().to_owned());
            as_nobody(move || {
                let put = |path: &Path| {
                    create(Target {
                        mode: Some(0o600),
                        ..target(path)
                    })
                };
                let mut file = put(&there).unwrap();
                file.write(b"new").unwrap();
                file.verify(3, digest(b"new")).unwrap();
                assert_eq!(file.commit().unwrap(), Some(refused));
                assert_eq!(put(&directory.join("other")).is_ok(), directory_mode == 0o1777);
            });
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.ino(), found.mode() & 0o7777, found.uid()), (inode, mode, 0));
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(names(dir.path()), ["f"]);
        }
    }

    /// What another user puts into a directory such as /tmp decides nothing about a put of root. Each row: mode of the directory, owner of
    /// the file or link in it, the user that the put names, and whether the put is done.
    #[test]
    fn a_put_follows_and_keeps_nothing_of_another_user_in_a_directory_for_all() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for (directory_mode, owner, user, is_done) in [
            (0o1777, 1000, None, false),
            (0o1777, 0, None, true),
            (0o1777, 1000, Some("1000"), true),
            (0o1777, 1001, Some("1000"), false),
            (0o755, 1000, None, true),
            (0o1755, 1000, None, true),
        ] {
            for is_link in [false, true] {
                let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let (path, victim) = (dir.path().join("report"), elsewhere.path().join("victim"));
                fs::write(&victim, "secret").unwrap();
                if is_link {
                    std::os::unix::fs::symlink(&victim, &path).unwrap();
                } else {
                    fs::write(&path, "old").unwrap();
                }
                std::os::unix::fs::lchown(&path, Some(owner), None).unwrap();
                fs::set_permissions(dir.path(), Permissions::from_mode(directory_mode)).unwrap();
                let put = create(Target {
                    user: user.map(str::to_owned),
                    ..target(&path)
                });
                let row = format!("{directory_mode:o} {owner} {user:?} {is_link}");
                // A link of this user in his own name is his to make, but root follows its own and the directory's owner's only.
                let is_done = is_done && !(is_link && owner != 0 && directory_mode == 0o1777);
                assert_eq!(put.is_ok(), is_done, "{row}: {put:?}");
                if let Err(error) = &put {
                    assert!(
                        matches!(error, Error::Foreign { owner: found, .. } if *found == owner),
                        "{row}: {error}"
                    );
                    assert_eq!(error.errno(), Some(libc::EACCES));
                }
                drop(put);
                assert_eq!(fs::read(&victim).unwrap(), b"secret");
            }
        }
    }

    #[test]
    fn a_file_that_another_user_makes_during_the_put_does_not_get_the_content() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        let path = dir.path().join("report");
        let mut put = create(target(&path)).unwrap();
        put.write(b"secret").unwrap();
        fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
        let verified = put.verify(6, digest(b"secret"));
        assert!(
            matches!(verified, Err(Error::Foreign { owner: 1000, .. })),
            "{verified:?}"
        );
        drop(put);
        assert_eq!(
            (fs::read(&path).unwrap(), names(dir.path())),
            (Vec::new(), vec!["report".to_owned()])
        );
    }

    #[test]
    fn errors_name_the_path_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let error = create(target(dir.path())).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EISDIR));
        let missing = dir.path().join("no/such");
        let error = create(target(&missing)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: cannot write it: no such file or directory", missing.display())
        );
    }
}
