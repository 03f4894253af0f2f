//! One open file of a log, and how much of it was read. The file descriptor keeps the inode alive: no written byte is lost when the
//! name disappears, and no other file can be mistaken for this one. Blocking calls; `follower` makes them.

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
    /// `None` if inotify cannot watch the file. Declared before `file`, because the watch must be dropped before the inode can vanish.
    pub(super) watch: Option<Watch>,
    pub(super) file: File,
    /// Offset of the next byte to read.
    offset: u64,
}

/// Result of one read.
#[derive(Debug)]
pub(super) enum ReadOutcome {
    Data(Bytes),
    /// The file is shorter than what was read; reading starts again at offset 0.
    Truncated,
    End,
}

impl OpenLog {
    /// Opens the file; `None` if the path names no regular file that the agent may read.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let Some(meta) = unless_absent(symlink_metadata(path))? else {
            return Ok(None);
        };
        // Checked before the open, because opening a FIFO or a device can already have an effect.
        if !is_log(&meta) {
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
        Ok(is_log(&log.file.metadata()?).then_some(log))
    }

    /// Continues at the position of an earlier follower, if this is the same file and long enough.
    pub(super) fn resume(&mut self, from: &Position) -> io::Result<()> {
        let meta = self.file.metadata()?;
        if identity(&meta) == from.file && meta.len() >= from.offset {
            self.offset = from.offset;
        }
        Ok(())
    }

    /// Returns the position of the next byte to read.
    pub(super) fn position(&self) -> io::Result<Position> {
        Ok(Position {
            file: identity(&self.file.metadata()?),
            offset: self.offset,
        })
    }

    /// Reads the next chunk, at most `max` bytes. The buffer has the size of the unread data, so that a short line takes little memory.
    pub(super) fn read(&mut self, max: usize) -> io::Result<ReadOutcome> {
        let size = self.file.metadata()?.len();
        if size < self.offset {
            self.offset = 0;
            return Ok(ReadOutcome::Truncated);
        }
        let unread = usize::try_from(size - self.offset).map_or(max, |unread| unread.min(max));
        let mut chunk = vec![0; unread];
        let count = self.file.read_at(&mut chunk, self.offset)?;
        if count == 0 {
            return Ok(ReadOutcome::End);
        }
        chunk.truncate(count);
        self.offset += count as u64;
        Ok(ReadOutcome::Data(chunk.into()))
    }

    /// Returns whether the path still names this file. Reads both inode numbers now: on overlayfs the number of an open file can change.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let own = self.file.metadata()?;
        let named = unless_absent(symlink_metadata(path))?;
        Ok(named.is_some_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())))
    }
}

/// Tells whether this is a regular file with no other name. Another user may have made a hard link to a file that only the agent may read.
fn is_log(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.nlink() <= 1
}

/// Returns `None` for a file that is absent or out of reach. A file without permission counts as absent, because it may become readable
/// later.
fn unless_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES | libc::ENXIO) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Returns the identity of a file. File systems reuse inode numbers at once; the time of birth tells the files apart where the file
/// system records it.
fn identity(meta: &Metadata) -> FileId {
    let birth = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let birth = birth.map_or(0, |at| at.as_nanos());
    let mut id = Vec::with_capacity(32);
    id.extend_from_slice(&meta.dev().to_be_bytes());
    id.extend_from_slice(&meta.ino().to_be_bytes());
    id.extend_from_slice(&birth.to_be_bytes());
    FileId(id.into())
}
