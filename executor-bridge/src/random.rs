//! Random bytes from the kernel, for ids, names of temporary files and jitter.

use rustix::rand::{GetRandomFlags, getrandom};

/// Returns `N` random bytes; `N` is at most 256.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Cannot fail for up to 256 bytes (getrandom(2)).
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    bytes
}
