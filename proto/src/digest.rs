//! What both ends sum the content of a file up with. A hole counts as the zeros that it reads as.

use sha2::Digest as _;

use crate::v1;

/// As it travels.
pub type Sum = [u8; 32];

/// What holes are made of; large, because BLAKE3 takes many blocks at once.
pub static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

#[derive(Debug, Clone)]
pub enum Hasher {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    pub fn new(digest: v1::Digest) -> Self {
        match digest {
            v1::Digest::Sha256 => Self::Sha256(sha2::Sha256::new()),
            v1::Digest::Blake3 => Self::Blake3(Box::default()),
        }
    }

    /// As results name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Blake3(_) => "BLAKE3",
        }
    }

    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(data),
            Self::Blake3(hasher) => {
                hasher.update(data);
            }
        }
    }

    pub fn zeros(&mut self, mut count: u64) {
        while count > 0 {
            let part = count.min(ZEROS.len() as u64);
            self.update(&ZEROS[..part as usize]);
            count -= part;
        }
    }

    pub fn sum(&self) -> Sum {
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
    fn a_hole_is_its_zeros() {
        for digest in [v1::Digest::Sha256, v1::Digest::Blake3] {
            let mut sparse = Hasher::new(digest);
            sparse.update(b"a");
            sparse.zeros(300_000);
            sparse.update(b"b");
            let mut plain = Hasher::new(digest);
            plain.update(&[b"a", &[0; 300_000][..], b"b"].concat());
            assert_eq!(sparse.sum(), plain.sum());
        }
    }
}
