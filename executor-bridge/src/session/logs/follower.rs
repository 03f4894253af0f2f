//! One log, followed over as many links as it takes: by offset, so that no byte comes twice and none is missing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::v1::follow_event::Event as WireEvent;
use podbridge_proto::v1::{FollowEvent, FollowRequest, LogPosition};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};

use crate::connections::{Connection, Reachability, is_broken_link, status};
use crate::session::logs::log_id::LogId;

/// After an error that would come again at once.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// A reader that takes nothing for so long holds nothing of the link until it does.
pub(crate) const READER_STALL: Duration = Duration::from_secs(1);

/// A place in one life of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// Only ever compared.
    pub(crate) file: Bytes,
    pub(crate) offset: u64,
}

/// What happens to a log.
#[derive(Debug)]
pub(crate) enum LogEvent {
    /// What follows is another file, or the same from its beginning.
    Begins(Position),
    Data(Bytes),
    /// There is no such file, or no longer.
    Absent,
    /// Nobody can say any more: which pod, and why, as one line.
    Lost(String),
}

#[derive(Debug)]
pub(crate) struct LogFollower {
    path: String,
    reachability: watch::Receiver<Reachability>,
    /// Where the next byte belongs; `None` before the first.
    position: Option<Position>,
    open: Option<(Arc<Connection>, Streaming<FollowEvent>)>,
}

impl LogFollower {
    /// `position`: where it was followed to before.
    pub(crate) fn new(id: &LogId, position: Option<Position>, reachability: watch::Receiver<Reachability>) -> Self {
        Self {
            path: id.path(),
            reachability,
            position,
            open: None,
        }
    }

    /// Holds nothing of the link until the next event is asked for: what nobody takes must not fill its windows.
    pub(crate) fn pause(&mut self) {
        self.open = None;
    }

    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> LogEvent {
        loop {
            let message = match &mut self.open {
                Some((connection, events)) => tokio::select! {
                    message = events.message() => message,
                    // So that nothing keeps the old one.
                    () = connection.superseded.cancelled() => {
                        self.open = None;
                        continue;
                    }
                },
                None => match self.open().await {
                    Ok(()) => continue,
                    Err(event) => return event,
                },
            };
            let event = match message {
                Ok(Some(FollowEvent { event: Some(event) })) => event,
                // An event of a newer agent, and nothing that was asked for.
                Ok(Some(FollowEvent { event: None })) => continue,
                Ok(None) => {
                    self.open = None;
                    continue;
                }
                Err(status) => match self.handle_error(&status).await {
                    Some(event) => return event,
                    None => continue,
                },
            };
            match event {
                WireEvent::Absent(_) => {
                    self.position = None;
                    return LogEvent::Absent;
                }
                WireEvent::Begins(LogPosition { file, offset }) => {
                    let position = Position { file, offset };
                    if self.position.as_ref() != Some(&position) {
                        self.position = Some(position.clone());
                        return LogEvent::Begins(position);
                    }
                }
                WireEvent::Data(data) => {
                    if let Some(position) = &mut self.position {
                        position.offset += data.len() as u64;
                    }
                    return LogEvent::Data(data);
                }
            }
        }
    }

    /// Opens the call on a link that lives, as soon as there is one.
    async fn open(&mut self) -> Result<(), LogEvent> {
        let connection = loop {
            match &*self.reachability.borrow_and_update() {
                Reachability::Up(connection) if connection.is_alive() && !connection.superseded.is_cancelled() => {
                    break connection.clone();
                }
                Reachability::Up(_) | Reachability::Connecting => {}
                Reachability::Lost(why) => return Err(LogEvent::Lost(why.clone())),
            }
            if self.reachability.changed().await.is_err() {
                return Err(LogEvent::Lost("the bridge ends".into()));
            }
        };
        let request = FollowRequest {
            path: self.path.clone().into(),
            position: self
                .position
                .clone()
                .map(|Position { file, offset }| LogPosition { file, offset }),
        };
        match connection.logs().follow(request).await {
            Ok(events) => {
                self.open = Some((connection, events.into_inner()));
                Ok(())
            }
            Err(status) if is_broken_link(&status, &connection) => {
                // Its keeper seeks another one; a call that only this end refused is made again.
                let _ = timeout(REFUSED_PAUSE, connection.handle.wait_for_end()).await;
                Ok(())
            }
            Err(status) => Err(self.report_refusal(&status).await),
        }
    }

    async fn handle_error(&mut self, status: &Status) -> Option<LogEvent> {
        let (connection, _) = self.open.take()?;
        if is_broken_link(status, &connection) {
            return None;
        }
        Some(self.report_refusal(status).await)
    }

    /// The agent's own answer.
    async fn report_refusal(&mut self, status: &Status) -> LogEvent {
        tracing::warn!(
            path = self.path,
            reason = status::reason(status),
            "log cannot be followed"
        );
        self.position = None;
        sleep(REFUSED_PAUSE).await;
        LogEvent::Absent
    }
}
