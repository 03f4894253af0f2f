//! From a link through the API server to a direct one: found over the first while that serves already, remembered for the next, and
//! left alone for a while when it was of no use. One for each container; `line` asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podbridge_proto::limits::LINK_DIRECT;
use podbridge_tls::PublicKey;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::Lane;
use super::line::Ends;
use super::{Connection, status};
use crate::error::{Failure, Kind};
use crate::link::{Door, Handle, LinkName};

/// For the first try, beside a link that serves.
const FIRST: Duration = Duration::from_secs(3);
/// For one that served before: what is gone must not hold up the dial of another link for long.
const AGAIN: Duration = Duration::from_secs(1);
/// What is large waits so long for the faster link: several round trips, and less than anybody notices.
pub(super) const GRACE: Duration = Duration::from_millis(100);
/// After a direct link that broke or that there was none. A network that lets a handshake pass and no more would else be tried for ever.
const DISTRUST: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Direct(watch::Sender<State>);

#[derive(Debug)]
enum State {
    Untried,
    Trying,
    Known(Arc<Way>),
    Distrusted { instance: String, since: Instant },
}

/// To one agent.
#[derive(Debug)]
struct Way {
    door: Door,
    instance: String,
    /// Of the links that were dialled on it.
    links: std::sync::Mutex<Vec<Handle>>,
}

impl Default for Direct {
    fn default() -> Self {
        Self(watch::Sender::new(State::Untried))
    }
}

impl Direct {
    /// Whether a direct link is to be sought over this connection.
    pub(super) fn begin(&self, connection: &Connection) -> bool {
        if connection.link == LinkName::Direct || refusal(connection).is_some() {
            return false;
        }
        let instance = &connection.agent.instance;
        self.0.send_if_modified(|state| match state {
            State::Distrusted { instance: known, since } if known == instance && since.elapsed() < DISTRUST => false,
            _ => {
                *state = State::Trying;
                true
            }
        })
    }

    fn distrust(&self, instance: &str) {
        self.0.send_replace(State::Distrusted {
            instance: instance.to_owned(),
            since: Instant::now(),
        });
    }

    /// The way that served before, unless a link on it broke.
    async fn known(&self, lane: Lane) -> Option<Arc<Way>> {
        if lane == Lane::Bulk {
            let mut state = self.0.subscribe();
            let _ = timeout(GRACE, state.wait_for(|state| !matches!(state, State::Trying))).await;
        }
        let State::Known(way) = &*self.0.borrow() else {
            return None;
        };
        Some(way.clone())
    }
}

/// Why there can be no direct link to this agent.
fn refusal(connection: &Connection) -> Option<&'static str> {
    let place = connection.place.as_ref();
    if place.is_none_or(|place| place.address.is_none()) {
        return Some("its pod has no address of its own");
    }
    (!connection.can(LINK_DIRECT))
        .then_some("its agent is older and offers none; install the same release on both sides")
}

impl Way {
    fn has_broken(&self) -> bool {
        let mut links = self.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let broken = links.iter().any(Handle::has_broken);
        links.retain(|link| link.ended().is_none());
        broken
    }
}

impl Ends {
    /// A direct connection, if one was possible before.
    pub(super) async fn directly(&self, lane: Lane) -> Option<Connection> {
        let way = self.direct.known(lane).await?;
        let why = match way.has_broken() {
            true => "the one before it broke".to_owned(),
            false => match self.walk(&way, lane, AGAIN).await {
                Ok(connection) => return Some(connection),
                Err(failure) => failure.message,
            },
        };
        tracing::info!(pod = self.linker.pod(), why, "no direct link");
        self.direct.distrust(&way.instance);
        None
    }

    /// A direct connection to the agent behind this one.
    pub(super) async fn find_direct(&self, over: &Connection) -> Result<Connection, Failure> {
        let found = match self.enroll(over).await {
            Ok(way) => {
                let way = Arc::new(way);
                self.walk(&way, over.lane, FIRST)
                    .await
                    .map(|connection| (way, connection))
            }
            Err(failure) => Err(failure),
        };
        match found {
            Ok((way, connection)) => {
                self.direct.0.send_replace(State::Known(way));
                Ok(connection)
            }
            Err(failure) => {
                self.direct.distrust(&over.agent.instance);
                Err(failure)
            }
        }
    }

    async fn enroll(&self, over: &Connection) -> Result<Way, Failure> {
        let failed = |why: &str| {
            let pod = self.linker.pod();
            Failure::new(Kind::Agent, format!("there is no direct link to pod {pod}: {why}"))
        };
        let place = over.place.clone();
        let (Some(place), None) = (place, refusal(over)) else {
            return Err(failed(refusal(over).unwrap_or_default()));
        };
        let address = place
            .address
            .ok_or_else(|| failed("its pod has no address of its own"))?;
        let key = self.linker.public_key()?;
        let answer = match timeout(FIRST, over.enroll(&key, address)).await {
            Ok(answer) => answer.map_err(|status| failed(&status::reason(&status)))?,
            Err(_) => return Err(failed("its agent did not answer")),
        };
        let key = PublicKey::try_from(answer.agent_key.to_vec()).map_err(|error| failed(&error.to_string()))?;
        let port = u16::try_from(answer.port).map_err(|_| failed("its agent named no port"))?;
        Ok(Way {
            door: Door {
                address: SocketAddr::new(address, port),
                key,
                place,
            },
            instance: over.agent.instance.clone(),
            links: Default::default(),
        })
    }

    async fn walk(&self, way: &Way, lane: Lane, limit: Duration) -> Result<Connection, Failure> {
        let dialed = self.linker.dial_direct(&way.door, limit).await?;
        let connection = Connection::open(dialed, lane, limit).await?;
        // Only the agent has the key; this says that no other one of its process id was enrolled.
        if connection.agent.instance != way.instance {
            connection.handle.end("it leads to another agent");
            return Err(Failure::new(Kind::Agent, "another agent answers there"));
        }
        let mut links = way.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        links.push(connection.handle.clone());
        Ok(connection)
    }
}
