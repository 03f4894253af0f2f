//! The direct link: TCP to the pod's own address, with TLS between the keys of the two ends (podbridge-tls, ADR 13). Where it
//! leads was told over another link, by an agent that listens for it.

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
use crate::link::{Dialed, Handle, LinkName, Monitored};
use crate::pod::ContainerRef;

/// What waits in the kernel for so long, not acknowledged or without room at the other end: that is out of reach (DESIGN §6).
const STUCK: Duration = Duration::from_secs(30);

/// Where an agent listens, and who it is.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) key: PublicKey,
    pub(crate) place: ContainerRef,
}

/// The caller says how long it may take.
pub(crate) async fn dial(identity: &Identity, door: &Door) -> Result<Dialed, Failure> {
    let connected = connect(identity, door).await;
    let (stream, own) = connected.map_err(|error| {
        let why = format!("nothing answers at {}: {}", door.address, chain(&error));
        Failure::new(Kind::Agent, why)
    })?;
    let handle = Handle::new(Some(own));
    Ok(Dialed {
        pipe: Box::new(Monitored::new(stream, handle.clone())),
        handle,
        place: Some(door.place.clone()),
        link: LinkName::Direct,
    })
}

async fn connect(identity: &Identity, door: &Door) -> io::Result<(TlsStream<TcpStream>, OwnedFd)> {
    let config = identity.client_config(door.key.clone()).map_err(io::Error::other)?;
    let socket = TcpStream::connect(door.address).await?;
    socket.set_nodelay(true)?;
    set_tcp_user_timeout(&socket, STUCK.as_millis() as u32)?;
    let own = rustix::io::fcntl_dupfd_cloexec(&socket, 3)?;
    // The key is what counts, not the name.
    let name = door.address.ip().into();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    Ok((stream, own))
}
