//! Reads one regular file from an offset to its end, data and holes, with the digest of what was read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use podbridge_proto::digest::{Hasher, Sum};
use podbridge_proto::limits::MAX_HOLE;
use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, Stat, fstat, fstatfs, openat, seek};
use rustix::io::Errno;

use super::resolve::ResolvedPath;
use super::{Attributes, Error, Location};

/// File systems whose files are made as they are read: what they say of size and time means nothing. proc, sysfs, cgroup,
/// cgroup2, debugfs, tracefs, securityfs.
const VIRTUAL_FILE_SYSTEMS: [i64; 7] = [
    0x9fa0,
    0x6265_6572,
    0x27_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
];
/// st_blocks counts these.
const STAT_BLOCK_SIZE: u64 = 512;

#[derive(Debug)]
pub struct FileReader {
    path: PathBuf,
    file: File,
    attributes: Attributes,
    /// Where it ends, and then it must be unchanged; `None`: where reading ends.
    end: Option<u64>,
    /// Worth looking for holes.
    sparse: bool,
    offset: u64,
    /// The data that begins before `offset` goes on to here.
    data_until: u64,
    hasher: Hasher,
    length: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    Data(Bytes),
    /// So many zeros that take no room.
    Hole(u64),
    End,
}

impl FileReader {
    /// `sparse`: holes may be told as such.
    pub fn open(location: &Location, offset: u64, hasher: Hasher, sparse: bool) -> Result<Self, Error> {
        // Non-blocking: opening a FIFO must not hang before we know what it is.
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
        let stat = fstat(&file).map_err(|errno| Error::system("look at it", &path)(errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Error::system("read it", &path)(Errno::ISDIR.into())),
            _ => return Err(Error::NotRegular(path)),
        }
        let attributes = Attributes::from(&stat);
        Ok(Self {
            end: has_reliable_size(&file, &stat).then_some(attributes.size),
            sparse: sparse && (stat.st_blocks as u64).saturating_mul(STAT_BLOCK_SIZE) < attributes.size,
            path,
            file,
            attributes,
            offset,
            data_until: 0,
            hasher,
            length: 0,
        })
    }

    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// The next piece, of data at most `max` bytes.
    pub fn read(&mut self, max: usize) -> Result<Chunk, Error> {
        let mut wanted = max as u64;
        if let Some(end) = self.end {
            if self.offset >= end {
                return self.check_unchanged().map(|()| Chunk::End);
            }
            if self.sparse && self.offset >= self.data_until {
                match self.hole_until(end) {
                    0 => {}
                    count => {
                        self.hasher.zeros(count);
                        self.offset += count;
                        self.length += count;
                        return Ok(Chunk::Hole(count));
                    }
                }
            }
            let until = if self.sparse { self.data_until.min(end) } else { end };
            wanted = wanted.min(until - self.offset);
        }
        let data = self.data(wanted as usize)?;
        if data.is_empty() {
            return match self.end {
                None => Ok(Chunk::End),
                Some(_) => Err(Error::Changed(self.path.clone())),
            };
        }
        self.hasher.update(&data);
        self.offset += data.len() as u64;
        self.length += data.len() as u64;
        Ok(Chunk::Data(data.into()))
    }

    fn data(&self, wanted: usize) -> Result<Vec<u8>, Error> {
        let mut buffer = vec![0; wanted];
        let mut filled = 0;
        while filled < wanted {
            match self.file.read_at(&mut buffer[filled..], self.offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::system("read it", &self.path)(error)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }

    /// The length of the hole at the offset, at most MAX_HOLE; if there is none, how far the data goes is known then.
    fn hole_until(&mut self, end: u64) -> u64 {
        let data = match seek(&self.file, SeekFrom::Data(self.offset)) {
            Ok(data) => data.min(end),
            // Nothing but a hole.
            Err(Errno::NXIO) => end,
            Err(_) => self.offset,
        };
        if data == self.offset {
            self.data_until = seek(&self.file, SeekFrom::Hole(self.offset))
                .unwrap_or(end)
                .max(self.offset + 1);
        }
        (data - self.offset).min(MAX_HOLE)
    }

    /// A file that has grown is a log that somebody writes: what there was of it is whole.
    fn check_unchanged(&self) -> Result<(), Error> {
        let stat = fstat(&self.file).map_err(|errno| Error::system("look at it", &self.path)(errno.into()))?;
        let (now, then) = (Attributes::from(&stat), self.attributes);
        match now.size > then.size || (now.size, now.mtime_ns) == (then.size, then.mtime_ns) {
            true => Ok(()),
            false => Err(Error::Changed(self.path.clone())),
        }
    }

    /// Length and digest of all that was read.
    pub fn finish(self) -> (u64, Sum) {
        (self.length, self.hasher.sum())
    }
}

fn has_reliable_size(file: &File, stat: &Stat) -> bool {
    let made_up = || fstatfs(file).is_ok_and(|system| VIRTUAL_FILE_SYSTEMS.contains(&system.f_type));
    stat.st_size > 0 && !made_up()
}
