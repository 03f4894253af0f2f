//! A conversation: one request on one connection to a running bridge. Connects, checks that the bridge belongs to this user, and sends the
//! request. Starts no bridge; `bridge_address` does that.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_blocking, socket_with};
use rustix::process::geteuid;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::client::connection::{self, Incoming, Outgoing};
use crate::error::{Failure, Kind};
use crate::protocol::request::Request;

/// Time limit for a place in the queue of a bridge that has thousands of connections.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two tries of a bridge to get a place in that queue.
const QUEUE_PAUSE: Duration = Duration::from_millis(50);

/// The two directions of a connection whose request was sent.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

/// Sends a request to a running bridge; `None` if no bridge listens on the socket.
pub(super) async fn begin_existing(socket: &Path, request: &Request) -> Result<Option<Conversation>, Failure> {
    match connect(socket).await? {
        Some(stream) => send(stream, request, &[]).await.map(Some),
        None => Ok(None),
    }
}

/// Sends a request of one bridge to another one, like `begin_existing`. While the queue of that bridge is full, no thread of this one
/// waits: it has few.
pub(crate) async fn begin_between_bridges(socket: &Path, request: &Request) -> Result<Option<Conversation>, Failure> {
    let begun = Instant::now();
    let connected = loop {
        let connected = UnixStream::connect(socket).await;
        if !is_queue_full(&connected) || begun.elapsed() >= QUEUE_TIMEOUT {
            break connected;
        }
        sleep(QUEUE_PAUSE).await;
    };
    match checked(socket, connected)? {
        Some(stream) => send(stream, request, &[]).await.map(Some),
        None => Ok(None),
    }
}

/// Connects to a bridge; `None` if no bridge listens on the socket. `Err` if the bridge belongs to another user.
pub(super) async fn connect(socket: &Path) -> Result<Option<UnixStream>, Failure> {
    let mut connected = UnixStream::connect(socket).await;
    if is_queue_full(&connected) {
        connected = connect_in_turn(socket.to_owned()).await;
    }
    checked(socket, connected)
}

fn is_queue_full(connected: &io::Result<UnixStream>) -> bool {
    matches!(connected, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Checks what a connect came to, and whose bridge answered.
fn checked(socket: &Path, connected: io::Result<UnixStream>) -> Result<Option<UnixStream>, Failure> {
    let failure = |why: String| Failure::new(Kind::Bridge, format!("the bridge on {} {why}", socket.display()));
    let stream = match connected {
        Ok(stream) => stream,
        // ConnectionReset: the bridge died before it accepted the connection.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failure(format!("cannot be reached: {error}"))),
    };
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == geteuid().as_raw() => Ok(Some(stream)),
        _ => Err(failure("belongs to another user; remove its socket".into())),
    }
}

/// Connects to a bridge whose queue is full. Only a blocking connect waits there, and the kernel serves those that wait in their order.
async fn connect_in_turn(socket: PathBuf) -> io::Result<UnixStream> {
    let connecting = spawn_blocking(move || {
        let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // It limits a connect too.
        set_socket_timeout(&stream, Timeout::Send, Some(QUEUE_TIMEOUT))?;
        connect_blocking(&stream, &SocketAddrUnix::new(&socket)?)?;
        let stream = net::UnixStream::from(stream);
        stream.set_nonblocking(true)?;
        io::Result::Ok(stream)
    });
    let stream = match connecting.await {
        Ok(connected) => connected?,
        Err(error) => return Err(io::Error::other(error)),
    };
    UnixStream::from_std(stream)
}

/// Sends the request, with the file descriptors that the bridge reads or writes itself.
pub(super) async fn send(
    stream: UnixStream,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Conversation, Failure> {
    let json = request
        .encode()
        .map_err(|error| Failure::usage(format!("the request cannot be written as JSON: {error}")))?;
    let (incoming, mut outgoing) = connection::split(stream);
    outgoing.request(json, descriptors).await?;
    Ok(Conversation { incoming, outgoing })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::protocol::request::Operation;

    #[tokio::test]
    async fn a_client_waits_for_a_place_in_the_queue() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let first = net::UnixStream::connect(&path).unwrap();
        let error = UnixStream::connect(&path).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the queue has room");
        let waiting = tokio::spawn(async move { connect(&path).await });
        let accepting = spawn_blocking(move || {
            drop(listener.accept().unwrap());
            listener.accept().unwrap().0
        });
        let connected = waiting.await.unwrap().unwrap().unwrap();
        let mut accepted = accepting.await.unwrap();
        drop((first, connected));
        assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
    }

    /// A bridge has a few threads, which read and write the files of all operations.
    #[test]
    fn a_bridge_that_waits_for_another_ones_queue_holds_no_thread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let first = net::UnixStream::connect(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let request = Request {
                container: None,
                operation: Operation::Logs,
            };
            let waiting = begin_between_bridges(&path, &request);
            tokio::pin!(waiting);
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("the queue has room"),
                () = std::future::ready(()) => {}
            }
            // The only thread is free.
            let accepted = spawn_blocking(move || (listener.accept().unwrap(), listener.accept().unwrap()));
            let accepted = async {
                tokio::time::timeout(QUEUE_TIMEOUT / 2, accepted)
                    .await
                    .expect("a thread is free")
            };
            let (begun, accepted) = tokio::join!(&mut waiting, accepted);
            let ((_, _), (mut second, _)) = accepted.unwrap();
            drop((first, begun.unwrap().unwrap()));
            let mut sent = Vec::new();
            second.read_to_end(&mut sent).unwrap();
            assert!(sent.ends_with(b"}"), "the request has come");
        });
    }
}
