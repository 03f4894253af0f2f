//! The direct link: TCP to the pod's own address, with TLS between the keys of the two ends (podbridge-tls, ADR 13). The agent gave
//! the address and its key over another link, and listens there. `connections` decides when to dial it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use podbridge_tls::{Identity, PublicKey};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Failure, Kind, chain};
use crate::link::{DialedLink, Handle, LinkName, MonitoredPipe};
use crate::pod::ContainerRef;

/// TCP_USER_TIMEOUT: the kernel ends a connection whose sent bytes stay unacknowledged, or find a full receiver, for this time. It is short,
/// because the API server's link takes over without a loss: a network policy that drops packets delays the next command by this time, and a
/// starved agent cannot cause it, as the pod's kernel acknowledges.
const USER_TIMEOUT: Duration = Duration::from_millis(1500);

/// The address at which an agent listens, with the agent's key and container.
#[derive(Debug)]
pub(crate) struct DirectAddress {
    pub(crate) socket_address: SocketAddr,
    pub(crate) key: PublicKey,
    pub(crate) container: ContainerRef,
}

/// Dials an agent at its direct address. The caller sets the time limit.
pub(crate) async fn dial(identity: &Identity, direct: &DirectAddress) -> Result<DialedLink, Failure> {
    let connected = connect(identity, direct).await;
    let (stream, socket) = connected.map_err(|error| {
        let why = format!("nothing answers at {}: {}", direct.socket_address, chain(&error));
        Failure::new(Kind::Agent, why)
    })?;
    let handle = Handle::new(Some(socket));
    Ok(DialedLink {
        pipe: Box::new(MonitoredPipe::new(stream, handle.clone())),
        handle,
        container: Some(direct.container.clone()),
        name: LinkName::Direct,
    })
}

/// Returns the TLS stream, and a duplicate of its socket for the handle.
async fn connect(identity: &Identity, direct: &DirectAddress) -> io::Result<(TlsStream<TcpStream>, OwnedFd)> {
    let config = identity.client_config(direct.key.clone()).map_err(io::Error::other)?;
    let socket = TcpStream::connect(direct.socket_address).await?;
    socket.set_nodelay(true)?;
    set_tcp_user_timeout(&socket, USER_TIMEOUT.as_millis() as u32)?;
    let duplicate = rustix::io::fcntl_dupfd_cloexec(&socket, 3)?;
    // TLS wants a server name; podbridge-tls compares the key and ignores the name.
    let name = direct.socket_address.ip().into();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    Ok((stream, duplicate))
}
