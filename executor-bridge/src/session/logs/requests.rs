//! Requests for logs: existence, removal, list and content. `session` calls these functions for `console` and for the
//! bridges of the build's other pods, which look here for the logs of delegated tasks.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use tokio::sync::watch::Receiver;
use tokio::time::timeout;

use crate::connections::{Reachability, status};
use crate::error::{FailedKind, Failure, Kind};
use crate::protocol::frame::Frame;
use crate::protocol::request;
use crate::protocol::result::{EndedExec, Outcome};
use crate::session::client::{Client, wait_for_cancel};
use crate::session::logs::follower::{LogEvent, LogFollower, Position, READER_STALL};
use crate::session::logs::index::LogIndex;
use crate::session::logs::log_id::LogId;
use crate::session::logs::watch;

/// Time limit of an agent's answer; the client gets "not found" meanwhile.
const EXISTS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of the wait for a connection on which the log can be deleted.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that a bridge needs after a restart until it knows its logs.
const RESTART_WAIT: Duration = Duration::from_secs(20);

/// Makes the refusal of a bridge that is not in Zuul's slot.
pub(crate) fn unsupported() -> Outcome {
    Outcome::failed(
        FailedKind::Unsupported,
        "this bridge does not belong to a Zuul build, so it has no logs",
    )
}

/// Returns whether the log exists at this moment; `None` if the agent does not answer.
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

/// Deletes the log in each container. Waits a limited time for a connection to each.
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

/// Sends the ids of all logs to the client, as one JSON array per line, first at once and then after every change. Ends
/// when the client disconnects.
pub(crate) async fn list(logs: &LogIndex, mut client: Client) -> Outcome {
    let mut changes = logs.changes();
    loop {
        changes.borrow_and_update();
        let ids = logs.own_ids();
        let ids: Vec<_> = ids.iter().map(LogId::as_str).collect();
        let line = format!("{}\n", serde_json::json!(ids));
        if client.replies.send(Frame::Stdout(line.into())).await.is_err() {
            return Outcome::Cancelled(EndedExec::default());
        }
        tokio::select! {
            _ = changes.changed() => {}
            outcome = wait_for_cancel(&mut client.inputs) => return outcome,
        }
    }
}

/// Sends the content of one log to the client while the log grows. Ends when the log is deleted. `from`: where the
/// client stopped; `follow` makes the follower in a container.
pub(crate) async fn send(
    logs: &Arc<LogIndex>,
    id: &LogId,
    from: Option<request::Position>,
    mut client: Client,
    follow: impl FnOnce(Option<&str>, Option<Position>) -> LogFollower,
) -> Outcome {
    let wait = match &from {
        // The log existed before this bridge started. The bridge finds it as soon as the agent has listed its logs.
        Some(_) => RESTART_WAIT,
        None => Duration::ZERO,
    };
    let Ok(container) = timeout(wait, logs.wait_for_own(id)).await else {
        return Outcome::done();
    };
    let from = from.and_then(|request::Position { file, offset }| {
        let file = HEXLOWER_PERMISSIVE.decode(file.as_bytes()).ok()?.into();
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
                let file = HEXLOWER.encode(&file);
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
            return Outcome::Cancelled(EndedExec::default());
        }
    }
}

/// Decoder of the lines that `list` sends.
#[derive(Debug, Default)]
pub(crate) struct LogListDecoder(BytesMut);

impl LogListDecoder {
    pub(crate) fn add(&mut self, data: &Bytes) {
        self.0.extend_from_slice(data);
    }

    /// Returns the next complete list; `None` if more bytes are needed. A line that is no list counts as an empty one.
    pub(crate) fn next(&mut self) -> Option<Vec<LogId>> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = self.0.split_to(end + 1);
        let texts: Vec<String> = serde_json::from_slice(&line).unwrap_or_default();
        Some(texts.iter().filter_map(|text| LogId::new(text)).collect())
    }
}
