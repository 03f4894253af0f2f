//! The logs of this pod by their ids: for the console, and for the bridges of a build's other pods, which look here for
//! what a delegated task writes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch::Receiver;
use tokio::time::timeout;

use crate::connections::{Reachability, status};
use crate::error::{FailedKind, Failure, Kind};
use crate::protocol::frame::Frame;
use crate::protocol::request;
use crate::protocol::result::{Ended, Outcome};
use crate::protocol::target::{hex, unhex};
use crate::session::client::{Client, wait_for_cancel};
use crate::session::logs::follower::{LogEvent, LogFollower, Position, READER_STALL};
use crate::session::logs::index::LogIndex;
use crate::session::logs::log_id::LogId;
use crate::session::logs::watch;

/// For an agent's answer that somebody waits for, who is told meanwhile that there is nothing.
const EXISTS_TIMEOUT: Duration = Duration::from_secs(2);
/// For a link on which a log can be deleted.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Until a bridge that was started again knows its logs.
const RESTART_WAIT: Duration = Duration::from_secs(20);

/// Only a bridge in Zuul's slot knows logs.
pub(crate) fn unsupported() -> Outcome {
    Outcome::failed(
        FailedKind::Unsupported,
        "this bridge is not one of a Zuul build: it knows no logs",
    )
}

/// Whether there is such a log this moment; `None` if nobody can say.
pub(crate) async fn exists(reachability: &Receiver<Reachability>, id: &LogId) -> Option<bool> {
    let connection = match &*reachability.borrow() {
        Reachability::Up(connection) => connection.clone(),
        Reachability::Connecting | Reachability::Lost(_) => return None,
    };
    timeout(EXISTS_TIMEOUT, watch::log_exists(&connection, id))
        .await
        .ok()?
        .ok()
}

/// Deletes a log wherever it is in this pod, and waits for a link to do so.
pub(crate) async fn remove(containers: Vec<Receiver<Reachability>>, id: &LogId) {
    let removals = containers.into_iter().map(|mut reachability| {
        timeout(REMOVE_TIMEOUT, async move {
            let reached = reachability
                .wait_for(|reachability| !matches!(reachability, Reachability::Connecting))
                .await;
            let Ok(Reachability::Up(connection)) = reached.map(|reachability| reachability.clone()) else {
                return;
            };
            if let Err(status) = watch::remove_log(&connection, id).await {
                tracing::info!(reason = status::reason(&status), "a log was not deleted");
            }
        })
    });
    futures_util::future::join_all(removals).await;
}

/// The ids of all logs of this pod, one JSON array per line, again whenever they change; until the client has gone.
pub(crate) async fn list(logs: &LogIndex, mut client: Client) -> Outcome {
    let mut changes = logs.changes();
    loop {
        changes.borrow_and_update();
        let ids = logs.own_ids();
        let ids: Vec<_> = ids.iter().map(LogId::as_str).collect();
        let line = format!("{}\n", serde_json::json!(ids));
        if client.replies.send(Frame::Stdout(line.into())).await.is_err() {
            return Outcome::Cancelled(Ended::default());
        }
        tokio::select! {
            _ = changes.changed() => {}
            outcome = wait_for_cancel(&mut client.inputs) => return outcome,
        }
    }
}

/// One log as it is written, until it is deleted.
pub(crate) async fn send(
    logs: &Arc<LogIndex>,
    id: &LogId,
    from: Option<request::Position>,
    mut client: Client,
    follow: impl FnOnce(Option<&str>, Option<Position>) -> LogFollower,
) -> Outcome {
    let wait = match &from {
        // What was there before this bridge is there as soon as it has looked.
        Some(_) => RESTART_WAIT,
        None => Duration::ZERO,
    };
    let Ok(container) = timeout(wait, logs.wait_for_own(id)).await else {
        return Outcome::done();
    };
    let from = from.and_then(|request::Position { file, offset }| {
        let file = unhex(&file)?.into();
        Some(Position { file, offset })
    });
    let mut follow = follow(container.as_deref(), from);
    loop {
        let event = tokio::select! {
            event = follow.next() => event,
            outcome = wait_for_cancel(&mut client.inputs) => return outcome,
        };
        let frame = match event {
            LogEvent::Begins(Position { file, offset }) => {
                let file = hex(&file);
                Frame::Stderr(serde_json::json!(request::Position { file, offset }).to_string().into())
            }
            LogEvent::Data(data) => Frame::Stdout(data),
            LogEvent::Absent => return Outcome::done(),
            LogEvent::Lost(why) => return Outcome::Lost(Failure::new(Kind::AgentLost, why)),
        };
        let mut sending = pin!(client.replies.send(frame));
        let sent = match timeout(READER_STALL, &mut sending).await {
            Ok(sent) => sent,
            Err(_) => {
                follow.pause();
                sending.await
            }
        };
        if sent.is_err() {
            return Outcome::Cancelled(Ended::default());
        }
    }
}

/// The lists that `list_logs` sends, put together again.
#[derive(Debug, Default)]
pub(crate) struct LogListDecoder(BytesMut);

impl LogListDecoder {
    pub(crate) fn add(&mut self, data: &Bytes) {
        self.0.extend_from_slice(data);
    }

    /// The next one that is complete. One that is no list names nothing.
    pub(crate) fn next(&mut self) -> Option<Vec<LogId>> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = self.0.split_to(end + 1);
        let texts: Vec<String> = serde_json::from_slice(&line).unwrap_or_default();
        Some(texts.iter().filter_map(|text| LogId::new(text)).collect())
    }
}
