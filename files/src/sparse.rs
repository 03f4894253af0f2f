//! Holes of sparse files, found with SEEK_DATA and SEEK_HOLE. A hole reads as zeros and occupies no space on the disk.
//!
//! Called by whatever reads a file to send it: the agent's `files`, the bridge's passed files, and the sender of the tree copy.

use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::Errno;

/// Unit of `st_blocks`, bytes (stat(2)); independent of the file system's block size.
const STAT_BLOCK: u64 = 512;

/// Returns whether a file occupies fewer blocks than its size needs, so that looking for holes is worth the system calls.
pub fn is_sparse(stat: &Stat) -> bool {
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    u64::try_from(stat.st_blocks)
        .unwrap_or_default()
        .saturating_mul(STAT_BLOCK)
        < size
}

/// Returns the first range of data at or after `offset`; everything between `offset` and its start is a hole.
///
/// The range ends at `size` at the latest, and it is empty (`size..size`) if only a hole follows. A file system that cannot report
/// holes yields `offset..size`. The call moves the position of the file descriptor. `offset` is less than `size`.
pub fn next_data(file: impl AsFd, offset: u64, size: u64) -> Result<Range<u64>, Errno> {
    let start = match seek(&file, SeekFrom::Data(offset)) {
        Ok(start) => start.min(size),
        // No data at or after the offset.
        Err(Errno::NXIO) => size,
        Err(Errno::INVAL | Errno::NOTSUP) => offset,
        Err(errno) => return Err(errno),
    };
    if start == size {
        return Ok(size..size);
    }
    let end = seek(&file, SeekFrom::Hole(start)).unwrap_or(size);
    // At least one byte, so that a caller makes progress even if the data was removed between the two calls.
    Ok(start..end.clamp(start + 1, size))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use rustix::fs::fstat;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn data_is_found_between_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * MIB).unwrap();
        file.write_all_at(&[1; 4096], MIB).unwrap();
        assert!(is_sparse(&fstat(&file).unwrap()));
        let data = MIB..MIB + 4096;
        assert_eq!(next_data(&file, 0, 3 * MIB), Ok(data.clone()));
        assert_eq!(next_data(&file, MIB, 3 * MIB), Ok(data.clone()));
        assert_eq!(next_data(&file, data.end, 3 * MIB), Ok(3 * MIB..3 * MIB));
    }

    #[test]
    fn a_range_of_data_ends_at_the_size_that_the_caller_names() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        assert!(!is_sparse(&fstat(&file).unwrap()));
        assert_eq!(next_data(&file, 100, 5000), Ok(100..5000));
        assert_eq!(next_data(&file, 100, 100_000), Ok(100..8192));
    }

    #[test]
    fn a_descriptor_that_cannot_seek_is_an_error() {
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(next_data(&reader, 0, 100), Err(Errno::SPIPE));
    }
}
