//! Follows one log over as many links as it takes. The follower continues by offset, so that no byte comes twice and
//! none is missing. `console` and `requests` use it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::limits::MAX_FILE_IDENTITY;
use podbridge_proto::v1::follow_event::Event as WireEvent;
use podbridge_proto::v1::{FollowEvent, FollowRequest, LogPosition};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use crate::connections::{Connection, Reachability, is_broken_link, status};
use crate::session::logs::log_id::LogId;
use crate::session::news::News;

/// Pause after an error that would come again at once.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Time after which a reader that takes nothing counts as stalled. The follower of a stalled reader closes its stream.
pub(crate) const READER_STALL: Duration = Duration::from_secs(1);

/// A position in one file. A log that is deleted and written again is another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// Identity of the file, opaque; only compared.
    pub(crate) file: Bytes,
    pub(crate) offset: u64,
}

/// A change of a log.
#[derive(Debug)]
pub(crate) enum LogEvent {
    /// The next data belong to another file, or start again at this position.
    Begins(Position),
    Data(Bytes),
    /// The file does not exist, or no longer exists.
    Absent,
    /// The agent is lost: which pod and why, in one line.
    Lost(String),
}

/// Follower of one log.
#[derive(Debug)]
pub(crate) struct LogFollower {
    path: String,
    reachability: watch::Receiver<Reachability>,
    /// Position of the next byte; `None` before the first.
    position: Option<Position>,
    open: Option<(Arc<Connection>, Streaming<FollowEvent>)>,
    news: News,
    /// Time before which no stream is opened, after one that the agent ended, or that was refused.
    not_before: Option<Instant>,
}

impl LogFollower {
    /// Makes a follower. `position`: where an earlier follower stopped.
    pub(crate) fn new(id: &LogId, position: Option<Position>, reachability: watch::Receiver<Reachability>) -> Self {
        Self {
            path: id.path(),
            reachability,
            position,
            open: None,
            news: News::default(),
            not_before: None,
        }
    }

    /// Closes the stream until the next event is wanted. Data that a stalled reader does not take must not fill the
    /// link's flow-control window.
    pub(crate) fn pause(&mut self) {
        self.open = None;
    }

    /// Closes the stream, and takes back the last bytes of its data: they will come again.
    pub(crate) fn give_back(&mut self, count: usize) {
        self.open = None;
        if let Some(position) = &mut self.position {
            position.offset = position.offset.saturating_sub(count as u64);
        }
    }

    /// Returns the next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> LogEvent {
        loop {
            let message = match &mut self.open {
                Some((connection, events)) => tokio::select! {
                    message = events.message() => message,
                    // A better connection exists. The old one must not be held.
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
                Ok(Some(FollowEvent { event })) => {
                    let is_new = matches!(&event, Some(WireEvent::Data(data)) if !data.is_empty());
                    if let Err(repetition) = self.news.note(is_new) {
                        self.open = None;
                        self.news = News::default();
                        return self.report_refusal(&repetition.to_string());
                    }
                    // An event of a newer agent is empty. This bridge has not asked for it.
                    let Some(event) = event else { continue };
                    event
                }
                // An agent does so only when it ends.
                Ok(None) => {
                    self.open = None;
                    tracing::debug!(path = self.path, "the agent ended a log's stream");
                    self.not_before = Some(Instant::now() + REFUSED_PAUSE);
                    continue;
                }
                Err(status) => match self.handle_error(&status) {
                    Some(event) => return event,
                    None => continue,
                },
            };
            match event {
                WireEvent::Absent(_) => {
                    self.position = None;
                    return LogEvent::Absent;
                }
                WireEvent::Begins(LogPosition { file, .. }) if file.len() > MAX_FILE_IDENTITY => {
                    self.open = None;
                    return self.report_refusal("the identity of the file is too long");
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
                        position.offset = position.offset.saturating_add(data.len() as u64);
                    }
                    return LogEvent::Data(data);
                }
            }
        }
    }

    /// Waits for a connection and opens the stream on it.
    async fn open(&mut self) -> Result<(), LogEvent> {
        if let Some(not_before) = self.not_before {
            sleep_until(not_before).await;
            self.not_before = None;
        }
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
                // The keep-alive connects again. If only this stream was refused, the next try follows after the pause.
                let _ = timeout(REFUSED_PAUSE, connection.handle.wait_for_end()).await;
                Ok(())
            }
            Err(status) => Err(self.report_refusal(&status::reason(&status))),
        }
    }

    /// Handles an error of the stream; `None` if the link broke and the next link continues.
    fn handle_error(&mut self, status: &Status) -> Option<LogEvent> {
        let (connection, _) = self.open.take()?;
        if is_broken_link(status, &connection) {
            if connection.is_alive() {
                // Only this stream was broken off.
                self.not_before = Some(Instant::now() + REFUSED_PAUSE);
            }
            return None;
        }
        Some(self.report_refusal(&status::reason(status)))
    }

    /// Returns the event for an error that the agent reported. The next stream is opened after a pause. The pause is a time and not a sleep,
    /// because callers drop the wait for an event and begin another one.
    fn report_refusal(&mut self, reason: &str) -> LogEvent {
        tracing::debug!(path = self.path, reason, "the log cannot be followed");
        self.position = None;
        self.not_before = Some(Instant::now() + REFUSED_PAUSE);
        LogEvent::Absent
    }
}
