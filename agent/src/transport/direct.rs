//! The way to the agent over the pod's own address: TCP with TLS, open from the first bridge on that enrolls, for the keys of
//! bridges that did (podbridge-tls, ADR 13). `rpc` enrolls; what comes goes where `listener`'s connections go.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podbridge_tls::{AllowedKeys, Identity, KeyGenerationError, PublicKey};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, rustls};

use super::connection::{Connection, ConnectionGuard, ConnectionQueue, Transport};
use super::listener::ACCEPT_RETRY_PAUSE;

/// A pod has one or two of them.
const MAX_ADDRESSES: usize = 4;
/// Everybody who reaches the pod can begin a handshake: so many at once, each no longer than this.
const MAX_HANDSHAKES: usize = 16;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Whoever failed keeps his place so long: what a handshake costs before anything is proven, strangers cannot ask for without end.
const FAILED_HANDSHAKE_PAUSE: Duration = Duration::from_millis(100);
/// What waits in the kernel for so long, not acknowledged or without room at the other end: that is out of reach (DESIGN §6).
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    KeyGeneration(#[from] KeyGenerationError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the agent cannot listen on {address}: {source}")]
    Listen { address: IpAddr, source: io::Error },
    #[error("the agent listens on {MAX_ADDRESSES} addresses already, more than a pod has")]
    TooManyAddresses,
}

/// Where a bridge finds the agent, and by which key it knows it.
#[derive(Debug)]
pub(crate) struct Enrolment {
    pub(crate) key: PublicKey,
    pub(crate) port: u16,
}

#[derive(Debug)]
pub(crate) struct DirectListener {
    queue: ConnectionQueue,
    /// `None` until a bridge enrolls.
    open: Mutex<Option<ListenerState>>,
}

struct ListenerState {
    identity: Identity,
    allowed_keys: Arc<AllowedKeys>,
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
    ports: HashMap<IpAddr, u16>,
}

impl std::fmt::Debug for ListenerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerState")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl DirectListener {
    pub(crate) fn new(queue: ConnectionQueue) -> Self {
        Self {
            queue,
            open: Mutex::default(),
        }
    }

    pub(crate) async fn enroll(&self, bridge: PublicKey, address: IpAddr) -> Result<Enrolment, Error> {
        let mut open = self.open.lock().await;
        let open = match &mut *open {
            Some(open) => open,
            closed => closed.insert(ListenerState::new()?),
        };
        let port = match open.ports.get(&address) {
            Some(port) => *port,
            None => open.listen(address, &self.queue).await?,
        };
        open.allowed_keys.add(bridge);
        Ok(Enrolment {
            key: open.identity.public_key().clone(),
            port,
        })
    }
}

impl ListenerState {
    fn new() -> Result<Self, Error> {
        let identity = Identity::new()?;
        let allowed_keys = Arc::new(AllowedKeys::default());
        let config = identity.server_config(allowed_keys.clone())?;
        Ok(Self {
            identity,
            allowed_keys,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            ports: HashMap::new(),
        })
    }

    async fn listen(&mut self, address: IpAddr, queue: &ConnectionQueue) -> Result<u16, Error> {
        if self.ports.len() == MAX_ADDRESSES {
            return Err(Error::TooManyAddresses);
        }
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind((address, 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        self.ports.insert(address, port);
        tracing::info!(%address, port, "agent listens for direct links");
        let (acceptor, handshakes) = (self.acceptor.clone(), self.handshakes.clone());
        tokio::spawn(accept(listener, acceptor, handshakes, queue.clone()));
        Ok(port)
    }
}

/// Ends with the agent.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, handshakes: Arc<Semaphore>, queue: ConnectionQueue) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "direct connection not accepted");
                sleep(ACCEPT_RETRY_PAUSE).await;
                continue;
            }
        };
        // A bridge that finds no place has its other link.
        let Ok(turn) = handshakes.clone().try_acquire_owned() else {
            continue;
        };
        let (acceptor, queue) = (acceptor.clone(), queue.clone());
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE_TIMEOUT, shake_hands(socket, &acceptor)).await;
            let Ok(Ok(stream)) = shaken else {
                // Whoever scans the network must not fill the log.
                tracing::debug!("direct connection refused");
                return sleep(FAILED_HANDSHAKE_PAUSE).await;
            };
            drop(turn);
            let connection = Connection {
                transport: Transport::Direct(Box::new(stream)),
                _guard: ConnectionGuard::new(queue.count.clone()),
            };
            // Nobody takes it when the agent ends.
            let _ = queue.connections.send(connection).await;
        });
    }
}

async fn shake_hands(
    socket: TcpStream,
    acceptor: &TlsAcceptor,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    set_tcp_user_timeout(&socket, UNACKNOWLEDGED_TIMEOUT.as_millis() as u32)?;
    acceptor.accept(socket).await
}
