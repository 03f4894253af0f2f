//! Random bytes from the kernel, for ids and jitter.

use rustix::rand::{GetRandomFlags, getrandom};

pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel gives so few bytes at once, always.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    bytes
}
