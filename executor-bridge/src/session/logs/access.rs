//! The logs of this pod by their ids: for the console, and for the bridges of a build's other pods, which look here for
//! what a delegated task writes.

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::super::{Client, Connection, Session, gone, status};
use super::{Event, Follow, LogId, Logs, Reach, keeper};
use crate::error::{FailedKind, Failure, Kind};
use crate::protocol::frame::Frame;
use crate::protocol::result::{Ended, Outcome};

/// Only a bridge in Zuul's slot knows logs.
fn unsupported() -> Outcome {
    Outcome::failed(
        FailedKind::Unsupported,
        "this bridge is not one of a Zuul build: it knows no logs",
    )
}

impl Session {
    pub(crate) fn logs(&self) -> Option<&std::sync::Arc<Logs>> {
        self.kept.as_ref().map(|kept| &kept.logs)
    }

    /// Whether a container can be reached; from now on it is kept so.
    pub(crate) fn reach(&self, container: Option<&str>) -> watch::Receiver<Reach> {
        self.container(container);
        let kept = self.kept.as_ref().map(|kept| kept.reach(container));
        kept.unwrap_or_else(|| watch::channel(Reach::Sought).1)
    }

    pub(crate) fn follow(&self, container: Option<&str>, id: &LogId) -> Follow {
        Follow::new(id, self.reach(container))
    }

    fn up(&self, container: Option<&str>) -> Option<std::sync::Arc<Connection>> {
        match &*self.reach(container).borrow() {
            Reach::Up(connection) => Some(connection.clone()),
            Reach::Sought | Reach::Lost(_) => None,
        }
    }

    /// Whether there is such a log this moment; `None` if nobody can say.
    pub(crate) async fn log_exists(&self, container: Option<&str>, id: &LogId) -> Option<bool> {
        let connection = self.up(container)?;
        keeper::exists(&connection, id).await.ok()
    }

    /// Deletes a log wherever it is in this pod.
    pub(crate) async fn remove_log(&self, id: &LogId) {
        let containers: Vec<_> = {
            let containers = self
                .containers
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            containers.keys().cloned().collect()
        };
        for container in containers {
            let Some(connection) = self.up(container.as_deref()) else {
                continue;
            };
            if let Err(status) = keeper::remove(&connection, id).await {
                tracing::info!(reason = status::reason(&status), "a log was not deleted");
            }
        }
    }

    /// The ids of all logs of this pod, one JSON array per line, again whenever they change; until the client has gone.
    pub(crate) async fn list_logs(&self, mut client: Client) -> Outcome {
        let Some(logs) = self.logs() else { return unsupported() };
        let mut changes = logs.changes();
        loop {
            changes.borrow_and_update();
            let ids = logs.own();
            let ids: Vec<_> = ids.iter().map(LogId::as_str).collect();
            let line = format!("{}\n", serde_json::json!(ids));
            if client.replies.send(Frame::Stdout(line.into())).await.is_err() {
                return Outcome::Cancelled(Ended::default());
            }
            tokio::select! {
                _ = changes.changed() => {}
                outcome = gone(&mut client.inputs) => return outcome,
            }
        }
    }

    /// One log as it is written, until it is deleted.
    pub(crate) async fn send_log(&self, id: &LogId, mut client: Client) -> Outcome {
        let Some(logs) = self.logs() else { return unsupported() };
        let container = match logs.own_source(id) {
            Some(container) => container,
            None => return Outcome::done(),
        };
        let mut follow = self.follow(container.as_deref(), id);
        loop {
            let event = tokio::select! {
                event = follow.next() => event,
                outcome = gone(&mut client.inputs) => return outcome,
            };
            match event {
                Event::Begins => {}
                Event::Data(data) => {
                    if client.replies.send(Frame::Stdout(data)).await.is_err() {
                        return Outcome::Cancelled(Ended::default());
                    }
                }
                Event::Absent => return Outcome::done(),
                Event::Lost(why) => return Outcome::Lost(Failure::new(Kind::AgentLost, why)),
            }
        }
    }

    pub(crate) async fn delete_log(&self, id: &LogId) -> Outcome {
        match self.kept {
            Some(_) => {
                self.remove_log(id).await;
                Outcome::done()
            }
            None => unsupported(),
        }
    }
}

/// The lists that `list_logs` sends, put together again.
#[derive(Debug, Default)]
pub(crate) struct Lists(BytesMut);

impl Lists {
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
