//! Connections accepted on the agent's socket, of this user only, each with streams of its own or a proxy's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::handover::{self, Streams};

/// After an accept that failed, for want of descriptors, say.
const PAUSE: Duration = Duration::from_millis(10);

/// Accepts until it is dropped.
pub(crate) struct Accepting {
    ready: mpsc::Receiver<Connection>,
    task: JoinHandle<()>,
}

impl Accepting {
    /// `connections`: how many there are.
    pub(crate) fn start(listener: UnixListener, connections: watch::Sender<usize>) -> Self {
        let (queue, ready) = mpsc::channel(1);
        let task = tokio::spawn(accept(listener, connections, queue));
        Self { ready, task }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for Accepting {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

async fn accept(listener: UnixListener, connections: watch::Sender<usize>, queue: mpsc::Sender<Connection>) {
    let own = geteuid().as_raw();
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                sleep(PAUSE).await;
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
        let counted = Counted::new(connections.clone());
        let queue = queue.clone();
        // One that says nothing keeps nobody waiting.
        tokio::spawn(async move {
            match Transport::of(socket).await {
                // Nobody takes it when the agent ends.
                Ok(transport) => drop(
                    queue
                        .send(Connection {
                            transport,
                            _counted: counted,
                        })
                        .await,
                ),
                Err(error) => tracing::warn!(%error, "connection broken before it began"),
            }
        });
    }
}

struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(connections: watch::Sender<usize>) -> Self {
        connections.send_modify(|count| *count += 1);
        Self(connections)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// One accepted connection; counted while it lives.
pub(crate) struct Connection {
    transport: Transport,
    _counted: Counted,
}

enum Transport {
    Socket(UnixStream),
    /// Fields are dropped in this order: the proxy ends when all has been written.
    Handed {
        input: pipe::Receiver,
        output: pipe::Sender,
        proxy: UnixStream,
    },
}

impl Transport {
    async fn of(mut socket: UnixStream) -> io::Result<Self> {
        let offered = socket
            .async_io(Interest::READABLE, || handover::take(&socket).map_err(io::Error::from))
            .await?;
        let Some(Streams { input, output }) = offered else {
            return Ok(Self::Socket(socket));
        };
        let (input, output) = (
            pipe::Receiver::from_owned_fd(input)?,
            pipe::Sender::from_owned_fd(output)?,
        );
        socket.write_all(handover::ANSWER).await?;
        Ok(Self::Handed {
            input,
            output,
            proxy: socket,
        })
    }
}

/// Once its proxy has gone, nobody will end the exec that its streams belong to.
fn poll_gone(proxy: &UnixStream, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        if ready!(proxy.poll_read_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        match proxy.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It has nothing to say.
            _ => return Poll::Ready(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Socket(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Handed { input, proxy, .. } => match poll_gone(proxy, cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => Pin::new(input).poll_read(cx, buf),
            },
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Socket(socket) => Pin::new(socket).poll_write(cx, buf),
            Transport::Handed { output, .. } => Pin::new(output).poll_write(cx, buf),
        }
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Socket(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Transport::Handed { output, .. } => Pin::new(output).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Neither keeps anything back.
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Socket(socket) => Pin::new(socket).poll_shutdown(cx),
            // A pipe ends when it is dropped, and its proxy after it.
            Transport::Handed { .. } => Poll::Ready(Ok(())),
        }
    }
}
