//! One accepted connection: a Unix socket, the streams of a proxy, or a TLS stream. The agent counts its open connections. `listener` and
//! `direct` make connections, tonic's server reads and writes them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::backlog::Backlog;
use super::entrance::{Admission, Newcomer};
use super::handover::{self, ProxyStreams};
use super::read_pace::ReadPace;

/// First bytes of every client of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Sender of accepted connections to the server. When the agent ends, the receiver is gone.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionQueue {
    pub(super) connections: mpsc::Sender<Connection>,
    /// Number of open connections.
    pub(super) count: watch::Sender<usize>,
}

impl ConnectionQueue {
    /// Hands the connection of a newcomer that has begun HTTP/2 to the server.
    pub(super) async fn send(&self, transport: Transport, guard: ConnectionGuard, newcomer: Newcomer) {
        let (admission, room) = newcomer.settle();
        let backlog = Backlog::default();
        let connection = Connection {
            transport,
            preface: PREFACE,
            pace: ReadPace::new(backlog.calls()),
            backlog,
            _guard: guard,
            _admission: admission,
        };
        // Fails if the agent ends.
        let _ = self.connections.send(connection).await;
        // Not before: newcomers come no faster than the server takes them.
        drop(room);
    }
}

/// Counts one connection while it exists.
#[derive(Debug)]
pub(super) struct ConnectionGuard(watch::Sender<usize>);

impl ConnectionGuard {
    pub(super) fn new(connections: watch::Sender<usize>) -> Self {
        connections.send_modify(|count| *count += 1);
        Self(connections)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A connection whose client has begun HTTP/2.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    /// What the server has not read yet of the preface, which the transport has delivered already.
    preface: &'static [u8],
    pace: ReadPace,
    backlog: Backlog,
    _guard: ConnectionGuard,
    _admission: Admission,
}

#[derive(Debug)]
pub(super) enum Transport {
    Socket(UnixStream),
    Direct(Box<TlsStream<TcpStream>>),
    /// The standard streams of a proxy, and the socket to it. Fields are dropped in their order: the proxy ends when its socket closes,
    /// after the output.
    ProxyStreams {
        input: pipe::Receiver,
        output: pipe::Sender,
        proxy: UnixStream,
    },
}

impl Transport {
    /// Waits for the first byte. If it is a proxy's offer, takes the proxy's streams.
    pub(super) async fn negotiate(mut socket: UnixStream) -> io::Result<Self> {
        let offered = socket
            .async_io(Interest::READABLE, || handover::take(&socket).map_err(io::Error::from))
            .await?;
        let Some(ProxyStreams { input, output }) = offered else {
            return Ok(Self::Socket(socket));
        };
        let (input, output) = (
            pipe::Receiver::from_owned_fd(input)?,
            pipe::Sender::from_owned_fd(output)?,
        );
        socket.write_all(handover::ANSWER).await?;
        Ok(Self::ProxyStreams {
            input,
            output,
            proxy: socket,
        })
    }

    /// Waits for the preface of HTTP/2: the server holds buffers for a connection from then on. `None` if the client closes without a
    /// byte.
    pub(super) async fn begin_http2(mut self) -> io::Result<Option<Self>> {
        let mut preface = [0; PREFACE.len()];
        let mut length = 0;
        while length < PREFACE.len() {
            match self.read(&mut preface[length..]).await? {
                0 if length == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => length += more,
            }
            if preface[..length] != PREFACE[..length] {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the client does not speak HTTP/2",
                ));
            }
        }
        Ok(Some(self))
    }
}

/// Is ready when the proxy is gone. The connection must end then, because nothing else would ever close the streams.
fn poll_gone(proxy: &UnixStream, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        if ready!(proxy.poll_read_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        match proxy.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // End of the stream or an error; a proxy sends nothing after its offer.
            _ => return Poll::Ready(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Backlog;
    fn connect_info(&self) -> Backlog {
        self.backlog.clone()
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Socket(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Direct(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::ProxyStreams { input, proxy, .. } => match poll_gone(proxy, cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => Pin::new(input).poll_read(cx, buf),
            },
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Socket(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Direct(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::ProxyStreams { output, .. } => Pin::new(output).poll_write(cx, buf),
        }
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Socket(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Direct(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::ProxyStreams { output, .. } => Pin::new(output).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Direct(stream) => Pin::new(stream).poll_flush(cx),
            // Sockets and pipes have no buffer of their own.
            Self::Socket(_) | Self::ProxyStreams { .. } => Poll::Ready(Ok(())),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Socket(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
            // A pipe is closed when it is dropped, and the proxy's socket after it.
            Self::ProxyStreams { .. } => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.preface.is_empty() {
            ready!(self.pace.poll_turn(cx));
            let before = buf.filled().len();
            let polled = Pin::new(&mut self.transport).poll_read(cx, buf);
            self.pace
                .note_read(polled.is_ready().then(|| buf.filled().len() - before));
            return polled;
        }
        let (head, rest) = self.preface.split_at(buf.remaining().min(self.preface.len()));
        buf.put_slice(head);
        self.preface = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.pace.note_write(written, cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.pace.note_write(written, cx)
    }
    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
