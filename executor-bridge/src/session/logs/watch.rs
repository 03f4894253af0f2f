//! Watches which logs the agents of a build's containers have, and asks an agent about one log. `watched_pod` starts a
//! watch for each container; `requests` asks.

use std::sync::Arc;
use std::time::Duration;

use podbridge_proto::v1::{RemoveRequest, StatRequest, WatchRequest};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::backoff::DoublingPause;
use crate::connections::{Connection, Reachability, status};
use crate::session::logs::index::LogIndex;
use crate::session::logs::log_id::{DIRECTORY, LogId, PREFIX, SUFFIX};
use crate::session::logs::source::LogSource;
use crate::session::news::{News, Repetition};

/// Pause after the first failed watch; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two watches.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Pause after each event. Events that have arrived already are taken without a wait, and would keep the bridge's only thread from its
/// clients.
const EVENT_PAUSE: Duration = Duration::from_millis(1);

/// Watches the logs of one container, over each connection that the container gets. Ends when nobody looks for the container any more.
pub(crate) async fn watch_logs(
    source: LogSource,
    logs: Arc<LogIndex>,
    mut reachability: watch::Receiver<Reachability>,
) {
    let mut was_reached = false;
    loop {
        let connection = match &*reachability.borrow_and_update() {
            Reachability::Up(connection) => Some(connection.clone()),
            Reachability::Connecting | Reachability::Lost(_) => None,
        };
        if connection.is_some() && !std::mem::replace(&mut was_reached, true) {
            // Its names have not come yet.
            logs.note_incomplete(&source);
        }
        let watched = async {
            match connection {
                Some(connection) => watch_connection(&source, &logs, &connection).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = watched => {}
            changed = reachability.changed() => if changed.is_err() {
                logs.update(&source, true, Vec::new(), &[]);
                return;
            },
        }
    }
}

/// Watches over one connection; never returns. An agent that does not know watches has no live logs, but runs tasks.
async fn watch_connection(source: &LogSource, logs: &LogIndex, connection: &Connection) {
    let mut pause = DoublingPause::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match watch_once(source, logs, connection).await {
            Err(status) if status.code() == Code::Unimplemented => return std::future::pending().await,
            Err(status) => {
                tracing::info!(reason = status::reason(&status), "the logs cannot be watched");
                // Logs that a client waits for are asked for one by one.
                logs.note_incomplete(source);
            }
            Ok(()) => {}
        }
        pause.sleep().await;
    }
}

/// Watches until the stream ends.
async fn watch_once(source: &LogSource, logs: &LogIndex, connection: &Connection) -> Result<(), Status> {
    let request = WatchRequest {
        directory: DIRECTORY.into(),
        prefix: PREFIX.into(),
        suffix: SUFFIX.into(),
    };
    let mut events = connection.logs().watch(request).await?.into_inner();
    let refuse = |repetition: Repetition| Status::aborted(repetition.to_string());
    let (mut news, mut is_listed) = (News::default(), false);
    while let Some(event) = events.message().await? {
        // An agent lists all its names once, at the beginning.
        if event.all && std::mem::replace(&mut is_listed, true) {
            return Err(refuse(Repetition));
        }
        let has_names = !event.appeared.is_empty() || !event.gone.is_empty();
        news.note(event.all || has_names).map_err(refuse)?;
        let ids = |names: &[bytes::Bytes]| names.iter().filter_map(|name| LogId::of_file(name)).collect::<Vec<_>>();
        logs.update(source, event.all, ids(&event.appeared), &ids(&event.gone));
        sleep(EVENT_PAUSE).await;
    }
    Ok(())
}

/// Returns whether the log exists; an error if the link broke.
pub(crate) async fn log_exists(connection: &Connection, id: &LogId) -> Result<bool, Status> {
    let request = StatRequest {
        path: id.path().into(),
        no_follow: true,
        root: None,
    };
    let answer = connection.files().stat(request).await?;
    Ok(answer.into_inner().stat.is_some())
}

/// Deletes the log if it exists.
pub(crate) async fn remove_log(connection: &Connection, id: &LogId) -> Result<(), Status> {
    let request = RemoveRequest { path: id.path().into() };
    match connection.logs().remove(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}
