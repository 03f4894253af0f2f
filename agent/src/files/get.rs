//! Reads one regular file from an offset to its end, with the digest of what was read.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256 as Hasher};

use super::{Attributes, Error, Sha256};

#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    attributes: Attributes,
    hasher: Hasher,
    length: u64,
}

impl Source {
    pub fn open(path: &Path, offset: u64) -> Result<Self, Error> {
        // Non-blocking: opening a FIFO must not hang before we know what it is.
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let mut file = open.map_err(Error::system("open it", path))?;
        let meta = file.metadata().map_err(Error::system("look at it", path))?;
        if meta.is_dir() {
            return Err(Error::system("read it", path)(std::io::Error::from_raw_os_error(
                libc::EISDIR,
            )));
        }
        if !meta.is_file() {
            return Err(Error::NotRegular(path.to_owned()));
        }
        file.seek(SeekFrom::Start(offset))
            .map_err(Error::system("read it", path))?;
        let attributes = Attributes::from(&meta);
        Ok(Self {
            path: path.to_owned(),
            file,
            attributes,
            hasher: Hasher::new(),
            length: 0,
        })
    }

    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// The next piece, at most `max` bytes; empty at the end.
    pub fn read(&mut self, max: usize) -> Result<Bytes, Error> {
        let mut buffer = Vec::with_capacity(max);
        let mut piece = (&mut self.file).take(max as u64);
        piece
            .read_to_end(&mut buffer)
            .map_err(Error::system("read it", &self.path))?;
        self.hasher.update(&buffer);
        self.length += buffer.len() as u64;
        Ok(buffer.into())
    }

    /// Length and digest of all that was read.
    pub fn finish(self) -> (u64, Sha256) {
        (self.length, self.hasher.finalize().into())
    }
}
