//! Content digest: the digest of a file's bytes that both sides compute, to verify a transfer or to compare two files.
//!
//! A hole counts as the zeros that it reads as, so that equal bytes have equal digests, however they are stored. The tree copy has a second
//! digest, which it calls transfer digest, where a hole counts as its length (`tree/src/digest.rs`). The two are never compared.

use sha2::Digest as _;

use crate::v1;

/// Value of a digest, as messages carry it.
pub type ContentDigest = [u8; 32];

/// Zeros to hash for a hole. The array is large because BLAKE3 hashes many blocks in parallel.
pub static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

/// Running computation of a content digest.
#[derive(Debug, Clone)]
pub enum ContentHasher {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl ContentHasher {
    /// Starts the digest of an empty content.
    pub fn new(digest: v1::Digest) -> Self {
        match digest {
            v1::Digest::Sha256 => Self::Sha256(sha2::Sha256::new()),
            v1::Digest::Blake3 => Self::Blake3(Box::default()),
        }
    }

    /// Returns the name of the algorithm for results and error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Blake3(_) => "BLAKE3",
        }
    }

    /// Adds the next bytes of the content.
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(data),
            Self::Blake3(hasher) => {
                hasher.update(data);
            }
        }
    }

    /// Adds a hole: `count` zeros.
    pub fn zeros(&mut self, mut count: u64) {
        while count > 0 {
            let part = count.min(ZEROS.len() as u64);
            self.update(&ZEROS[..part as usize]);
            count -= part;
        }
    }

    /// Returns the digest of everything added so far.
    pub fn digest(&self) -> ContentDigest {
        match self {
            Self::Sha256(hasher) => hasher.clone().finalize().into(),
            Self::Blake3(hasher) => hasher.finalize().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_counts_as_zeros() {
        for digest in [v1::Digest::Sha256, v1::Digest::Blake3] {
            let mut sparse = ContentHasher::new(digest);
            sparse.update(b"a");
            sparse.zeros(300_000);
            sparse.update(b"b");
            let mut plain = ContentHasher::new(digest);
            plain.update(&[b"a", &[0; 300_000][..], b"b"].concat());
            assert_eq!(sparse.digest(), plain.digest());
        }
    }
}
