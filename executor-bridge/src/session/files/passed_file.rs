//! File descriptors that clients pass. Only regular files and memfds are accepted, because a pipe or a device could
//! block the bridge. Files are read and written by offset, one chunk at a time on a blocking thread. `exec`, `put` and `get` use them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use podbridge_files::sparse::{is_sparse, next_data};
use podbridge_proto::limits::MAX_HOLE;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use tokio::task::spawn_blocking;

use crate::error::FailedKind;
use crate::protocol::result::Outcome;
use crate::session::client::bad_request;

/// A passed file, usable from several threads.
#[derive(Debug, Clone)]
pub(crate) struct LocalFile {
    file: Arc<File>,
    /// Size and modification time at the time when the file was passed.
    passed: FileState,
}

/// Attributes that change when a process writes to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileState {
    size: u64,
    mtime: (i64, i64),
}

impl FileState {
    fn new(file: impl AsFd) -> io::Result<Self> {
        let stat = fstat(file)?;
        Ok(Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        })
    }
}

/// A range of a file's content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Data, at least up to this offset.
    Data(u64),
    /// Length of a hole, at most MAX_HOLE.
    Hole(u64),
}

/// Access that the operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Takes the next descriptor of the request. `what` names its role in error messages.
pub(crate) fn take(
    descriptors: &mut VecDeque<OwnedFd>,
    what: &'static str,
    access: Access,
) -> Result<LocalFile, Outcome> {
    let Some(descriptor) = descriptors.pop_front() else {
        return Err(bad_request(format!("no descriptor was passed for {what}")));
    };
    check(&descriptor, access).map_err(|why| bad_request(format!("the descriptor for {what} {why}")))?;
    Ok(LocalFile {
        passed: FileState::new(&descriptor).map_err(|error| failed("examined", &error))?,
        file: Arc::new(File::from(descriptor)),
    })
}

/// Checks the type and the access mode; the error completes the sentence "the descriptor for … ".
fn check(descriptor: &OwnedFd, access: Access) -> Result<(), &'static str> {
    let stat = fstat(descriptor).map_err(|_| "cannot be examined")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("is not a regular file or memfd");
    }
    let flags = fcntl_getfl(descriptor).map_err(|_| "cannot be examined")?;
    if flags.contains(OFlags::PATH) {
        return Err("was opened with O_PATH");
    }
    let mode = flags & OFlags::RWMODE;
    match access {
        Access::Read if mode == OFlags::WRONLY => Err("is not open for reading"),
        Access::Write if mode == OFlags::RDONLY => Err("is not open for writing"),
        Access::Read | Access::Write => Ok(()),
    }
}

fn failed(what: &str, error: &io::Error) -> Outcome {
    Outcome::failed(
        FailedKind::LocalFile,
        format!("the local file cannot be {what}: {error}"),
    )
}

fn io_result<T>(result: Result<io::Result<T>, tokio::task::JoinError>, what: &str) -> Result<T, Outcome> {
    let result = result.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|error| failed(what, &error))
}

impl LocalFile {
    /// Returns the size at the time when the file was passed, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.passed.size
    }

    /// Returns the offset at which reading for a transfer ends: the size when the file was passed. A file without a size, as those of
    /// /proc, is read as long as there is data.
    pub(crate) fn end(&self) -> u64 {
        if self.passed.size == 0 {
            u64::MAX
        } else {
            self.passed.size
        }
    }

    /// Fails if the file has changed since it was passed: the content that was read may be a mixture. Growth is allowed: a log grows, and
    /// the part up to its size when it was passed is complete.
    pub(crate) fn check_unchanged(&self) -> Result<(), Outcome> {
        let now = FileState::new(&*self.file).map_err(|error| failed("examined", &error))?;
        if now.size <= self.passed.size && now != self.passed {
            return Err(Outcome::failed(
                FailedKind::LocalFile,
                "the local file changed while it was read; try again when no process writes to it",
            ));
        }
        Ok(())
    }

    /// Reads at most `limit` bytes. Fewer bytes, or none, mean the end of the file.
    pub(crate) async fn read_at(&self, offset: u64, limit: usize) -> Result<Bytes, Outcome> {
        let file = self.clone();
        let read = spawn_blocking(move || file.read_now(offset, limit)).await;
        read.unwrap_or_else(|error| Err(failed("read", &io::Error::other(error))))
    }

    /// Reads like `read_at`, but blocks.
    pub(crate) fn read_now(&self, offset: u64, limit: usize) -> Result<Bytes, Outcome> {
        let mut buffer = vec![0; limit];
        let mut filled = 0;
        while filled < limit {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &error)),
            }
        }
        buffer.truncate(filled);
        Ok(Bytes::from(buffer))
    }

    /// Returns the range at `offset`. Blocks. Moves the descriptor's file position, which the bridge does not use
    /// otherwise.
    pub(crate) fn extent(&self, offset: u64) -> Result<Extent, Outcome> {
        let stat = fstat(&*self.file).map_err(|errno| failed("examined", &errno.into()))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if !is_sparse(&stat) || offset >= size {
            return Ok(Extent::Data(u64::MAX));
        }
        // After an error, the rest is read as data.
        let data = next_data(&*self.file, offset, size).unwrap_or(offset..u64::MAX);
        Ok(if offset < data.start {
            Extent::Hole((data.start - offset).min(MAX_HOLE))
        } else {
            Extent::Data(data.end)
        })
    }

    /// Writes at an offset. Blocks.
    pub(crate) fn write_now(&self, offset: u64, data: &[u8]) -> Result<(), Outcome> {
        let written = self.file.write_all_at(data, offset);
        written.map_err(|error| failed("written", &error))
    }

    /// Sets the file's length. Blocks.
    pub(crate) fn truncate_now(&self, length: u64) -> Result<(), Outcome> {
        self.file.set_len(length).map_err(|error| failed("truncated", &error))
    }

    /// Writes at an offset, on a blocking thread.
    pub(crate) async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), Outcome> {
        let file = self.file.clone();
        io_result(
            spawn_blocking(move || file.write_all_at(&data, offset)).await,
            "written",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_accepted() {
        let refused =
            |descriptor: OwnedFd, access| take(&mut VecDeque::from([descriptor]), "stdin", access).unwrap_err();
        let (reader, writer) = std::io::pipe().unwrap();
        let message = |outcome| match outcome {
            Outcome::Failed { kind, message } => {
                assert_eq!(kind, FailedKind::BadRequest);
                message
            }
            other => panic!("{other:?}"),
        };
        assert!(message(refused(reader.into(), Access::Read)).contains("not a regular file"));
        assert!(message(refused(writer.into(), Access::Write)).contains("not a regular file"));
        let null = File::open("/dev/null").unwrap();
        assert!(message(refused(null.into(), Access::Read)).contains("not a regular file"));
        let file = File::open("/proc/self/exe").unwrap();
        assert!(message(refused(file.into(), Access::Write)).contains("writing"));
        assert!(take(&mut VecDeque::new(), "stdin", Access::Read).is_err());
    }

    #[test]
    fn holes_are_distinguished_from_data() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        let file = take(&mut VecDeque::from([OwnedFd::from(file)]), "x", Access::Read).unwrap();
        assert_eq!(file.extent(0), Ok(Extent::Hole(1 << 20)));
        assert_eq!(file.extent(1 << 20), Ok(Extent::Data((1 << 20) + 4096)));
        assert_eq!(file.extent((1 << 20) + 4096), Ok(Extent::Hole((2 << 20) - 4096)));
        assert_eq!(file.extent(3 << 20), Ok(Extent::Data(u64::MAX)));
    }

    #[test]
    fn a_file_that_changed_after_it_was_passed_is_noticed() {
        let mut descriptors = VecDeque::from([OwnedFd::from(tempfile::tempfile().unwrap())]);
        let file = take(&mut descriptors, "x", Access::Read).unwrap();
        file.check_unchanged().unwrap();
        file.file.write_all_at(b"more", 0).unwrap();
        // Like a log, the file may grow.
        file.check_unchanged().unwrap();
        let mut descriptors = VecDeque::from([OwnedFd::from(file.file.try_clone().unwrap())]);
        let file = take(&mut descriptors, "x", Access::Read).unwrap();
        file.file.set_len(3).unwrap();
        assert!(matches!(
            file.check_unchanged(),
            Err(Outcome::Failed { kind: FailedKind::LocalFile, message }) if message.contains("changed while it was read")
        ));
    }

    #[tokio::test]
    async fn bytes_are_read_and_written_by_offset() {
        let file = tempfile::tempfile().unwrap();
        let mut descriptors = VecDeque::from([OwnedFd::from(file)]);
        let file = take(&mut descriptors, "stdout", Access::Write).unwrap();
        file.write_at(3, "def".into()).await.unwrap();
        file.write_at(0, "abc".into()).await.unwrap();
        assert_eq!(file.read_at(1, 3).await.unwrap(), "bcd");
        assert_eq!(file.read_at(4, 100).await.unwrap(), "ef");
        file.truncate_now(2).unwrap();
        assert_eq!(file.read_at(2, 1).await.unwrap(), "");
    }
}
