//! What the bridge refused or delayed because a limit was reached, as lines of the log that an operator reads: each reason at most once a
//! minute, with the number of times. Whatever keeps a limit notes it here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines with the same reason.
const INTERVAL: Duration = Duration::from_secs(60);

/// Reasons so far. They are constants, so that their number is small.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<HashMap<&'static str, Noted>>);

#[derive(Debug)]
struct Noted {
    last_line: Instant,
    since_then: u64,
}

impl Refusals {
    pub(crate) fn note(&self, reason: &'static str) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match noted.get_mut(reason) {
            Some(before) if now.duration_since(before.last_line) < INTERVAL => before.since_then += 1,
            Some(before) => {
                let times = before.since_then + 1;
                *before = Noted {
                    last_line: now,
                    since_then: 0,
                };
                tracing::warn!(reason, times, "a limit was reached");
            }
            None => {
                noted.insert(
                    reason,
                    Noted {
                        last_line: now,
                        since_then: 0,
                    },
                );
                tracing::warn!(reason, times = 1, "a limit was reached");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_comes_again_at_once_is_only_counted() {
        let refusals = Refusals::default();
        for _ in 0..3 {
            refusals.note("one");
        }
        refusals.note("two");
        let noted = refusals.0.lock().unwrap();
        assert_eq!((noted["one"].since_then, noted["two"].since_then), (2, 0));
    }
}
