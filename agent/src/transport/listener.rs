//! Accepts connections of this user on the agent's Unix socket. Its stream also delivers the connections that `direct` accepts. `app`
//! gives the stream to the server.

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

/// Pause after an accept that failed, for example because no file descriptor was free.
pub(super) const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Stream of accepted connections; accepts until it is dropped.
pub(crate) struct Listener {
    accepted: mpsc::Receiver<Connection>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Starts to accept. `count` is kept at the number of open connections. The returned queue takes connections from other listeners.
    pub(crate) fn start(listener: UnixListener, count: watch::Sender<usize>) -> (Self, ConnectionQueue) {
        let (connections, accepted) = mpsc::channel(1);
        let queue = ConnectionQueue { connections, count };
        let task = tokio::spawn(accept(listener, queue.clone()));
        (Self { accepted, task }, queue)
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
        self.accepted.poll_recv(cx).map(|connection| connection.map(Ok))
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
        // The socket's mode 0600 has the same effect, but another process can change a mode.
        match socket.peer_cred().map(|peer| peer.uid()) {
            Ok(uid) if uid == own || uid == 0 => {}
            other => {
                tracing::warn!(peer = ?other, "connection of another user refused");
                continue;
            }
        }
        let guard = ConnectionGuard::new(queue.count.clone());
        let queue = queue.connections.clone();
        // A task per connection: a client that sends nothing must not delay others.
        tokio::spawn(async move {
            match Transport::negotiate(socket).await {
                Ok(transport) => {
                    let connection = Connection {
                        transport,
                        _guard: guard,
                    };
                    // Fails if the agent ends.
                    let _ = queue.send(connection).await;
                }
                Err(error) => tracing::warn!(%error, "connection broken before its first byte was handled"),
            }
        });
    }
}
