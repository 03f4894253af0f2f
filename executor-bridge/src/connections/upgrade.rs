//! The upgrade to a direct link: enrols the bridge's key at the agent over another link, and dials the direct route. Keeps no state: the
//! known routes are in `direct_route`. `endpoint` and `lane_connection` call it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use podbridge_proto::limits::LINK_DIRECT;
use podbridge_tls::PublicKey;
use tokio::time::timeout;

use crate::connections::direct_route::{DirectRoute, DirectRoutes, UPGRADE_WAIT};
use crate::connections::{Connection, Lane, is_broken_link, status};
use crate::error::{Failure, Kind, Retry};
use crate::link::{self, DirectAddress, LinkName};
use crate::pod::ContainerRef;

/// Limit of the enrolment, and of the first dial of a route; another link serves meanwhile.
const FIRST_DIAL_LIMIT: Duration = Duration::from_secs(3);
/// Limit of the dial of a known route. It is short: if the route is gone, the dial of another link waits for this.
const KNOWN_ROUTE_LIMIT: Duration = Duration::from_secs(1);
/// Lowest port that is accepted. The kernel gives an agent an ephemeral port; lower ports belong to services of the host.
const LOWEST_PORT: u16 = 1024;

/// Reason why there is no direct link.
#[derive(Debug)]
enum NoDirectRoute {
    /// The agent offers no direct link, or nothing answers at its address.
    Impossible(Failure),
    /// The link to the agent broke first: whether a direct link is possible remains unknown.
    Unknown(Failure),
}

/// Returns where the agent could listen, or the reason why it cannot.
fn direct_endpoint(connection: &Connection) -> Result<(ContainerRef, IpAddr), &'static str> {
    if !connection.can(LINK_DIRECT) {
        return Err("its agent is older and supports no direct links; install the same release on both sides");
    }
    let container = connection.container.clone();
    container
        .and_then(|container| container.address.map(|address| (container, address)))
        .ok_or("it has no address of its own")
}

/// Tells whether to look for a direct link beside this connection, and if so marks the search as begun.
pub(crate) fn begin_search(routes: &DirectRoutes, connection: &Connection) -> bool {
    let possible = connection.link != LinkName::Direct && direct_endpoint(connection).is_ok();
    possible && routes.begin_search(&connection.agent.instance)
}

/// Dials the known direct route; `None` if there is none or the dial fails. The bulk lane first waits a moment for a running search.
pub(crate) async fn try_known_route(routes: &DirectRoutes, pod: &str, lane: Lane) -> Option<Connection> {
    if lane == Lane::Bulk {
        let _ = timeout(UPGRADE_WAIT, routes.wait_for_search()).await;
    }
    let route = routes.known_route()?;
    if route.has_broken() {
        tracing::info!(pod, "no direct link: the previous one broke");
        routes.put_on_hold(&route.instance);
        return None;
    }
    match dial_route(routes, &route, lane, KNOWN_ROUTE_LIMIT).await {
        Ok(connection) => {
            routes.add_link(route, connection.handle.clone());
            Some(connection)
        }
        // Perhaps another agent runs there now, or this one has forgotten our key. The next connection to the agent finds out.
        Err(failure) => {
            tracing::info!(pod, why = failure.message, "no direct link");
            routes.forget(&route.instance);
            None
        }
    }
}

/// Returns a direct connection to the agent at the other end of the connection `over`. Enrols the bridge's key first if no route to this
/// agent is known.
pub(crate) async fn find_direct(routes: &DirectRoutes, pod: &str, over: &Connection) -> Result<Connection, Failure> {
    let instance = &over.agent.instance;
    let known = routes.known_route().filter(|route| route.instance == *instance);
    let route = match known {
        Some(route) => Ok(route),
        None => enroll(routes, over).await.map(Arc::new),
    };
    let dialed = match route {
        Ok(route) => match dial_route(routes, &route, over.lane, FIRST_DIAL_LIMIT).await {
            Ok(connection) => Ok((route, connection)),
            Err(failure) => Err(NoDirectRoute::Impossible(failure)),
        },
        Err(no_route) => Err(no_route),
    };
    let with_pod = |failure: Failure| Failure {
        message: format!("there is no direct link to pod {pod}: {}", failure.message),
        ..failure
    };
    match dialed {
        Ok((route, connection)) => {
            routes.add_link(route, connection.handle.clone());
            Ok(connection)
        }
        Err(NoDirectRoute::Impossible(failure)) => {
            routes.put_on_hold(instance);
            Err(with_pod(failure))
        }
        Err(NoDirectRoute::Unknown(failure)) => {
            routes.forget(instance);
            Err(with_pod(failure))
        }
    }
}

/// Asks the agent to listen for this bridge's key, and returns the route to it.
async fn enroll(routes: &DirectRoutes, over: &Connection) -> Result<DirectRoute, NoDirectRoute> {
    let failed = |why: String| Failure::new(Kind::Agent, why);
    let impossible = |why: &str| NoDirectRoute::Impossible(failed(why.to_owned()));
    let (container, address) = direct_endpoint(over).map_err(impossible)?;
    let key = routes.identity().map_err(NoDirectRoute::Impossible)?.public_key();
    let answer = match timeout(FIRST_DIAL_LIMIT, over.enroll(key, address)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => {
            let failure = failed(status::reason(&status));
            return Err(if is_broken_link(&status, over) {
                NoDirectRoute::Unknown(failure.with_retry(Retry::LinkCut))
            } else {
                NoDirectRoute::Impossible(failure)
            });
        }
        Err(_) => {
            let failure = failed("its agent did not answer in time".into());
            return Err(NoDirectRoute::Unknown(failure.with_retry(Retry::LinkCut)));
        }
    };
    let key = PublicKey::try_from(answer.agent_key.to_vec()).map_err(|error| impossible(&error.to_string()))?;
    let port = u16::try_from(answer.port).ok().filter(|port| *port >= LOWEST_PORT);
    let port = port.ok_or_else(|| impossible(&format!("its agent says that it listens on port {}", answer.port)))?;
    let address = DirectAddress {
        socket_address: SocketAddr::new(address, port),
        key,
        container,
    };
    Ok(DirectRoute::new(address, over.agent.instance.clone()))
}

async fn dial_route(
    routes: &DirectRoutes,
    route: &DirectRoute,
    lane: Lane,
    limit: Duration,
) -> Result<Connection, Failure> {
    let address = route.address.socket_address;
    let dialed = timeout(limit, async {
        let dialed = link::dial_direct(routes.identity()?, &route.address).await?;
        Connection::open(dialed, lane, limit).await
    });
    let connection = dialed.await.unwrap_or_else(|_| {
        let why = format!("nothing answers at {address} within {} s", limit.as_secs());
        Err(Failure::new(Kind::Timeout, why))
    });
    let connection = connection.map_err(|failure| failure.with_retry(Retry::LinkCut))?;
    // TLS has proved that the other end has the enrolled agent's key. Only the instance proves that it is still the same agent.
    if connection.agent.instance != route.instance {
        connection.handle.end("it leads to another agent");
        return Err(Failure::new(Kind::Agent, format!("another agent answers at {address}")));
    }
    Ok(connection)
}
