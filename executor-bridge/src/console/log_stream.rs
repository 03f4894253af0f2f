//! Where one log comes from: an agent of this pod, or the bridge of another one, which may die and come back.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::{self, Conversation, Message};
use crate::protocol::request::{self, Log, Operation, Request};
use crate::protocol::result::Outcome;
use crate::protocol::target::{hex, unhex};
use crate::session::{Follow, LogEvent, LogId, Position, Session, Source};

/// Until Zuul has started a sibling again.
const RETURN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) enum Stream {
    Own(Follow),
    Sibling(Sibling),
}

impl Stream {
    pub(super) fn open(source: &Source, id: &LogId, session: &Session) -> Self {
        match source {
            Source::Container(container) => Self::Own(session.follow(container.as_deref(), id, None)),
            Source::Sibling(socket) => Self::Sibling(Sibling {
                socket: socket.clone(),
                id: id.as_str().to_owned(),
                position: None,
                open: None,
            }),
        }
    }

    /// The next event; cancel-safe. `None`: look elsewhere.
    pub(super) async fn next(&mut self) -> Option<LogEvent> {
        match self {
            Self::Own(follow) => Some(follow.next().await),
            Self::Sibling(sibling) => sibling.next().await,
        }
    }

    /// Holds nothing until the next event is asked for.
    pub(super) fn pause(&mut self) {
        match self {
            Self::Own(follow) => follow.pause(),
            Self::Sibling(sibling) => sibling.open = None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Sibling {
    socket: PathBuf,
    id: String,
    /// Where the next byte belongs; `None` before the first.
    position: Option<Position>,
    open: Option<Conversation>,
}

impl Sibling {
    async fn next(&mut self) -> Option<LogEvent> {
        let mut sought = None;
        loop {
            let Some(open) = &mut self.open else {
                self.open = self.begin().await;
                let since = *sought.get_or_insert_with(Instant::now);
                if self.open.is_none() {
                    // Where nothing was read, nothing can be read twice elsewhere.
                    if self.position.is_none() || since.elapsed() > RETURN {
                        return None;
                    }
                    sleep(PAUSE).await;
                }
                continue;
            };
            match open.incoming.next().await {
                Message::Stdout(data) => {
                    if let Some(position) = &mut self.position {
                        position.offset += data.len() as u64;
                    }
                    return Some(LogEvent::Data(data));
                }
                Message::Stderr(json) => {
                    let position = parse(&json)?;
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

    async fn begin(&self) -> Option<Conversation> {
        let position = self.position.as_ref().map(|position| request::Position {
            file: hex(&position.file),
            offset: position.offset,
        });
        let request = Request {
            container: None,
            operation: Operation::Log(Log {
                id: self.id.clone(),
                position,
            }),
        };
        client::begin_existing(&self.socket, &request).await.ok().flatten()
    }
}

fn parse(json: &[u8]) -> Option<Position> {
    let request::Position { file, offset } = serde_json::from_slice(json).ok()?;
    let file = unhex(&file)?.into();
    Some(Position { file, offset })
}
