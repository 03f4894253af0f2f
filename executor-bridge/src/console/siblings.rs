//! The bridges of a build's other pods, beside our own socket: a delegated task writes its log in the pod it is delegated to,
//! and Zuul asks for it at the port of the host that delegates.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{self, Message};
use crate::protocol::request::{Log, Operation, Request};
use crate::session::{Lists, LogId, Session, Source};

/// The directory is not read more often, whoever waits.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Siblings {
    session: Arc<Session>,
    own: PathBuf,
    found: Arc<Mutex<Found>>,
}

#[derive(Debug, Default)]
struct Found {
    /// Those that tell us of their logs.
    told: HashSet<PathBuf>,
    looked: Option<Instant>,
}

fn request(operation: Operation) -> Request {
    Request {
        container: None,
        operation,
    }
}

impl Siblings {
    pub(super) fn new(session: Arc<Session>, own: PathBuf) -> Self {
        Self {
            session,
            own,
            found: Arc::default(),
        }
    }

    /// Somebody waits for a log that is not here: listens to all siblings that there are.
    pub(super) fn look(&self) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.looked.is_some_and(|looked| looked.elapsed() < INTERVAL) {
            return;
        }
        found.looked = Some(Instant::now());
        for socket in sockets(&self.own) {
            if found.told.insert(socket.clone()) {
                let (session, all) = (self.session.clone(), self.found.clone());
                tokio::spawn(async move {
                    listen(&session, &socket).await;
                    let mut found = all.lock().unwrap_or_else(PoisonError::into_inner);
                    found.told.remove(&socket);
                });
            }
        }
    }

    pub(super) async fn delete(&self, socket: &Path, id: &LogId) {
        let operation = Operation::DeleteLog(Log {
            id: id.as_str().to_owned(),
            position: None,
        });
        if let Ok(Some(mut conversation)) = client::begin_existing(socket, &request(operation)).await {
            // Whatever it says: the log is no longer wanted.
            let _ = conversation.incoming.next().await;
        }
    }
}

/// Sockets beside ours.
fn sockets(own: &Path) -> Vec<PathBuf> {
    let entries = own.parent().and_then(|directory| fs::read_dir(directory).ok());
    let entries = entries.into_iter().flatten().flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.map(|entry| entry.path()).filter(|path| path != own).collect()
}

/// Keeps to what a sibling tells of its logs, until it ends.
async fn listen(session: &Session, socket: &Path) {
    let Some(logs) = session.logs() else { return };
    let Ok(Some(mut conversation)) = client::begin_existing(socket, &request(Operation::Logs)).await else {
        return;
    };
    let source = Source::Sibling(socket.to_owned());
    let mut lists = Lists::default();
    loop {
        match conversation.incoming.next().await {
            Message::Stdout(data) => {
                lists.add(&data);
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
