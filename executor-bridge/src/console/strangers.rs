//! Connections to the console that have not found a log. Every process of this host can make them, so their number, their lines and their
//! questions to the agents have limits. Zuul's own connections are among them until the task of their log begins. `server` owns them,
//! `connection` enters each connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::TryLockError;
use tokio_util::sync::CancellationToken;

use crate::session::{LogId, Session};

/// Most of them at once. Zuul has few: one for each task that has not begun.
const MAX_STRANGERS: usize = 1024;
/// Least time between two lines of all of them together.
const LINE_TIME: Duration = Duration::from_micros(500);
/// With more than these, the ends of commands cause no lines.
const MAX_TOLD_OF_ENDS: usize = 64;

/// The connections without a log.
#[derive(Debug)]
pub(super) struct Strangers {
    most: usize,
    present: Mutex<Present>,
    /// Held while an agent is asked whether it has a log that no list names.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Present {
    /// By number, oldest first.
    strangers: BTreeMap<u64, (Option<LogId>, CancellationToken)>,
    entered: u64,
}

impl Strangers {
    /// Makes an empty set. `connections`: the most connections of the console.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            most: MAX_STRANGERS.min(connections / 2),
            present: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection. `id`: the log that it waits for. If there are too many, the oldest one is told to end whose log neither a command
    /// nor a list knows: Zuul asks for a log soon before the task of the log begins.
    pub(super) fn enter(self: &Arc<Self>, session: &Session, id: Option<&LogId>) -> Stranger {
        let is_known = |id: &LogId| session.logs().is_some_and(|logs| logs.knows(id));
        let (stranger, has_ended_another) = self.enter_among(id, is_known);
        if has_ended_another {
            session
                .refusals()
                .note("a console connection was closed because too many wait for logs that are not known");
        }
        stranger
    }

    fn enter_among(self: &Arc<Self>, id: Option<&LogId>, is_known: impl Fn(&LogId) -> bool) -> (Stranger, bool) {
        let ended = CancellationToken::new();
        let mut present = self.lock();
        let number = present.entered;
        present.entered += 1;
        let mut oldest = None;
        if present.strangers.len() >= self.most {
            let mut strangers = present.strangers.iter();
            oldest = strangers
                .find(|(_, (id, _))| !id.as_ref().is_some_and(&is_known))
                .map(|(number, _)| *number);
        }
        let removed = oldest.and_then(|number| present.strangers.remove(&number));
        if let Some((_, ended)) = &removed {
            ended.cancel();
        }
        present.strangers.insert(number, (id.cloned(), ended.clone()));
        drop(present);
        let stranger = Stranger {
            strangers: self.clone(),
            number,
            ended,
        };
        (stranger, removed.is_some())
    }

    /// Returns the least time between two lines of one connection. All together send so many lines as the bridge can afford.
    pub(super) fn least_interval(&self) -> Duration {
        LINE_TIME * u32::try_from(self.lock().strangers.len()).unwrap_or(u32::MAX)
    }

    /// Tells whether each connection gets a line when a command ends.
    pub(super) fn are_told_of_ends(&self) -> bool {
        self.lock().strangers.len() <= MAX_TOLD_OF_ENDS
    }

    /// Takes the turn to ask an agent; an error if another connection has it.
    pub(super) fn try_take_turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, TryLockError> {
        self.turn.try_lock()
    }
}

/// Guard of one connection without a log.
#[derive(Debug)]
pub(super) struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    ended: CancellationToken,
}

impl Stranger {
    /// Waits until this connection has to end.
    pub(super) async fn wait_for_end(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.lock().strangers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_whose_log_nobody_knows_has_to_end() {
        let strangers = Arc::new(Strangers::new(8));
        let id = |number: usize| LogId::new(&number.to_string()).unwrap();
        let is_known = |known: &LogId| *known == id(0);
        let enter = |number| strangers.enter_among(Some(&id(number)), is_known);
        let first: Vec<_> = (0..4).map(enter).collect();
        assert!(first.iter().all(|(_, has_ended_another)| !has_ended_another));
        let (silent, has_ended_another) = strangers.enter_among(None, is_known);
        assert!(has_ended_another);
        let ended = || {
            first
                .iter()
                .map(|(stranger, _)| stranger.ended.is_cancelled())
                .collect::<Vec<_>>()
        };
        assert_eq!(ended(), [false, true, false, false]);
        let newer: Vec<_> = (4..7).map(enter).collect();
        assert_eq!(ended(), [false, true, true, true]);
        assert!(silent.ended.is_cancelled());
        assert_eq!(strangers.least_interval(), 4 * LINE_TIME);
        drop((first, silent, newer));
        assert_eq!(strangers.least_interval(), Duration::ZERO);
    }
}
