//! Writes one file: into a temporary file beside the target, verified, given mode, owner and time, then renamed over it.
//! Until the rename the target is untouched; a `Put` that is dropped leaves nothing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256 as Hasher};

use super::{Error, Sha256};
use crate::sys::users;

/// Mode of a new file when none is wanted: 0666 less the usual umask.
const DEFAULT_MODE: u32 = 0o644;

/// Where the file goes and what it is to be.
#[derive(Debug, Clone, Default)]
pub struct Target {
    pub path: PathBuf,
    /// Permission bits; `None`: those of the file that is replaced.
    pub mode: Option<u32>,
    /// Nanoseconds since the epoch; `None`: now.
    pub mtime_ns: Option<i64>,
    /// `user` or `user:group`; `None`: the owner of the file that is replaced, as far as the agent may give it.
    pub user: Option<String>,
}

#[derive(Debug)]
pub struct Put {
    target: Target,
    /// The target with its last symbolic link followed.
    path: PathBuf,
    temporary: Option<PathBuf>,
    file: File,
    hasher: Hasher,
    length: u64,
}

impl Put {
    pub fn create(target: Target) -> Result<Self, Error> {
        let path = follow(&target.path)?;
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                return Err(Error::system("write it", &path)(io::Error::from_raw_os_error(
                    libc::EISDIR,
                )));
            }
            Ok(meta) if !meta.is_file() => return Err(Error::NotRegular(path)),
            _ => {}
        }
        let temporary = temporary_beside(&path);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary);
        let file = file.map_err(Error::system("write it", &path))?;
        Ok(Self {
            target,
            path,
            temporary: Some(temporary),
            file,
            hasher: Hasher::new(),
            length: 0,
        })
    }

    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(data)
            .map_err(Error::system("write it", &self.path))?;
        self.hasher.update(data);
        self.length += data.len() as u64;
        Ok(())
    }

    /// Compares with what the sender sent, and gives the file all but its name.
    pub fn verify(&mut self, length: u64, sha256: Sha256) -> Result<(), Error> {
        if length != self.length {
            return Err(Error::Length {
                path: self.path.clone(),
                sent: length,
                got: self.length,
            });
        }
        let digest: Sha256 = std::mem::take(&mut self.hasher).finalize().into();
        if digest != sha256 {
            return Err(Error::Digest(self.path.clone()));
        }
        self.give_attributes()
    }

    /// Puts a verified file in its place.
    pub fn commit(mut self) -> Result<(), Error> {
        if let Some(temporary) = self.temporary.take() {
            let renamed = fs::rename(&temporary, &self.path);
            if renamed.is_err() {
                self.temporary = Some(temporary);
            }
            renamed.map_err(Error::system("replace it", &self.path))?;
        }
        Ok(())
    }

    fn give_attributes(&self) -> Result<(), Error> {
        let replaced = fs::metadata(&self.path).ok();
        match &self.target.user {
            Some(user) => {
                let identity = users::lookup(user).ok_or_else(|| Error::UnknownUser(user.clone()))?;
                let given = fchown(&self.file, Some(identity.uid), Some(identity.gid));
                given.map_err(Error::system("give it its owner", &self.path))?;
            }
            None => {
                if let Some(meta) = &replaced {
                    // Only root may, and writing through the old file would have kept its owner as well.
                    let _ = fchown(&self.file, Some(meta.uid()), Some(meta.gid()));
                }
            }
        }
        // After the owner: chown clears set-user-ID.
        let mode = self
            .target
            .mode
            .or(replaced.map(|meta| meta.mode()))
            .unwrap_or(DEFAULT_MODE)
            & 0o7777;
        let changed = self.file.set_permissions(Permissions::from_mode(mode));
        changed.map_err(Error::system("set its mode", &self.path))?;
        if let Some(mtime_ns) = self.target.mtime_ns {
            let changed = self.file.set_modified(time(mtime_ns));
            changed.map_err(Error::system("set its time", &self.path))?;
        }
        Ok(())
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The file system may be gone; there is nobody to tell.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// What a shell's `>` would write to: a symbolic link is followed, also to a file that is not there yet.
fn follow(path: &Path) -> Result<PathBuf, Error> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(link) => path = path.parent().unwrap_or(Path::new("/")).join(link),
            Err(_) => return Ok(path),
        }
    }
    Err(Error::system("write it", &path)(io::Error::from_raw_os_error(
        libc::ELOOP,
    )))
}

/// A name of its own length, so that a target whose name is as long as names may be has one too.
fn temporary_beside(path: &Path) -> PathBuf {
    let mut random = [0u8; 8];
    // It never fails for so few bytes; a clash would be refused by create_new.
    let _ = getrandom(&mut random, GetRandomFlags::empty());
    let directory = path.parent().unwrap_or(Path::new("/"));
    directory.join(format!(".podbridge-{:016x}", u64::from_ne_bytes(random)))
}

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
    use super::*;

    fn sha(data: &[u8]) -> Sha256 {
        Hasher::digest(data).into()
    }

    fn target(path: &Path) -> Target {
        Target {
            path: path.to_owned(),
            ..Target::default()
        }
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
    fn a_file_appears_whole_with_its_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b");
        let mut put = Put::create(Target {
            mode: Some(0o4750),
            mtime_ns: Some(1_500_000_000),
            ..target(&path)
        })
        .unwrap();
        put.write(b"hello ").unwrap();
        put.write(b"world").unwrap();
        assert!(!path.exists());
        put.verify(11, sha(b"hello world")).unwrap();
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
    fn a_bad_transfer_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old").unwrap();
        let mut put = Put::create(target(&path)).unwrap();
        put.write(b"new").unwrap();
        assert!(matches!(
            put.verify(4, sha(b"new")),
            Err(Error::Length { sent: 4, got: 3, .. })
        ));
        drop(put);
        let mut put = Put::create(target(&path)).unwrap();
        put.write(b"new").unwrap();
        assert!(matches!(put.verify(3, sha(b"other")), Err(Error::Digest(_))));
        drop(put);
        drop(Put::create(target(&path)).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn a_link_is_followed_and_the_old_mode_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("real");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let mut put = Put::create(target(&dir.path().join("link"))).unwrap();
        put.verify(0, sha(b"")).unwrap();
        put.commit().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
    }

    #[test]
    fn errors_name_the_path_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let error = Put::create(target(dir.path())).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EISDIR));
        let missing = dir.path().join("no/such");
        let error = Put::create(target(&missing)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: cannot write it: no such file or directory", missing.display())
        );
    }
}
