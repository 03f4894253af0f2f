//! The way from a link through the API server to a direct one: enrolment of the bridge's key, and the dial of a direct route.
//! `endpoint` and `lane_connection` call it; `direct_route` holds what is known.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use podbridge_proto::limits::LINK_DIRECT;
use podbridge_tls::PublicKey;
use tokio::time::timeout;

use crate::connections::direct_route::{DirectRoute, UPGRADE_WAIT};
use crate::connections::endpoint::Endpoint;
use crate::connections::{Connection, Lane, is_broken_link, status};
use crate::error::{Failure, Kind, Retry};
use crate::link::{self, Door, LinkName};
use crate::pod::ContainerRef;

/// For the first try, beside a link that serves.
const FIRST: Duration = Duration::from_secs(3);
/// For one that served before: what is gone must not hold up the dial of another link for long.
const AGAIN: Duration = Duration::from_secs(1);
/// Below are the services of a host, and never what the kernel chose.
const FIRST_PORT: u16 = 1024;

/// Why there is no direct link.
#[derive(Debug)]
enum NoDirectRoute {
    /// The agent offers none, or nothing answers where it should.
    Impossible(Failure),
    /// The link that leads to the agent broke first, which says nothing of direct ones.
    Unknown(Failure),
}

/// Where the agent could listen, or why it cannot.
fn address(connection: &Connection) -> Result<(ContainerRef, IpAddr), &'static str> {
    if !connection.can(LINK_DIRECT) {
        return Err("its agent is older and offers none; install the same release on both sides");
    }
    let place = connection.place.clone();
    place
        .and_then(|place| place.address.map(|address| (place, address)))
        .ok_or("it has no address of its own")
}

impl Endpoint {
    /// Whether there may be a better link than this one.
    pub(crate) fn seeks_direct(&self, connection: &Connection) -> bool {
        let possible = connection.link != LinkName::Direct && address(connection).is_ok();
        possible && self.direct.begin(&connection.agent.instance)
    }

    /// A direct connection, if one was possible before.
    pub(crate) async fn try_known_route(&self, lane: Lane) -> Option<Connection> {
        if lane == Lane::Bulk {
            let _ = timeout(UPGRADE_WAIT, self.direct.tried()).await;
        }
        let way = self.direct.known()?;
        let pod = self.linker.pod();
        if way.has_broken() {
            tracing::info!(pod, "no direct link: the one before it broke");
            self.direct.put_on_hold(&way.instance);
            return None;
        }
        match self.dial_route(&way, lane, AGAIN).await {
            Ok(connection) => {
                self.direct.found(way, connection.handle.clone());
                Some(connection)
            }
            // The agent may be another one, or have forgotten our key. The next dial finds out.
            Err(failure) => {
                tracing::info!(pod, why = failure.message, "no direct link");
                self.direct.forget(&way.instance);
                None
            }
        }
    }

    /// A direct connection to the agent behind this one.
    pub(crate) async fn find_direct(&self, over: &Connection) -> Result<Connection, Failure> {
        let instance = &over.agent.instance;
        let known = self.direct.known().filter(|way| way.instance == *instance);
        let way = match known {
            Some(way) => Ok(way),
            None => self.enroll(over).await.map(Arc::new),
        };
        let found = match way {
            Ok(way) => match self.dial_route(&way, over.lane, FIRST).await {
                Ok(connection) => Ok((way, connection)),
                Err(failure) => Err(NoDirectRoute::Impossible(failure)),
            },
            Err(missing) => Err(missing),
        };
        let named = |failure: Failure| Failure {
            message: format!(
                "there is no direct link to pod {}: {}",
                self.linker.pod(),
                failure.message
            ),
            ..failure
        };
        match found {
            Ok((way, connection)) => {
                self.direct.found(way, connection.handle.clone());
                Ok(connection)
            }
            Err(NoDirectRoute::Impossible(failure)) => {
                self.direct.put_on_hold(instance);
                Err(named(failure))
            }
            Err(NoDirectRoute::Unknown(failure)) => {
                self.direct.forget(instance);
                Err(named(failure))
            }
        }
    }

    async fn enroll(&self, over: &Connection) -> Result<DirectRoute, NoDirectRoute> {
        let failed = |why: String| Failure::new(Kind::Agent, why);
        let impossible = |why: &str| NoDirectRoute::Impossible(failed(why.to_owned()));
        let (place, address) = address(over).map_err(impossible)?;
        let key = self.direct.identity().map_err(NoDirectRoute::Impossible)?.public_key();
        let answer = match timeout(FIRST, over.enroll(key, address)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => {
                let failure = failed(status::reason(&status));
                return Err(match is_broken_link(&status, over) {
                    true => NoDirectRoute::Unknown(failure.with_retry(Retry::LinkCut)),
                    false => NoDirectRoute::Impossible(failure),
                });
            }
            Err(_) => {
                let failure = failed("its agent was not asked in time".into());
                return Err(NoDirectRoute::Unknown(failure.with_retry(Retry::LinkCut)));
            }
        };
        let key = PublicKey::try_from(answer.agent_key.to_vec()).map_err(|error| impossible(&error.to_string()))?;
        let port = u16::try_from(answer.port).ok().filter(|port| *port >= FIRST_PORT);
        let port =
            port.ok_or_else(|| impossible(&format!("its agent says that it listens on port {}", answer.port)))?;
        let door = Door {
            address: SocketAddr::new(address, port),
            key,
            place,
        };
        Ok(DirectRoute::new(door, over.agent.instance.clone()))
    }

    async fn dial_route(&self, way: &DirectRoute, lane: Lane, limit: Duration) -> Result<Connection, Failure> {
        let address = way.door.address;
        let walked = timeout(limit, async {
            let dialed = link::dial_direct(self.direct.identity()?, &way.door).await?;
            Connection::open(dialed, lane, limit).await
        });
        let connection = walked.await.unwrap_or_else(|_| {
            let why = format!("nothing answers at {address} within {} s", limit.as_secs());
            Err(Failure::new(Kind::Timeout, why))
        });
        let connection = connection.map_err(|failure| failure.with_retry(Retry::LinkCut))?;
        // The key is the agent's. That it is the agent behind the other link, only this says.
        if connection.agent.instance != way.instance {
            connection.handle.end("it leads to another agent");
            return Err(Failure::new(Kind::Agent, format!("another agent answers at {address}")));
        }
        Ok(connection)
    }
}
