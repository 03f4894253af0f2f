//! Writing into an existing file instead of replacing it: the only possibility for a mount point (/etc/hosts of a container), for a file
//! in a directory that this process may not change, and for another user's file in a directory with the sticky bit.
//!
//! The content is complete and verified in another file before the first byte of the target changes. The agent's `files`, downloads of
//! `podbridge cp` and the tree copy use it, after a rename or the creation of a temporary file beside the target has failed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags, fstat, ftruncate, memfd_create, openat, unlinkat};
use rustix::io::{Errno, pread, pwrite};

use crate::temporary;

/// Bytes per read and write.
const BLOCK_SIZE: usize = 128 << 10;
/// Directories for content that cannot be written beside its target. The last one is in memory.
const SPOOL_DIRECTORIES: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Returns whether writing in place may still be possible after this error of a rename over the target, or of the creation of a file
/// beside it: the target is a mount point, or its directory is another user's or on a read-only mount.
pub fn may_help(errno: Errno) -> bool {
    matches!(errno, Errno::BUSY | Errno::PERM | Errno::ACCESS | Errno::ROFS)
}

/// Opens an existing regular file for writing and changes nothing yet. `LOOP`: it is a symbolic link; `INVAL`: another type.
pub fn open(directory: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    // If a FIFO has this name, opening it must not block.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

/// Opens a new file without a name, for content until it is verified: in the first directory that this process may write to, else in
/// memory.
pub fn spool() -> Result<OwnedFd, Errno> {
    for directory in SPOOL_DIRECTORIES {
        let name = temporary::name(temporary::random_number());
        let path = [directory.as_bytes(), b"/", &name].concat();
        if let Ok(file) = temporary::create(CWD, &path, Mode::RUSR | Mode::WUSR) {
            unlinkat(CWD, &path[..], AtFlags::empty())?;
            return Ok(file);
        }
    }
    memfd_create("podbridge", MemfdFlags::CLOEXEC)
}

/// Makes the content of `to` equal to the first `length` bytes of `from`. A reader never sees an empty file, but may see parts of both.
/// After an error, `to` may have parts of both, too.
pub fn overwrite(from: impl AsFd, to: impl AsFd, length: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; BLOCK_SIZE];
    let mut at = 0;
    while at < length {
        let wanted = usize::try_from(length - at).map_or(BLOCK_SIZE, |left| left.min(BLOCK_SIZE));
        let count = match pread(&from, &mut buffer[..wanted], at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        let mut written = 0;
        while written < count {
            match pwrite(&to, &buffer[written..count], at + written as u64) {
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        at += count as u64;
    }
    ftruncate(&to, length)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_gets_the_content_of_the_spool_and_stays_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        let path = dir.path().join("f");
        for (old, new) in [(0, 0), (0, 300_000), (300_000, 5), (10, 10)] {
            fs::write(&path, vec![b'o'; old]).unwrap();
            let inode = fs::metadata(&path).unwrap().ino();
            let spool = File::from(spool().unwrap());
            spool.write_all_at(&vec![b'n'; new], 0).unwrap();
            overwrite(&spool, open(&directory, "f").unwrap(), new as u64).unwrap();
            assert_eq!(fs::read(&path).unwrap(), vec![b'n'; new], "{old} to {new}");
            assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        }
    }

    #[test]
    fn only_an_existing_regular_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        fs::write(dir.path().join("f"), "old").unwrap();
        symlink("f", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        for (name, errno) in [("missing", Errno::NOENT), ("link", Errno::LOOP), ("d", Errno::ISDIR)] {
            assert_eq!(open(&directory, name).unwrap_err(), errno, "{name}");
        }
        drop(open(&directory, "f").unwrap());
        assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"old");
    }
}
