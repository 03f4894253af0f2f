//! The bridges of the build's other pods, whose sockets are in the same directory. A delegated task writes its log in
//! the pod that it is delegated to, but Zuul asks for the log at the port of the delegating host. `connection` calls
//! it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{self, Message};
use crate::protocol::request::{Log, Operation, Request};
use crate::session::{LogId, LogListDecoder, LogSource, Session};
use crate::sockets::slot_sockets;

/// Shortest interval between two scans of the directory.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Client of the build's other bridges.
#[derive(Debug)]
pub(super) struct Siblings {
    session: Arc<Session>,
    /// Socket of this bridge, beside those of the others; `None`: there are no others.
    own: Option<PathBuf>,
    known: Arc<Mutex<KnownSiblings>>,
}

#[derive(Debug, Default)]
struct KnownSiblings {
    /// Sockets of the bridges that this bridge gets lists of logs from.
    listening: HashSet<PathBuf>,
    last_scan: Option<Instant>,
}

fn request(operation: Operation) -> Request {
    Request {
        container: None,
        operation,
    }
}

impl Siblings {
    pub(super) fn new(session: Arc<Session>, own: Option<PathBuf>) -> Self {
        Self {
            session,
            own,
            known: Arc::default(),
        }
    }

    /// Scans for other bridges and starts to listen to the new ones. Called while a client waits for a log that this
    /// pod does not have.
    pub(super) fn scan(&self) {
        let Some(own) = &self.own else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known
            .last_scan
            .is_some_and(|last_scan| last_scan.elapsed() < SCAN_INTERVAL)
        {
            return;
        }
        known.last_scan = Some(Instant::now());
        for socket in sibling_sockets(own) {
            if known.listening.insert(socket.clone()) {
                let (session, known_siblings) = (self.session.clone(), self.known.clone());
                tokio::spawn(async move {
                    listen(&session, &socket).await;
                    let mut known = known_siblings.lock().unwrap_or_else(PoisonError::into_inner);
                    known.listening.remove(&socket);
                });
            }
        }
    }

    /// Deletes a log at another bridge.
    pub(super) async fn delete(&self, socket: &Path, id: &LogId) {
        let operation = Operation::DeleteLog(Log {
            id: id.as_str().to_owned(),
            position: None,
        });
        if let Ok(Some(mut conversation)) = client::begin_between_bridges(socket, &request(operation)).await {
            // The answer does not matter: the log is no longer wanted.
            let _ = conversation.incoming.next().await;
        }
    }
}

/// Returns the other sockets in the directory of our own socket.
fn sibling_sockets(own: &Path) -> Vec<PathBuf> {
    let directory = own.parent().unwrap_or(Path::new("/"));
    let mut sockets = slot_sockets(directory).unwrap_or_default();
    sockets.retain(|path| path != own);
    sockets
}

/// Adds the logs of one other bridge to the index until that bridge ends.
async fn listen(session: &Session, socket: &Path) {
    let Some(logs) = session.logs() else { return };
    let Ok(Some(mut conversation)) = client::begin_between_bridges(socket, &request(Operation::Logs)).await else {
        return;
    };
    let source = LogSource::Sibling(socket.to_owned());
    let mut lists = LogListDecoder::default();
    loop {
        match conversation.incoming.next().await {
            Message::Stdout(data) => {
                if !lists.add(&data) {
                    break;
                }
                while let Some(ids) = lists.next() {
                    logs.update(&source, true, ids, &[]);
                }
            }
            Message::Started | Message::Stderr(_) => {}
            Message::Result(_) | Message::Lost(_) => break,
        }
    }
    logs.update(&source, true, Vec::new(), &[]);
}
