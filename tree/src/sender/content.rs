//! Content of one file with its digest. A file is read up to the size that it had when it was opened, so a log may grow meanwhile. A file
//! that changes otherwise is read once more; if it changes again, it is reported and not copied.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use podbridge_files::sparse::{is_sparse, next_data};
use podbridge_proto::digest::{ContentDigest, ContentHasher};
use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{Digest, TreePart, TreePartEnd};
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, fstat, openat, seek};
use rustix::io::{Errno, read};

use super::{AnnouncedFile, Sender};
use crate::attributes::{file_type, mtime_ns};
use crate::digest::TransferHasher;
use crate::error::{Error, reason};
use crate::report::Event;
use crate::wire::MAX_DATA;

/// Result of reading a file to its end.
enum ReadOutcome {
    Done,
    Changed,
}

/// Error while a content is sent: of the file, which ends this content, or of the stream, which ends the copy.
enum Failure {
    File(Errno),
    Stream(Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure::File(errno)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Stream(error)
    }
}

impl Sender<'_> {
    /// Sends a requested content. An unreadable file is reported and its content marked as failed.
    pub(super) fn send_content(&mut self, file: &AnnouncedFile) -> Result<(), Error> {
        let mut restart = false;
        for _ in 0..2 {
            match self.try_send(file, restart) {
                Ok(ReadOutcome::Done) => return Ok(()),
                Ok(ReadOutcome::Changed) => restart = true,
                Err(Failure::Stream(error)) => return Err(error),
                Err(Failure::File(errno)) => {
                    let path = file.directory.path(&file.name);
                    match errno {
                        Errno::NOENT => self.report_vanished(path)?,
                        errno => self.problem(path, format!("cannot be read: {}", reason(errno)), false)?,
                    }
                    return self.send_failure(file);
                }
            }
        }
        let path = file.directory.path(&file.name);
        self.problem(
            path,
            "changed while it was read; copy it again when no process writes to it".into(),
            false,
        )?;
        self.send_failure(file)
    }

    /// Sends the end of a content that cannot be read.
    fn send_failure(&mut self, file: &AnnouncedFile) -> Result<(), Error> {
        let end = TreePartEnd {
            failed: true,
            ..TreePartEnd::default()
        };
        self.send_part(
            file,
            TreePart {
                end: Some(end),
                ..TreePart::default()
            },
        )
    }

    fn send_part(&mut self, file: &AnnouncedFile, part: TreePart) -> Result<(), Error> {
        (self.report)(Event::Content(part.data.len() as u64));
        let entry = file.entry;
        self.add(Record::Part(TreePart { entry, ..part }))
    }

    /// Opens a file and returns its attributes. `NOENT` if it is no longer a regular file.
    fn open_file(&mut self, file: &AnnouncedFile) -> Result<(OwnedFd, Stat), Errno> {
        let directory = self.directories.open(&file.directory)?;
        // If a FIFO replaced the file, opening it must not block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(directory, &*file.name, flags, Mode::empty())?;
        let stat = fstat(&opened)?;
        match file_type(stat.st_mode) {
            FileType::RegularFile => Ok((opened, stat)),
            _ => Err(Errno::NOENT),
        }
    }

    /// Sends a content once. `restart`: the receiver discards what was sent of this file before.
    fn try_send(&mut self, file: &AnnouncedFile, mut restart: bool) -> Result<ReadOutcome, Failure> {
        let (opened, before) = self.open_file(file)?;
        let mut hasher = TransferHasher::default();
        let mut size = 0;
        let mut kept = TreePart::default();
        let mut extents = ContentReader::new(&opened, &before);
        while let Some((data, hole)) = extents.next()? {
            if !kept.data.is_empty() || kept.hole > 0 {
                self.send_part(
                    file,
                    TreePart {
                        restart: std::mem::take(&mut restart),
                        ..std::mem::take(&mut kept)
                    },
                )?;
            }
            hasher.add(&data, hole);
            size += data.len() as u64 + hole;
            kept = TreePart {
                data,
                hole,
                ..TreePart::default()
            };
        }
        if changed(&before, &fstat(&opened)?) || size != before.st_size as u64 {
            return Ok(ReadOutcome::Changed);
        }
        let end = TreePartEnd {
            failed: false,
            size,
            digest: hasher.digest().to_vec().into(),
            mtime_ns: mtime_ns(&before),
        };
        self.send_part(
            file,
            TreePart {
                restart,
                end: Some(end),
                ..kept
            },
        )?;
        Ok(ReadOutcome::Done)
    }

    /// Returns the BLAKE3 digest of a file's bytes, with holes as zeros, for a comparison by digest.
    pub(super) fn content_digest(&mut self, file: &AnnouncedFile) -> Result<ContentDigest, Errno> {
        let (opened, stat) = self.open_file(file)?;
        let mut hasher = ContentHasher::new(Digest::Blake3);
        let mut extents = ContentReader::new(&opened, &stat);
        while let Some((data, hole)) = extents.next()? {
            hasher.update(&data);
            hasher.zeros(hole);
        }
        Ok(hasher.digest())
    }
}

/// Returns whether a file changed while it was read: its modification or change time differs, or it became shorter. Growth is no change:
/// a log grows, and the part up to the size `before` is complete.
fn changed(before: &Stat, after: &Stat) -> bool {
    let times = |stat: &Stat| (mtime_ns(stat), stat.st_ctime, stat.st_ctime_nsec);
    after.st_size <= before.st_size && (after.st_size, times(after)) != (before.st_size, times(before))
}

/// Reads a file in chunks of at most MAX_DATA bytes, each with the hole that follows it.
struct ContentReader<'a> {
    file: &'a OwnedFd,
    /// Offset of the next read.
    at: u64,
    /// Size of the file when it was opened, or the offset at which reading ended early.
    size: u64,
    /// End of the data at `at`.
    data_end: u64,
    sparse: bool,
}

impl<'a> ContentReader<'a> {
    fn new(file: &'a OwnedFd, stat: &Stat) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let sparse = is_sparse(stat);
        Self {
            file,
            at: 0,
            size,
            data_end: if sparse { 0 } else { size },
            sparse,
        }
    }

    /// Returns the next chunk and the length of the hole after it; `None` at the end.
    fn next(&mut self) -> Result<Option<(Bytes, u64)>, Errno> {
        if self.at >= self.size {
            return Ok(None);
        }
        let wanted = (self.data_end - self.at).min(MAX_DATA as u64) as usize;
        let mut data = Vec::with_capacity(wanted);
        while data.len() < wanted {
            match read(self.file, spare_capacity(&mut data)) {
                // The file became shorter; the comparison of its attributes will notice.
                Ok(0) => self.size = self.at + data.len() as u64,
                Ok(_) => continue,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            break;
        }
        self.at += data.len() as u64;
        let hole = if self.sparse && self.at >= self.data_end && self.at < self.size {
            self.skip()?
        } else {
            0
        };
        Ok(Some((data.into(), hole)))
    }

    /// Moves to the next data. Returns the length of the hole before it.
    fn skip(&mut self) -> Result<u64, Errno> {
        let begin = self.at;
        let data = next_data(self.file, begin, self.size)?;
        (self.at, self.data_end) = (data.start, data.end);
        if self.at < self.size {
            seek(self.file, SeekFrom::Start(self.at))?;
        }
        Ok(self.at - begin)
    }
}
