//! The part of a stream that has moved from memory to a file: the file is a ring, so it never grows beyond its capacity
//! whatever passes through it. Which offsets it holds is known to `stream`. Blocking.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::store::Store;

/// Bytes of one stream that a file may hold.
pub(super) const RING_CAPACITY: u64 = 32 << 20;

#[derive(Debug, Default)]
pub(super) struct Ring {
    file: Option<Arc<File>>,
    /// Of the store's disk.
    reserved: u64,
}

/// Why nothing more goes into a file now.
#[derive(Debug)]
pub(super) enum FileRefusal {
    /// The files of all execs have reached their limit; that may pass.
    Limit,
    /// Told to the reader.
    Broken(String),
}

impl Ring {
    /// The file, with `bytes` more of the store's disk to write to.
    pub(super) fn prepare(&mut self, store: &Store, bytes: u64) -> Result<Arc<File>, FileRefusal> {
        let more = bytes.min(RING_CAPACITY - self.reserved);
        if !store.reserve_disk(more) {
            return Err(FileRefusal::Limit);
        }
        self.reserved += more;
        if self.file.is_none() {
            let file = store
                .new_file()
                .map_err(|error| FileRefusal::Broken(error.to_string()))?;
            self.file = Some(Arc::new(file));
        }
        Ok(self.file.clone().expect("made above"))
    }

    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.file.clone()
    }

    /// Forgets all of it; readers that are at it keep the file until they have read.
    pub(super) fn clear(&mut self, store: &Store) {
        self.file = None;
        store.release_disk(std::mem::take(&mut self.reserved));
    }
}

/// Writes `data`, whose first byte has this offset in its stream.
pub(super) fn write(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    let (head, tail) = data.split_at(data.len().min((RING_CAPACITY - offset % RING_CAPACITY) as usize));
    file.write_all_at(head, offset % RING_CAPACITY)?;
    file.write_all_at(tail, 0)
}

/// Reads at most `length` bytes from this offset of the stream on, all of which the ring holds.
pub(super) fn read(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; length.min((RING_CAPACITY - offset % RING_CAPACITY) as usize)];
    file.read_exact_at(&mut data, offset % RING_CAPACITY)?;
    Ok(data)
}
