//! Digest of a file's content whose long holes are hashed afterwards, in short steps on a few threads. A hole takes a few bytes of a
//! message and stands for as much as a gigabyte of zeros: hundreds of them, hashed at once, would leave no processor to a command.
//! `get` and `put` compute it, `read_ahead` and `content_writer` run the steps.

use podbridge_proto::digest::{ContentDigest, ContentHasher};
use tokio::sync::Semaphore;

use super::{Error, run_blocking};

/// Threads that hash zeros at once, of all transfers.
static TURNS: Semaphore = Semaphore::const_new(2);
/// Longest hole that is hashed when it is added, in bytes.
const SHORT_HOLE: u64 = 1 << 20;
/// Zeros that are hashed in one step, in bytes: one or two milliseconds.
const STEP_ZEROS: u64 = 4 << 20;

/// Digest of the content so far.
#[derive(Debug)]
pub(super) struct HoleDigest {
    hasher: ContentHasher,
    /// Zeros at the end of the content that are not hashed yet.
    zeros: u64,
}

impl HoleDigest {
    pub(super) fn new(hasher: ContentHasher) -> Self {
        Self { hasher, zeros: 0 }
    }

    /// Adds the next bytes of the content.
    pub(super) fn update(&mut self, data: &[u8]) {
        self.hash_zeros(u64::MAX);
        self.hasher.update(data);
    }

    /// Adds `count` zeros.
    pub(super) fn hole(&mut self, count: u64) {
        self.zeros += count;
        if self.zeros <= SHORT_HOLE {
            self.hash_zeros(SHORT_HOLE);
        }
    }

    /// Returns whether zeros are left to hash. `update` and `digest` hash them at once.
    pub(super) fn has_zeros(&self) -> bool {
        self.zeros > 0
    }

    /// Returns the digest of everything added so far.
    pub(super) fn digest(&mut self) -> ContentDigest {
        self.hash_zeros(u64::MAX);
        self.hasher.digest()
    }

    fn hash_zeros(&mut self, most: u64) {
        let count = self.zeros.min(most);
        self.hasher.zeros(count);
        self.zeros -= count;
    }
}

/// Hashes the zeros of a file's digest until none is left or `is_wanted` returns `false`.
pub(super) async fn hash_zeros<T: Send + 'static>(
    mut file: T,
    digest: impl Fn(&mut T) -> &mut HoleDigest + Copy + Send + 'static,
    is_wanted: impl Fn() -> bool,
) -> Result<T, Error> {
    while digest(&mut file).has_zeros() && is_wanted() {
        let turn = TURNS.acquire().await.expect("the semaphore is never closed");
        let step = run_blocking(move || {
            // Given back by the thread: a transfer that is dropped does not stop the step.
            let _turn = turn;
            digest(&mut file).hash_zeros(STEP_ZEROS);
            Ok(file)
        });
        file = step.await?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use podbridge_proto::v1::Digest;

    use super::*;

    /// Data, or a number of zeros.
    enum ContentPart {
        Data(&'static [u8]),
        Hole(u64),
    }

    #[tokio::test]
    async fn the_digest_is_that_of_the_bytes_whether_the_steps_run_or_not() {
        use ContentPart::{Data, Hole};
        let contents: [&[ContentPart]; 4] = [
            &[Data(b"a"), Hole(300), Data(b"b")],
            &[Hole(SHORT_HOLE), Hole(1), Data(b"b")],
            &[Data(b"a"), Hole(2 * STEP_ZEROS + 7), Hole(3), Data(b"b")],
            &[Data(b"a"), Hole(STEP_ZEROS)],
        ];
        for content in contents {
            let mut plain = ContentHasher::new(Digest::Blake3);
            let mut stepped = HoleDigest::new(ContentHasher::new(Digest::Blake3));
            let mut at_once = HoleDigest::new(ContentHasher::new(Digest::Blake3));
            for part in content {
                match *part {
                    Data(data) => {
                        plain.update(data);
                        at_once.update(data);
                        stepped.update(data);
                    }
                    Hole(count) => {
                        plain.zeros(count);
                        at_once.hole(count);
                        stepped.hole(count);
                        assert_eq!(stepped.has_zeros(), stepped.zeros > SHORT_HOLE);
                        stepped = hash_zeros(stepped, |digest| digest, || true).await.unwrap();
                        assert!(!stepped.has_zeros());
                    }
                }
            }
            assert_eq!([stepped.digest(), at_once.digest()], [plain.digest(); 2]);
        }
    }

    #[tokio::test]
    async fn zeros_that_nobody_wants_any_more_are_not_hashed() {
        let mut digest = HoleDigest::new(ContentHasher::new(Digest::Blake3));
        digest.hole(1 << 40);
        let digest = hash_zeros(digest, |digest| digest, || false).await.unwrap();
        assert!(digest.has_zeros());
    }
}
