//! Writes one file: into a temporary file beside the target, which is verified, gets its mode, owner and time, and is then renamed
//! over the target. Until the rename the target is untouched; a `Put` that is dropped leaves nothing. Blocking calls;
//! `content_writer` makes them.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, fchown};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podbridge_files::temporary::{self, TemporaryName};
use podbridge_files::users;
use podbridge_proto::digest::{ContentDigest, ContentHasher};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

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
    /// Temporary name in the target's directory; `None` after the rename.
    temporary: Option<TemporaryName>,
    file: File,
    hasher: ContentHasher,
    length: u64,
}

impl Put {
    /// Creates the temporary file, mode 0600. Refuses a target that is neither absent nor a regular file.
    pub fn create(target: Target, hasher: ContentHasher) -> Result<Self, Error> {
        let resolved = ResolvedPath::for_writing(&target.location)?;
        let kind = resolved.stat().map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            None | Some(FileType::RegularFile) => {}
            Some(FileType::Directory) => return Err(Error::system("write it", &resolved.path)(Errno::ISDIR.into())),
            Some(FileType::Symlink) => return Err(Error::SymbolicLink(resolved.path)),
            Some(_) => return Err(Error::NotRegular(resolved.path)),
        }
        let temporary = temporary::name(temporary::random_number());
        let file = temporary::create(&resolved.directory, &temporary, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(|errno| Error::system("write it", &resolved.path)(errno.into()))?;
        Ok(Self {
            target,
            resolved,
            temporary: Some(temporary),
            file: File::from(file),
            hasher,
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
        self.file
            .write_all_at(data, self.length)
            .map_err(Error::system("write it", &self.resolved.path))?;
        self.hasher.update(data);
        self.length += data.len() as u64;
        Ok(())
    }

    /// Appends zeros that take no space on the disk.
    pub fn hole(&mut self, count: u64) {
        self.hasher.zeros(count);
        self.length += count;
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
        if self.hasher.digest() != digest {
            return Err(Error::Digest(path.clone()));
        }
        // A hole at the end was not written: it exists only as length.
        self.file.set_len(length).map_err(Error::system("write it", path))?;
        self.set_attributes()?;
        if self.target.sync {
            let synced = self.file.sync_all();
            synced.map_err(Error::system("write it to the disk", path))?;
        }
        Ok(())
    }

    /// Renames a verified file over its target.
    pub fn commit(mut self) -> Result<(), Error> {
        let ResolvedPath { directory, name, path } = &self.resolved;
        if let Some(temporary) = &self.temporary {
            renameat(directory, &temporary[..], directory, name)
                .map_err(|errno| Error::system("replace it", path)(errno.into()))?;
            self.temporary = None;
        }
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
        Ok(())
    }

    /// Sets owner, mode and time of the temporary file.
    fn set_attributes(&self) -> Result<(), Error> {
        let path = &self.resolved.path;
        let replaced = self.resolved.stat();
        match &self.target.user {
            Some(user) => {
                let identity = users::lookup(user).ok_or_else(|| Error::UnknownUser(user.clone()))?;
                let changed = fchown(&self.file, Some(identity.uid), Some(identity.gid));
                changed.map_err(Error::system("give it its owner", path))?;
            }
            None => {
                if let Some(stat) = &replaced {
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
