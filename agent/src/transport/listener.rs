//! Accepts connections of this user, from this container, on the agent's Unix sockets. Its stream also delivers the connections that
//! `direct` accepts. `app` gives the stream to the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;

use super::connection::{Connection, ConnectionGuard, ConnectionQueue, Transport};
use super::entrance::{Entrance, Newcomer};
use super::log_limit::LogLimit;
use super::peer::{self, Scope};
use super::socket::{BoundPath, BoundSocket};

/// Connections on the Unix sockets whose peers have not begun HTTP/2. A process of this user may open any number.
const MAX_NEWCOMERS: usize = 128;
/// Pause after an accept that failed, for example because no file descriptor was free.
pub(super) const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Time between two checks whether the socket's file is still there.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Stream of accepted connections; accepts until it is dropped.
pub(crate) struct Listener {
    accepted: mpsc::Receiver<Connection>,
    tasks: [JoinHandle<()>; 2],
}

impl Listener {
    /// Starts to accept. `count` is kept at the number of open connections. The returned queue takes connections from other listeners;
    /// the returned path is the one of the socket, to remove it at the end.
    pub(crate) fn start(
        socket: BoundSocket,
        count: watch::Sender<usize>,
    ) -> io::Result<(Self, ConnectionQueue, Arc<BoundPath>)> {
        let (connections, accepted) = mpsc::channel(1);
        let queue = ConnectionQueue { connections, count };
        let path = Arc::new(socket.path);
        let file_missed = Arc::new(Notify::new());
        let (restored_sender, restored) = mpsc::channel(1);
        let listeners = Listeners {
            file: UnixListener::from_std(socket.file)?,
            scope: socket.scope,
            abstract_listener: socket.abstract_listener.map(UnixListener::from_std).transpose()?,
            file_missed: file_missed.clone(),
            restored,
            log_limit: Arc::default(),
        };
        let tasks = [
            tokio::spawn(listeners.accept(queue.clone())),
            tokio::spawn(keep_file(path.clone(), file_missed, restored_sender)),
        ];
        Ok((Self { accepted, tasks }, queue, path))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// Makes the socket's file again after somebody has removed it, such as a task that cleans /tmp.
async fn keep_file(
    path: Arc<BoundPath>,
    missed: Arc<Notify>,
    restored: mpsc::Sender<std::os::unix::net::UnixListener>,
) {
    loop {
        // Ends early when a client came by the abstract socket.
        let _ = timeout(FILE_CHECK_INTERVAL, missed.notified()).await;
        if path.is_there() {
            continue;
        }
        let removed = path.clone();
        match spawn_blocking(move || removed.restore()).await {
            Ok(Ok(Some(listener))) => {
                if restored.send(listener).await.is_err() {
                    return;
                }
            }
            Ok(Ok(None)) => {}
            // The abstract socket is left.
            Ok(Err(error)) => tracing::debug!(%error, "the removed socket cannot be made again"),
            Err(_) => return,
        }
    }
}

struct Listeners {
    file: UnixListener,
    /// Containers that may connect to the file.
    scope: Scope,
    abstract_listener: Option<UnixListener>,
    /// Notified when a client did not find the file.
    file_missed: Arc<Notify>,
    /// Replaces `file`.
    restored: mpsc::Receiver<std::os::unix::net::UnixListener>,
    log_limit: Arc<LogLimit>,
}

impl Listeners {
    async fn accept(mut self, queue: ConnectionQueue) {
        let entrance = Entrance::new(MAX_NEWCOMERS);
        loop {
            // Before the accept: who finds no place waits in the kernel's queue.
            let newcomer = entrance.enter().await;
            let (accepted, scope) = tokio::select! {
                accepted = self.file.accept() => (accepted, self.scope),
                accepted = accept_abstract(self.abstract_listener.as_ref()) => {
                    self.file_missed.notify_one();
                    (accepted, Scope::OwnContainer)
                }
                Some(listener) = self.restored.recv() => {
                    match UnixListener::from_std(listener) {
                        Ok(listener) => self.file = listener,
                        Err(error) => tracing::warn!(%error, "the socket's new file is not used"),
                    }
                    continue;
                }
            };
            match accepted {
                Ok((socket, _)) => serve(socket, scope, newcomer, &queue, &self.log_limit),
                Err(error) => {
                    if let Some(left_out) = self.log_limit.allow() {
                        tracing::warn!(%error, left_out, "connection not accepted");
                    }
                    sleep(ACCEPT_RETRY_PAUSE).await;
                }
            }
        }
    }
}

async fn accept_abstract(listener: Option<&UnixListener>) -> io::Result<(UnixStream, tokio::net::unix::SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Hands a connection to the server, if its peer may use this agent and begins HTTP/2.
fn serve(socket: UnixStream, scope: Scope, mut newcomer: Newcomer, queue: &ConnectionQueue, log_limit: &Arc<LogLimit>) {
    if let Err(refusal) = peer::check(&socket, scope) {
        if let Some(left_out) = log_limit.allow() {
            tracing::warn!(peer = %refusal, left_out, "connection refused");
        }
        return;
    }
    newcomer.arrive();
    let log_limit = log_limit.clone();
    let guard = ConnectionGuard::new(queue.count.clone());
    let queue = queue.clone();
    // A task per connection: a client that sends nothing must not delay others.
    tokio::spawn(async move {
        let introduction = async { Transport::negotiate(socket).await?.begin_http2().await };
        match newcomer.wait_for(introduction).await {
            Some(Ok(Some(transport))) => queue.send(transport, guard, newcomer).await,
            // It looked whether an agent listens.
            Some(Ok(None)) => {}
            Some(Err(error)) => {
                if let Some(left_out) = log_limit.allow() {
                    tracing::warn!(%error, left_out, "connection broken before its client began HTTP/2");
                }
            }
            None => {
                if let Some(left_out) = log_limit.allow() {
                    tracing::warn!(left_out, "connection closed: its client did not begin HTTP/2 in time");
                }
            }
        }
    });
}
