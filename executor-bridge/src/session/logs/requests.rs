//! Requests for logs: existence, removal, list and content. `session` calls these functions for `console` and for the
//! bridges of the build's other pods, which look here for the logs of delegated tasks.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use tokio::sync::Semaphore;
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};

use crate::connections::{Lane, Reachability, status};
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
/// Longest line of `list`, bytes.
const MAX_LIST: usize = 1 << 20;
/// Least time between two lists.
const LIST_PAUSE: Duration = Duration::from_millis(10);
/// Clients that may listen to the lists: the other bridges of a build. Others are refused.
const MAX_LISTENERS: usize = 64;
static LISTENERS: Semaphore = Semaphore::const_new(MAX_LISTENERS);
/// Time that a bridge needs after a restart until it knows its logs.
const RESTART_WAIT: Duration = Duration::from_secs(20);

/// Makes the refusal of a bridge that is not in Zuul's slot.
pub(crate) fn unsupported() -> Outcome {
    Outcome::failed(
        FailedKind::Unsupported,
        "this bridge serves no live log of Zuul, so it has no logs",
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
    // One that waited would hold the place of another client.
    let Ok(_listener) = LISTENERS.try_acquire() else {
        let sentence = format!(
            "{MAX_LISTENERS} clients get the lists of logs already (the limit); end one of them, and try again"
        );
        return Outcome::failed(FailedKind::BadRequest, sentence);
    };
    let mut changes = logs.changes();
    loop {
        changes.borrow_and_update();
        let ids = logs.own_ids();
        let ids: Vec<_> = ids.iter().map(LogId::as_str).collect();
        let mut line = Bytes::from(format!("{}\n", serde_json::json!(ids)));
        while !line.is_empty() {
            let Ok(permit) = client.replies.reserve().await else {
                return Outcome::Cancelled(EndedExec::default());
            };
            permit.send(client.replies.piece(&mut line, Frame::Stdout));
        }
        tokio::select! {
            // Names that come one after the other make one list.
            () = async { let _ = changes.changed().await; sleep(LIST_PAUSE).await } => {}
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
        let sent = match event {
            LogEvent::Begins(Position { file, offset }) => {
                let file = HEXLOWER.encode(&file);
                let position = serde_json::json!(request::Position { file, offset }).to_string();
                client.replies.send(Frame::Stderr(position.into())).await.is_ok()
            }
            LogEvent::Data(data) => send_data(&client, &mut follow, data).await,
            LogEvent::Absent => return Outcome::done(),
            LogEvent::Lost(why) => return Outcome::Lost(Failure::new(Kind::AgentLost, why)),
        };
        if !sent {
            return Outcome::Cancelled(EndedExec::default());
        }
    }
}

/// Sends data of a log; lets go of the log's stream while the client stands still. `false`: the client disconnected.
async fn send_data(client: &Client, follow: &mut LogFollower, mut data: Bytes) -> bool {
    let replies = &client.replies;
    while !data.is_empty() {
        let let_go = async {
            tokio::select! {
                () = replies.budget.stall_timeout(Lane::Control) => {}
                () = sleep(READER_STALL) => {}
            }
        };
        let permit = tokio::select! {
            biased;
            permit = replies.reserve() => permit,
            () = let_go => {
                follow.give_back(data.len());
                return replies.reserve().await.is_ok();
            }
        };
        let Ok(permit) = permit else { return false };
        permit.send(replies.piece(&mut data, Frame::Stdout));
    }
    true
}

/// Decoder of the lines that `list` sends.
#[derive(Debug, Default)]
pub(crate) struct LogListDecoder(BytesMut);

impl LogListDecoder {
    /// Adds received bytes. `false`: the line is longer than any list.
    pub(crate) fn add(&mut self, data: &Bytes) -> bool {
        self.0.extend_from_slice(data);
        self.0.len() <= MAX_LIST + data.len()
    }

    /// Returns the next complete list; `None` if more bytes are needed. A line that is no list counts as an empty one.
    pub(crate) fn next(&mut self) -> Option<Vec<LogId>> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = self.0.split_to(end + 1);
        let texts: Vec<String> = serde_json::from_slice(&line).unwrap_or_default();
        Some(texts.iter().filter_map(|text| LogId::new(text)).collect())
    }
}
