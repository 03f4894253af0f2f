//! Digest that verifies the transfer of a file's content. Sender and receiver both compute it.
//!
//! A tree copy uses two BLAKE3 digests, which count holes differently:
//! - The *content digest* counts a hole as the zeros that it reads as (`podbridge_proto::digest`). Equal bytes have equal digests, however
//!   they are stored. `TreeEntry.digest` carries it, to compare two files.
//! - The *transfer digest* of this module counts a hole as its length. It covers exactly what was sent, and neither side hashes gigabytes
//!   of zeros. `TreePartEnd.digest` carries it, to verify a transfer.

#[derive(Debug, Default)]
pub(crate) struct TransferHasher(blake3::Hasher);

impl TransferHasher {
    /// Adds the data of one part and the length of the hole that follows it; 0: no hole.
    pub(crate) fn add(&mut self, data: &[u8], hole: u64) {
        self.0.update(data);
        if hole > 0 {
            self.0.update(&hole.to_le_bytes());
        }
    }

    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
