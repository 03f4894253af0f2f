//! One log of a log: an open regular file and how much of it was read. The descriptor keeps the inode, so that nothing
//! written is lost when the name goes away and no other file can be mistaken for this one. Blocking calls.

use std::fs::{File, Metadata, OpenOptions, symlink_metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use super::inotify::Watch;
use super::{FileId, Position};

#[derive(Debug)]
pub(super) struct OpenLog {
    /// Missing if inotify cannot be had for it. Declared first: the watch goes before the inode does.
    pub(super) watch: Option<Watch>,
    pub(super) file: File,
    offset: u64,
}

/// What comes next in a file.
#[derive(Debug)]
pub(super) enum ReadOutcome {
    Data(Bytes),
    /// It is shorter than what was read: it begins anew.
    Truncated,
    End,
}

impl OpenLog {
    /// `None` if there is no regular file that may be read.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let Some(meta) = unless_absent(symlink_metadata(path))? else {
            return Ok(None);
        };
        // Looked at first, as opening a FIFO or a device may already do something to it.
        if !meta.is_file() {
            return Ok(None);
        }
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        let Some(file) = unless_absent(open)? else {
            return Ok(None);
        };
        let log = Self {
            watch: None,
            offset: 0,
            file,
        };
        Ok(log.file.metadata()?.is_file().then_some(log))
    }

    /// Goes on where an earlier follower was cut off, if this is the same file and as long as that.
    pub(super) fn resume(&mut self, from: &Position) -> io::Result<()> {
        let meta = self.file.metadata()?;
        if identity(&meta) == from.file && meta.len() >= from.offset {
            self.offset = from.offset;
        }
        Ok(())
    }

    pub(super) fn position(&self) -> io::Result<Position> {
        Ok(Position {
            file: identity(&self.file.metadata()?),
            offset: self.offset,
        })
    }

    /// The next piece, in a buffer of its size: a line that was appended takes no more.
    pub(super) fn read(&mut self, max: usize) -> io::Result<ReadOutcome> {
        let size = self.file.metadata()?.len();
        if size < self.offset {
            self.offset = 0;
            return Ok(ReadOutcome::Truncated);
        }
        let unread = usize::try_from(size - self.offset).map_or(max, |unread| unread.min(max));
        let mut piece = vec![0; unread];
        let got = self.file.read_at(&mut piece, self.offset)?;
        if got == 0 {
            return Ok(ReadOutcome::End);
        }
        piece.truncate(got);
        self.offset += got as u64;
        Ok(ReadOutcome::Data(piece.into()))
    }

    /// Is this still the file of that name? Both are looked at now: on overlayfs an inode may get another number.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let own = self.file.metadata()?;
        let there = unless_absent(symlink_metadata(path))?;
        Ok(there.is_some_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())))
    }
}

/// What cannot be reached counts as absent: a file that only its owner may read may become readable later, like one that
/// is not there yet.
fn unless_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES | libc::ENXIO) => Ok(None),
            _ => Err(error),
        },
    }
}

/// An inode number is given to the next file as soon as the last has gone; the time of birth tells them apart where the
/// file system records it.
fn identity(meta: &Metadata) -> FileId {
    let birth = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let birth = birth.map_or(0, |at| at.as_nanos());
    let mut id = Vec::with_capacity(32);
    id.extend_from_slice(&meta.dev().to_be_bytes());
    id.extend_from_slice(&meta.ino().to_be_bytes());
    id.extend_from_slice(&birth.to_be_bytes());
    FileId(id.into())
}
