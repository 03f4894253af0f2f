//! Listens on the pod's own address for direct links: TCP with TLS for the keys of enrolled bridges (podbridge-tls, ADR 13). It listens
//! from the first enrolment on. `rpc::agent` enrols bridges; accepted connections join those of `listener`.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podbridge_tls::{AllowedKeys, Identity, KeyGenerationError, PublicKey};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_rustls::{TlsAcceptor, rustls};

use super::connection::{ConnectionGuard, ConnectionQueue, Transport};
use super::entrance::Entrance;
use super::listener::ACCEPT_RETRY_PAUSE;
use super::log_limit::LogLimit;

/// Limit of addresses; a pod has one or two.
const MAX_ADDRESSES: usize = 4;
/// Limit of handshakes at once. Any process that reaches the pod can start one.
const MAX_HANDSHAKES: usize = 16;
/// Time that a failed handshake keeps its place: it limits the CPU time that clients without an enrolled key can use.
const FAILED_HANDSHAKE_PAUSE: Duration = Duration::from_millis(100);
/// Limit of the time that sent data stays unacknowledged, or unsent because the receiver has no space. After it the kernel ends the
/// connection (TCP_USER_TIMEOUT).
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    KeyGeneration(#[from] KeyGenerationError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0} is no address of a pod")]
    NoPodAddress(IpAddr),
    #[error("the agent cannot listen on {address}: {source}")]
    Listen { address: IpAddr, source: io::Error },
    #[error("the agent already listens on {MAX_ADDRESSES} addresses, more than a pod has")]
    TooManyAddresses,
}

/// What a bridge needs for a direct link: the agent's key and port.
#[derive(Debug)]
pub(crate) struct Enrolment {
    pub(crate) key: PublicKey,
    pub(crate) port: u16,
}

/// Listener for direct links; closed until a bridge enrols.
#[derive(Debug)]
pub(crate) struct DirectListener {
    queue: ConnectionQueue,
    /// `None` until the first enrolment.
    state: Mutex<Option<ListenerState>>,
}

/// State of a listener that is open.
struct ListenerState {
    identity: Identity,
    allowed_keys: Arc<AllowedKeys>,
    acceptor: TlsAcceptor,
    entrance: Arc<Entrance>,
    /// Port of each address that the agent listens on.
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
            state: Mutex::default(),
        }
    }

    /// Accepts direct links of this bridge on the address; starts to listen there if the agent does not yet.
    pub(crate) async fn enroll(&self, bridge: PublicKey, address: IpAddr) -> Result<Enrolment, Error> {
        if !is_pod_address(address) {
            return Err(Error::NoPodAddress(address));
        }
        let mut state = self.state.lock().await;
        let state = match &mut *state {
            Some(state) => state,
            closed => closed.insert(ListenerState::new()?),
        };
        let port = match state.ports.get(&address) {
            Some(port) => *port,
            None => state.listen(address, &self.queue).await?,
        };
        state.allowed_keys.add(bridge);
        Ok(Enrolment {
            key: state.identity.public_key().clone(),
            port,
        })
    }
}

/// Tells whether a pod can have this address. On others the agent would listen for processes of the pod itself, or on every address.
fn is_pod_address(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_broadcast(address))
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
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
            entrance: Arc::new(Entrance::new(MAX_HANDSHAKES)),
            ports: HashMap::new(),
        })
    }

    /// Listens on a port of the kernel's choice and returns it.
    async fn listen(&mut self, address: IpAddr, queue: &ConnectionQueue) -> Result<u16, Error> {
        if self.ports.len() == MAX_ADDRESSES {
            return Err(Error::TooManyAddresses);
        }
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind((address, 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        self.ports.insert(address, port);
        tracing::info!(%address, port, "agent listens for direct links");
        let (acceptor, entrance) = (self.acceptor.clone(), self.entrance.clone());
        tokio::spawn(accept(listener, acceptor, entrance, queue.clone()));
        Ok(port)
    }
}

/// Accepts connections until the agent ends.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, entrance: Arc<Entrance>, queue: ConnectionQueue) {
    let log_limit = LogLimit::default();
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                if let Some(left_out) = log_limit.allow() {
                    tracing::warn!(%error, left_out, "direct connection not accepted");
                }
                sleep(ACCEPT_RETRY_PAUSE).await;
                continue;
            }
        };
        // Without a place the connection is closed: its bridge keeps its other link.
        let Some(mut newcomer) = entrance.try_enter() else {
            continue;
        };
        let (acceptor, queue) = (acceptor.clone(), queue.clone());
        tokio::spawn(async move {
            let introduction = async {
                let stream = shake_hands(socket, &acceptor).await?;
                Transport::Direct(Box::new(stream)).begin_http2().await
            };
            let Some(Ok(Some(transport))) = newcomer.wait_for(introduction).await else {
                // Debug level: a port scan must not fill the log.
                tracing::debug!("direct connection refused");
                return sleep(FAILED_HANDSHAKE_PAUSE).await;
            };
            let guard = ConnectionGuard::new(queue.count.clone());
            queue.send(transport, guard, newcomer).await;
        });
    }
}

/// Runs the TLS handshake; an error if the client has no allowed key.
async fn shake_hands(
    socket: TcpStream,
    acceptor: &TlsAcceptor,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    set_tcp_user_timeout(&socket, UNACKNOWLEDGED_TIMEOUT.as_millis() as u32)?;
    acceptor.accept(socket).await
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, watch};

    use super::*;

    #[tokio::test]
    async fn an_agent_listens_on_few_addresses() {
        let queue = ConnectionQueue {
            connections: mpsc::channel(1).0,
            count: watch::Sender::new(0),
        };
        let mut state = ListenerState::new().unwrap();
        for last in 1..=4 {
            state.listen(IpAddr::from([127, 0, 0, last]), &queue).await.unwrap();
        }
        let refused = state.listen(IpAddr::from([127, 0, 0, 5]), &queue).await;
        assert!(matches!(refused, Err(Error::TooManyAddresses)));
    }
}
