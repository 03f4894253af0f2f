//! Follows one log over as many links as it takes. The follower continues by offset, so that no byte comes twice and
//! none is missing. `console` and `requests` use it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::limits::MAX_FILE_IDENTITY;
use podbridge_proto::v1::follow_event::Event as WireEvent;
use podbridge_proto::v1::{FollowEvent, FollowRequest, LogPosition};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response, Status, Streaming};

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
    stream: Stream,
    news: News,
}

/// Stream of the log over one link. Each state is kept when a caller drops the wait for an event, so that the wait can be repeated.
#[derive(Debug)]
enum Stream {
    Closed,
    /// After a stream that the agent ended, or that was refused. `link`: the next stream need not wait longer than this link lasts.
    Pausing {
        until: Instant,
        link: Option<Arc<Connection>>,
    },
    Opening(
        Arc<Connection>,
        AbortOnDropHandle<Result<Response<Streaming<FollowEvent>>, Status>>,
    ),
    Open(Arc<Connection>, Streaming<FollowEvent>),
}

impl Stream {
    fn pausing(link: Option<Arc<Connection>>) -> Self {
        Self::Pausing {
            until: Instant::now() + REFUSED_PAUSE,
            link,
        }
    }
}

impl LogFollower {
    /// Makes a follower. `position`: where an earlier follower stopped.
    pub(crate) fn new(id: &LogId, position: Option<Position>, reachability: watch::Receiver<Reachability>) -> Self {
        Self {
            path: id.path(),
            reachability,
            position,
            stream: Stream::Closed,
            news: News::default(),
        }
    }

    /// Closes the stream until the next event is wanted. Data that a stalled reader does not take must not fill the
    /// link's flow-control window.
    pub(crate) fn pause(&mut self) {
        // A pause that the agent was given goes on.
        if !matches!(self.stream, Stream::Pausing { .. }) {
            self.stream = Stream::Closed;
        }
    }

    /// Closes the stream, and takes back the last bytes of its data: they will come again.
    pub(crate) fn give_back(&mut self, count: usize) {
        self.pause();
        if let Some(position) = &mut self.position {
            position.offset = position.offset.saturating_sub(count as u64);
        }
    }

    /// Returns the next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> LogEvent {
        loop {
            let message = match &mut self.stream {
                Stream::Open(connection, events) => tokio::select! {
                    message = events.message() => message.map_err(|status| (status, connection.clone())),
                    // A better connection exists. The old one must not be held.
                    () = connection.superseded.cancelled() => {
                        self.stream = Stream::Closed;
                        continue;
                    }
                },
                _ => match self.open().await {
                    Ok(()) => continue,
                    Err(event) => return event,
                },
            };
            let event = match message {
                Ok(Some(FollowEvent { event })) => {
                    let is_new = matches!(&event, Some(WireEvent::Data(data)) if !data.is_empty());
                    if let Err(repetition) = self.news.note(is_new) {
                        self.news = News::default();
                        return self.report_refusal(&repetition.to_string());
                    }
                    // An event of a newer agent is empty. This bridge has not asked for it.
                    let Some(event) = event else { continue };
                    event
                }
                // An agent does so only when it ends.
                Ok(None) => {
                    tracing::debug!(path = self.path, "the agent ended a log's stream");
                    self.stream = Stream::pausing(None);
                    continue;
                }
                Err((status, connection)) => match self.handle_error(connection, &status) {
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

    /// Does the next step towards an open stream.
    async fn open(&mut self) -> Result<(), LogEvent> {
        match &mut self.stream {
            Stream::Closed => {
                let connection = self.wait_for_connection().await?;
                let request = FollowRequest {
                    path: self.path.clone().into(),
                    position: self
                        .position
                        .clone()
                        .map(|Position { file, offset }| LogPosition { file, offset }),
                };
                let mut logs = connection.logs();
                let call = tokio::spawn(async move { logs.follow(request).await });
                self.stream = Stream::Opening(connection, AbortOnDropHandle::new(call));
            }
            Stream::Pausing { until, link } => {
                let link_ends = async {
                    match link {
                        Some(link) => drop(link.handle.wait_for_end().await),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = sleep_until(*until) => {}
                    () = link_ends => {}
                }
                self.stream = Stream::Closed;
            }
            Stream::Opening(connection, call) => {
                let connection = connection.clone();
                let answer = tokio::select! {
                    answer = call => answer.unwrap_or_else(|_| Err(Status::internal("the call was dropped"))),
                    () = connection.superseded.cancelled() => {
                        self.stream = Stream::Closed;
                        return Ok(());
                    }
                };
                match answer {
                    Ok(events) => self.stream = Stream::Open(connection, events.into_inner()),
                    Err(status) => return self.handle_error(connection, &status).map_or(Ok(()), Err),
                }
            }
            Stream::Open(..) => {}
        }
        Ok(())
    }

    async fn wait_for_connection(&mut self) -> Result<Arc<Connection>, LogEvent> {
        loop {
            match &*self.reachability.borrow_and_update() {
                Reachability::Up(connection) if connection.is_alive() && !connection.superseded.is_cancelled() => {
                    return Ok(connection.clone());
                }
                Reachability::Up(_) | Reachability::Connecting => {}
                Reachability::Lost(why) => return Err(LogEvent::Lost(why.clone())),
            }
            if self.reachability.changed().await.is_err() {
                return Err(LogEvent::Lost("the bridge ends".into()));
            }
        }
    }

    /// Handles an error of the stream; `None` if the link broke and the next link continues.
    fn handle_error(&mut self, connection: Arc<Connection>, status: &Status) -> Option<LogEvent> {
        if is_broken_link(status, &connection) {
            // The keep-alive connects again. If only this stream was broken off, the next one follows after the pause.
            self.stream = Stream::pausing(Some(connection));
            return None;
        }
        Some(self.report_refusal(&status::reason(status)))
    }

    /// Returns the event for an error that the agent reported. The next stream is opened after a pause.
    fn report_refusal(&mut self, reason: &str) -> LogEvent {
        tracing::debug!(path = self.path, reason, "the log cannot be followed");
        self.position = None;
        self.stream = Stream::pausing(None);
        LogEvent::Absent
    }
}
