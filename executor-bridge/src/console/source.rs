//! Where one log comes from: an agent of this pod, or the bridge of another one.

use crate::client::{self, Conversation, Message};
use crate::protocol::request::{Log, Operation, Request};
use crate::protocol::result::Outcome;
use crate::session::{Follow, LogEvent, LogId, Session, Source};

#[derive(Debug)]
pub(super) enum Stream {
    Own(Follow),
    /// `None` when it has said its last.
    Sibling(Option<Conversation>),
}

impl Stream {
    pub(super) async fn open(source: &Source, id: &LogId, session: &Session) -> Self {
        match source {
            Source::Container(container) => Self::Own(session.follow(container.as_deref(), id)),
            Source::Sibling(socket) => {
                let request = Request {
                    container: None,
                    operation: Operation::Log(Log {
                        id: id.as_str().to_owned(),
                    }),
                };
                // One that died this moment has no logs.
                Self::Sibling(client::begin_existing(socket, &request).await.ok().flatten())
            }
        }
    }

    /// The next event; cancel-safe. `None`: look elsewhere.
    pub(super) async fn next(&mut self) -> Option<LogEvent> {
        let conversation = match self {
            Self::Own(follow) => return Some(follow.next().await),
            Self::Sibling(conversation) => conversation,
        };
        let Some(open) = conversation else { return None };
        loop {
            match open.incoming.next().await {
                Message::Stdout(data) => return Some(LogEvent::Data(data)),
                Message::Started | Message::Stderr(_) => {}
                Message::Result(Outcome::Lost(failure)) => {
                    *conversation = None;
                    return Some(LogEvent::Lost(failure.message));
                }
                Message::Result(_) | Message::Lost(_) => {
                    *conversation = None;
                    return None;
                }
            }
        }
    }
}
