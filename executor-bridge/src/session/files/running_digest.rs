//! The digest of a file's content as far as it was seen, whatever part of it has to be sent or fetched again.

use podbridge_proto::digest::{Hasher, Sum};
use podbridge_proto::v1::{Digest, GetTrailer};

use crate::connections::Connection;
use crate::protocol::result::Done;
use crate::protocol::target::hex;

/// A run of bytes; a hole is zeros that were not sent.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    Data(&'a [u8]),
    Hole(u64),
}

#[derive(Debug)]
pub(crate) struct Sums {
    digest: Digest,
    whole: Hasher,
    length: u64,
    /// What came since the last cut, and the length before it; `None`: there was none.
    part: Option<(Hasher, u64)>,
}

/// The best that the agent knows.
pub(crate) fn digest(connection: &Connection) -> Digest {
    match connection.can(podbridge_proto::limits::FILES_V2) {
        true => Digest::Blake3,
        false => Digest::Sha256,
    }
}

impl Sums {
    pub(crate) fn new(digest: Digest) -> Self {
        Self {
            digest,
            whole: Hasher::new(digest),
            length: 0,
            part: None,
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn sum(&self) -> Sum {
        self.whole.sum()
    }

    pub(crate) fn add(&mut self, piece: &Piece<'_>) {
        let hashers = [Some(&mut self.whole), self.part.as_mut().map(|(hasher, _)| hasher)];
        for hasher in hashers.into_iter().flatten() {
            match *piece {
                Piece::Data(data) => hasher.update(data),
                Piece::Hole(count) => hasher.zeros(count),
            }
        }
        self.length += piece.length();
    }

    /// Adds what is new of a piece that begins at `offset`; none is left out.
    pub(crate) fn cover(&mut self, offset: u64, piece: &Piece<'_>) {
        let seen = self.length.saturating_sub(offset).min(piece.length());
        match *piece {
            Piece::Data(data) => self.add(&Piece::Data(&data[seen as usize..])),
            Piece::Hole(count) => self.add(&Piece::Hole(count - seen)),
        }
    }

    /// What comes now is summed up by the agent without what came before.
    pub(crate) fn begin_part(&mut self) {
        self.part = Some((Hasher::new(self.digest), self.length));
    }

    /// Whether the agent sent what came since the last cut.
    pub(crate) fn agree(&self, trailer: &GetTrailer) -> bool {
        let (hasher, before) = self
            .part
            .as_ref()
            .map_or((&self.whole, 0), |(hasher, before)| (hasher, *before));
        trailer.length == self.length - before && trailer.digest[..] == hasher.sum()[..]
    }

    pub(crate) fn done(&self) -> Done {
        let sum = Some(hex(&self.sum()));
        let (sha256, blake3) = match self.digest {
            Digest::Sha256 => (sum, None),
            Digest::Blake3 => (None, sum),
        };
        Done {
            length: Some(self.length),
            sha256,
            blake3,
            ..Done::default()
        }
    }
}

impl Piece<'_> {
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
    fn what_is_sent_again_counts_once_and_a_part_for_itself() {
        let mut whole = Sums::new(Digest::Blake3);
        whole.add(&Piece::Data(b"abc\0\0\0def"));
        let mut sums = Sums::new(Digest::Blake3);
        sums.cover(0, &Piece::Data(b"abc"));
        sums.cover(3, &Piece::Hole(2));
        sums.cover(1, &Piece::Data(b"bc"));
        sums.cover(3, &Piece::Hole(3));
        sums.begin_part();
        sums.cover(6, &Piece::Data(b"def"));
        assert_eq!((sums.length(), sums.sum()), (9, whole.sum()));
        let mut part = Hasher::new(Digest::Blake3);
        part.update(b"def");
        let trailer = |length, hasher: &Hasher| GetTrailer {
            length,
            digest: hasher.sum().to_vec().into(),
        };
        assert!(sums.agree(&trailer(3, &part)));
        assert!(!sums.agree(&trailer(9, &part)));
        assert!(whole.agree(&trailer(9, &whole.whole)));
    }
}
