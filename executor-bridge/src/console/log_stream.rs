//! The stream of one log: from an agent of this pod, or from the bridge of another pod, which may end and start again.
//! `connection` opens one per log.

use std::path::PathBuf;
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use tokio::time::{Instant, sleep};

use crate::client::{self, Conversation, Message};
use crate::protocol::request::{self, Log, Operation, Request};
use crate::protocol::result::Outcome;
use crate::session::{LogEvent, LogFollower, LogId, LogSource, Position, Session};

/// Time that Zuul needs to start the other bridge again.
const RESTART_WAIT: Duration = Duration::from_secs(20);
/// Pause between two tries to connect to the other bridge.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Stream of one log.
#[derive(Debug)]
pub(super) enum LogStream {
    Own(LogFollower),
    Sibling(SiblingStream),
}

impl LogStream {
    /// Opens the log at a source.
    pub(super) fn open(source: &LogSource, id: &LogId, session: &Session) -> Self {
        match source {
            LogSource::Container(container) => Self::Own(session.follow_log(container.as_deref(), id, None)),
            LogSource::Sibling(socket) => Self::Sibling(SiblingStream {
                socket: socket.clone(),
                id: id.as_str().to_owned(),
                position: None,
                open: None,
            }),
        }
    }

    /// Returns the next event; `None` if the log must be searched again. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<LogEvent> {
        match self {
            Self::Own(follow) => Some(follow.next().await),
            Self::Sibling(sibling) => sibling.next().await,
        }
    }

    /// Takes back the last bytes of the data: they will come again.
    pub(super) fn give_back(&mut self, count: usize) {
        match self {
            Self::Own(follow) => follow.give_back(count),
            Self::Sibling(sibling) => {
                sibling.open = None;
                if let Some(position) = &mut sibling.position {
                    position.offset = position.offset.saturating_sub(count as u64);
                }
            }
        }
    }

    /// Closes the stream until the next event is wanted.
    pub(super) fn pause(&mut self) {
        match self {
            Self::Own(follow) => follow.pause(),
            Self::Sibling(sibling) => sibling.open = None,
        }
    }
}

/// Stream from the bridge of another pod.
#[derive(Debug)]
pub(super) struct SiblingStream {
    socket: PathBuf,
    id: String,
    /// Position of the next byte; `None` before the first.
    position: Option<Position>,
    open: Option<Conversation>,
}

impl SiblingStream {
    async fn next(&mut self) -> Option<LogEvent> {
        let mut reconnecting_since = None;
        loop {
            let Some(open) = &mut self.open else {
                self.open = self.open().await;
                let since = *reconnecting_since.get_or_insert_with(Instant::now);
                if self.open.is_none() {
                    // Without a position, no byte was read from this bridge, so another source may begin at the first byte.
                    if self.position.is_none() || since.elapsed() > RESTART_WAIT {
                        return None;
                    }
                    sleep(RECONNECT_PAUSE).await;
                }
                continue;
            };
            match open.incoming.next().await {
                Message::Stdout(data) => {
                    if let Some(position) = &mut self.position {
                        position.offset = position.offset.saturating_add(data.len() as u64);
                    }
                    return Some(LogEvent::Data(data));
                }
                Message::Stderr(json) => {
                    let position = parse_position(&json)?;
                    if self.position.as_ref() != Some(&position) {
                        self.position = Some(position.clone());
                        return Some(LogEvent::Begins(position));
                    }
                }
                Message::Started => {}
                Message::Result(Outcome::Lost(failure)) => return Some(LogEvent::Lost(failure.message)),
                Message::Result(_) => return None,
                Message::Lost(_) => self.open = None,
            }
        }
    }

    /// Sends the request to the other bridge; `None` if no bridge answers.
    async fn open(&self) -> Option<Conversation> {
        let position = self.position.as_ref().map(|position| request::Position {
            file: HEXLOWER.encode(&position.file),
            offset: position.offset,
        });
        let request = Request {
            container: None,
            operation: Operation::Log(Log {
                id: self.id.clone(),
                position,
            }),
        };
        client::begin_between_bridges(&self.socket, &request)
            .await
            .ok()
            .flatten()
    }
}

/// Decodes the position at which the other bridge begins to send a file. `None` if it is not valid.
fn parse_position(json: &[u8]) -> Option<Position> {
    let request::Position { file, offset } = serde_json::from_slice(json).ok()?;
    let file = HEXLOWER_PERMISSIVE.decode(file.as_bytes()).ok()?.into();
    Some(Position { file, offset })
}
