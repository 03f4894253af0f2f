//! The part of a stream that has moved from memory to a file. The file is a ring: it never grows beyond its capacity, however much
//! passes through it. `stream` knows the offsets that it holds. Reads and writes block, so `Spool` calls them on a blocking thread.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::store::Store;

/// Most bytes of one stream that a file holds.
pub(super) const RING_CAPACITY: u64 = 32 << 20;

#[derive(Debug, Default)]
pub(super) struct Ring {
    file: Option<Arc<File>>,
    /// Bytes reserved in the store's disk limit.
    reserved: u64,
}

/// Reason why the file takes no more now.
#[derive(Debug)]
pub(super) enum FileRefusal {
    /// The files of all execs have reached their limit; that may change.
    Limit,
    /// The file cannot be made or written; the reader gets this reason.
    Broken(String),
}

impl Ring {
    /// Reserves `bytes` more of the disk limit, and returns the file to write to.
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

    /// Drops the file and its reservation. A read that is under way keeps the file open until it is done.
    pub(super) fn clear(&mut self, store: &Store) {
        self.file = None;
        store.release_disk(std::mem::take(&mut self.reserved));
    }
}

/// Writes `data`, whose first byte has this offset in the stream.
pub(super) fn write(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    let (head, tail) = data.split_at(data.len().min((RING_CAPACITY - offset % RING_CAPACITY) as usize));
    file.write_all_at(head, offset % RING_CAPACITY)?;
    file.write_all_at(tail, 0)
}

/// Reads at most `length` bytes from this offset of the stream on. The ring must hold all of them.
pub(super) fn read(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; length.min((RING_CAPACITY - offset % RING_CAPACITY) as usize)];
    file.read_exact_at(&mut data, offset % RING_CAPACITY)?;
    Ok(data)
}
