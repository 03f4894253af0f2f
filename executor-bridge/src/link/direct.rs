//! The direct link: TCP to the pod's own address, with TLS between the keys of the two ends (podbridge-tls, ADR 13). Where it
//! leads was told over another link, by an agent that listens for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use podbridge_tls::{Identity, PublicKey};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Dialed, Handle, LinkName, Monitored};
use crate::error::{Failure, Kind, chain};
use crate::pod::Place;

/// Bytes that nobody acknowledges for so long: the pod is out of reach (DESIGN §6).
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Where an agent listens, and who it is.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) key: PublicKey,
    pub(crate) place: Place,
}

pub(super) async fn dial(identity: &Identity, door: &Door, limit: Duration) -> Result<Dialed, Failure> {
    let unreachable =
        |kind, why: &str| Failure::new(kind, format!("the agent is not reached at {}: {why}", door.address));
    let (stream, own) = match timeout(limit, connect(identity, door)).await {
        Ok(connected) => connected.map_err(|error| unreachable(Kind::Agent, &chain(&error)))?,
        Err(_) => {
            let why = format!("no answer within {} s", limit.as_secs());
            return Err(unreachable(Kind::Timeout, &why));
        }
    };
    let handle = Handle::new(Some(own));
    Ok(Dialed {
        pipe: Box::new(Monitored::new(stream, handle.clone())),
        handle,
        place: Some(door.place.clone()),
        link: LinkName::Direct,
    })
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(identity: &Identity, door: &Door) -> io::Result<(Stream, std::os::fd::OwnedFd)> {
    let config = identity.client(door.key.clone()).map_err(io::Error::other)?;
    let socket = TcpStream::connect(door.address).await?;
    socket.set_nodelay(true)?;
    set_tcp_user_timeout(&socket, UNACKNOWLEDGED.as_millis() as u32)?;
    let own = rustix::io::fcntl_dupfd_cloexec(&socket, 3)?;
    // The key is what counts, not the name.
    let name = door.address.ip().into();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    Ok((stream, own))
}
