//! Digest of a file's content that is sent or received in parts, some of them more than once. `put` and `get` use it.
//! No I/O.

use data_encoding::HEXLOWER;
use podbridge_proto::digest::{ContentDigest, ContentHasher};
use podbridge_proto::limits::FILES_V2;
use podbridge_proto::v1::{Digest, GetTrailer};

use crate::connections::Connection;
use crate::protocol::result::Done;

/// A range of content. A hole counts as zeros.
#[derive(Debug)]
pub(crate) enum DigestInput<'a> {
    Data(&'a [u8]),
    Hole(u64),
}

/// Digest and length of the content so far.
#[derive(Debug)]
pub(crate) struct RunningDigest {
    kind: Digest,
    whole: ContentHasher,
    length: u64,
    /// Digest of the content since the last link break, and the length before it; `None` if no link broke.
    part: Option<(ContentHasher, u64)>,
}

/// Chooses the best digest that the agent knows.
pub(crate) fn choose_kind(connection: &Connection) -> Digest {
    if connection.can(FILES_V2) {
        Digest::Blake3
    } else {
        Digest::Sha256
    }
}

impl RunningDigest {
    pub(crate) fn new(kind: Digest) -> Self {
        Self {
            kind,
            whole: ContentHasher::new(kind),
            length: 0,
            part: None,
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn value(&self) -> ContentDigest {
        self.whole.digest()
    }

    pub(crate) fn add(&mut self, input: &DigestInput<'_>) {
        let hashers = [Some(&mut self.whole), self.part.as_mut().map(|(hasher, _)| hasher)];
        for hasher in hashers.into_iter().flatten() {
            match *input {
                DigestInput::Data(data) => hasher.update(data),
                DigestInput::Hole(count) => hasher.zeros(count),
            }
        }
        self.length += input.length();
    }

    /// Adds the part of `input` that is new. `input` starts at `offset`, which is at most the length so far.
    pub(crate) fn add_unseen(&mut self, offset: u64, input: &DigestInput<'_>) {
        let seen = self.length.saturating_sub(offset).min(input.length());
        match *input {
            DigestInput::Data(data) => self.add(&DigestInput::Data(&data[seen as usize..])),
            DigestInput::Hole(count) => self.add(&DigestInput::Hole(count - seen)),
        }
    }

    /// Starts a second digest: after a link break the agent hashes only what it sends from then on.
    pub(crate) fn start_part(&mut self) {
        self.part = Some((ContentHasher::new(self.kind), self.length));
    }

    /// Returns whether the content since the last link break is what the agent sent.
    pub(crate) fn matches(&self, trailer: &GetTrailer) -> bool {
        let (hasher, before) = self
            .part
            .as_ref()
            .map_or((&self.whole, 0), |(hasher, before)| (hasher, *before));
        trailer.length == self.length - before && trailer.digest[..] == hasher.digest()[..]
    }

    /// Returns length and digest as a result.
    pub(crate) fn to_done(&self) -> Done {
        let value = Some(HEXLOWER.encode(&self.value()));
        let (sha256, blake3) = match self.kind {
            Digest::Sha256 => (value, None),
            Digest::Blake3 => (None, value),
        };
        Done {
            length: Some(self.length),
            sha256,
            blake3,
            ..Done::default()
        }
    }
}

impl DigestInput<'_> {
    fn length(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Hole(count) => *count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_comes_again_is_hashed_once_and_a_part_has_its_own_digest() {
        let mut whole = RunningDigest::new(Digest::Blake3);
        whole.add(&DigestInput::Data(b"abc\0\0\0def"));
        let mut digest = RunningDigest::new(Digest::Blake3);
        digest.add_unseen(0, &DigestInput::Data(b"abc"));
        digest.add_unseen(3, &DigestInput::Hole(2));
        digest.add_unseen(1, &DigestInput::Data(b"bc"));
        digest.add_unseen(3, &DigestInput::Hole(3));
        digest.start_part();
        digest.add_unseen(6, &DigestInput::Data(b"def"));
        assert_eq!((digest.length(), digest.value()), (9, whole.value()));
        let mut part = ContentHasher::new(Digest::Blake3);
        part.update(b"def");
        let trailer = |length, hasher: &ContentHasher| GetTrailer {
            length,
            digest: hasher.digest().to_vec().into(),
        };
        assert!(digest.matches(&trailer(3, &part)));
        assert!(!digest.matches(&trailer(9, &part)));
        assert!(whole.matches(&trailer(9, &whole.whole)));
    }
}
