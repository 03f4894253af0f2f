//! Messages of an agent that tell nothing new: an empty event, an acknowledgement of what was acknowledged. An agent sends few of them. One
//! that sends them without end would keep the bridge's only thread from its other clients, so its stream is ended. No I/O; `exec`, `files`
//! and `logs` count with it.

/// Most messages one after the other that tell nothing new.
const MOST_REPETITIONS: u32 = 1000;

/// Counts the messages of one stream.
#[derive(Debug, Default)]
pub(crate) struct News {
    repetitions: u32,
}

/// The agent repeats itself.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the agent's answer was refused: it repeats messages without new information; the program that answers is not a released podbridge-agent"
)]
pub(crate) struct Repetition;

impl News {
    /// Counts a message.
    pub(crate) fn note(&mut self, is_new: bool) -> Result<(), Repetition> {
        self.repetitions = if is_new { 0 } else { self.repetitions + 1 };
        if self.repetitions > MOST_REPETITIONS {
            return Err(Repetition);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_without_news_are_counted_and_only_while_they_follow_each_other() {
        let mut news = News::default();
        for _ in 0..3 {
            for _ in 0..MOST_REPETITIONS {
                assert_eq!(news.note(false), Ok(()));
            }
            assert_eq!(news.note(true), Ok(()));
        }
        let first = (0..).find(|_| news.note(false).is_err());
        assert_eq!(first, Some(MOST_REPETITIONS));
    }
}
