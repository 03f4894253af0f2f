//! Connections accepted on the agent's socket, of this user only, and with them those that come directly.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_stream::Stream;

use super::connection::{Connection, ConnectionGuard, ConnectionQueue, Transport};

/// After an accept that failed, for want of descriptors, say.
pub(super) const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Accepts until it is dropped.
pub(crate) struct Listener {
    ready: mpsc::Receiver<Connection>,
    task: JoinHandle<()>,
}

impl Listener {
    /// `count`: how many connections there are. The queue takes those that come another way.
    pub(crate) fn start(listener: UnixListener, count: watch::Sender<usize>) -> (Self, ConnectionQueue) {
        let (connections, ready) = mpsc::channel(1);
        let queue = ConnectionQueue { connections, count };
        let task = tokio::spawn(accept(listener, queue.clone()));
        (Self { ready, task }, queue)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

async fn accept(listener: UnixListener, queue: ConnectionQueue) {
    let own = geteuid().as_raw();
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                sleep(ACCEPT_RETRY_PAUSE).await;
                continue;
            }
        };
        // The socket's mode says the same, but a mode can be changed.
        match socket.peer_cred().map(|peer| peer.uid()) {
            Ok(uid) if uid == own || uid == 0 => {}
            other => {
                tracing::warn!(peer = ?other, "connection of another user refused");
                continue;
            }
        }
        let guard = ConnectionGuard::new(queue.count.clone());
        let queue = queue.connections.clone();
        // One that says nothing keeps nobody waiting.
        tokio::spawn(async move {
            match Transport::negotiate(socket).await {
                Ok(transport) => drop(
                    queue
                        .send(Connection {
                            transport,
                            _guard: guard,
                        })
                        .await,
                ),
                Err(error) => tracing::warn!(%error, "connection broken before it began"),
            }
        });
    }
}
