//! Reads one regular file from an offset to its end, as data and holes, and computes the digest of what was read. Blocking calls;
//! `rpc::files` makes them.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
use podbridge_files::mounts::is_kernel_file_system;
use podbridge_files::sparse::{is_sparse, next_data};
use podbridge_proto::digest::{ContentDigest, ContentHasher};
use podbridge_proto::limits::MAX_HOLE;
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::{Errno, pread};

use super::hole_digest::HoleDigest;
use super::resolve::ResolvedPath;
use super::{Attributes, Error, Location};

/// An open regular file and how much of it was read.
#[derive(Debug)]
pub struct FileReader {
    path: PathBuf,
    file: File,
    attributes: Attributes,
    /// Size at the time of opening; the file must be unchanged when reading reaches it. `None`: read until the kernel reports the end.
    end: Option<u64>,
    /// Offset of the next byte to read.
    offset: u64,
    /// Range of data at or after `offset`; holes surround it. Without a search for holes it is the whole file.
    data: Range<u64>,
    pub(super) digest: HoleDigest,
    /// Bytes read, holes counted.
    length: u64,
}

/// The next part of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    Data(Bytes),
    /// Number of zeros that take no space on the disk.
    Hole(u64),
    End,
}

impl FileReader {
    /// Opens a file; `sparse` allows holes among the chunks. Below a root, symbolic links are refused.
    pub fn open(location: &Location, offset: u64, hasher: ContentHasher, sparse: bool) -> Result<Self, Error> {
        // NONBLOCK: opening a FIFO must not hang before its type is known.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (opened, path) = match &location.root {
            None => (openat(CWD, &location.path, flags, Mode::empty()), location.path.clone()),
            Some(root) => {
                let ResolvedPath { directory, name, path } = ResolvedPath::below_root(root, &location.path)?;
                match openat(&directory, &name, flags | OFlags::NOFOLLOW, Mode::empty()) {
                    Err(Errno::LOOP) => return Err(Error::SymbolicLink(path)),
                    opened => (opened, path),
                }
            }
        };
        let file = File::from(opened.map_err(|errno| Error::system("open it", &path)(errno.into()))?);
        let stat = fstat(&file).map_err(|errno| Error::system("read its attributes", &path)(errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Error::system("read it", &path)(Errno::ISDIR.into())),
            _ => return Err(Error::NotRegular(path)),
        }
        let attributes = Attributes::from(&stat);
        Ok(Self {
            end: has_reliable_size(&file, &stat).then_some(attributes.size),
            data: 0..if sparse && is_sparse(&stat) { 0 } else { attributes.size },
            path,
            file,
            attributes,
            offset,
            digest: HoleDigest::new(hasher),
            length: 0,
        })
    }

    /// Returns the attributes at the time of opening.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Returns the next chunk; data has at most `max` bytes. The zeros of a long hole are left for `hole_digest::hash_zeros`.
    pub fn read(&mut self, max: usize) -> Result<Chunk, Error> {
        let mut wanted = max as u64;
        if let Some(end) = self.end {
            if self.offset >= end {
                return self.check_unchanged().map(|()| Chunk::End);
            }
            if self.offset >= self.data.end {
                // After an error, the rest is read as data.
                self.data = next_data(&self.file, self.offset, end).unwrap_or(self.offset..end);
            }
            if self.offset < self.data.start {
                let count = (self.data.start - self.offset).min(MAX_HOLE);
                self.digest.hole(count);
                self.offset += count;
                self.length += count;
                return Ok(Chunk::Hole(count));
            }
            wanted = wanted.min(self.data.end - self.offset);
        }
        let data = self.data(wanted as usize)?;
        if data.is_empty() {
            return match self.end {
                None => Ok(Chunk::End),
                Some(_) => Err(Error::Changed(self.path.clone())),
            };
        }
        self.digest.update(&data);
        self.offset += data.len() as u64;
        self.length += data.len() as u64;
        Ok(Chunk::Data(data.into()))
    }

    /// Reads `wanted` bytes at the offset, fewer only at the end of the file.
    fn data(&self, wanted: usize) -> Result<Vec<u8>, Error> {
        let mut buffer = Vec::with_capacity(wanted);
        while buffer.len() < wanted {
            let offset = self.offset + buffer.len() as u64;
            match pread(&self.file, spare_capacity(&mut buffer), offset) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::system("read it", &self.path)(errno.into())),
            }
        }
        // The capacity may be a little more than what was asked for.
        buffer.truncate(wanted);
        Ok(buffer)
    }

    /// Fails if the file changed while it was read. Growth is allowed: a log grows, and the part up to `end` is complete.
    fn check_unchanged(&self) -> Result<(), Error> {
        let stat = fstat(&self.file).map_err(|errno| Error::system("read its attributes", &self.path)(errno.into()))?;
        let (now, then) = (Attributes::from(&stat), self.attributes);
        if now.size > then.size || (now.size, now.mtime_ns) == (then.size, then.mtime_ns) {
            Ok(())
        } else {
            Err(Error::Changed(self.path.clone()))
        }
    }

    /// Returns length and digest of what was read.
    pub fn finish(mut self) -> (u64, ContentDigest) {
        (self.length, self.digest.digest())
    }
}

/// Returns whether the size in `stat` says where the content ends.
fn has_reliable_size(file: &File, stat: &Stat) -> bool {
    stat.st_size > 0 && !is_kernel_file_system(file)
}
