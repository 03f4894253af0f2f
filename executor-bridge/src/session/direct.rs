//! From a link through the API server to a direct one: found over the first while that serves already, remembered for the next, and
//! left alone for a while where it was of no use. One for each container; `line` asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use podbridge_proto::limits::LINK_DIRECT;
use podbridge_tls::{Identity, PublicKey};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::Lane;
use super::diagnosis::is_broken_link;
use super::line::Ends;
use super::{Connection, status};
use crate::error::{Failure, Kind};
use crate::link::{self, Door, Handle, LinkName};
use crate::pod::Place;

/// For the first try, beside a link that serves.
const FIRST: Duration = Duration::from_secs(3);
/// For one that served before: what is gone must not hold up the dial of another link for long.
const AGAIN: Duration = Duration::from_secs(1);
/// What is large waits so long for the faster link: several round trips, and less than anybody notices.
pub(super) const GRACE: Duration = Duration::from_millis(100);
/// After a direct link that broke, or could not be had. A network that lets a handshake pass and no more would else be tried for ever.
const DISTRUST: Duration = Duration::from_secs(600);
/// Below are the services of a host, and never what the kernel chose.
const FIRST_PORT: u16 = 1024;

#[derive(Debug)]
pub(super) struct Direct {
    state: watch::Sender<State>,
    /// This container's alone: an agent that passed another's answer off as its own would lead to a door that is closed.
    identity: OnceLock<Identity>,
}

#[derive(Debug)]
enum State {
    Unknown,
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
    links: Mutex<Vec<Handle>>,
}

/// Why there is no direct link.
#[derive(Debug)]
enum Missing {
    /// The agent offers none, or nothing answers where it should.
    Impossible(Failure),
    /// The link that leads to the agent broke first, which says nothing of direct ones.
    Unknown(Failure),
}

impl Default for Direct {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::Unknown),
            identity: OnceLock::new(),
        }
    }
}

impl Direct {
    /// Whether a direct link to this agent is to be sought.
    fn begin(&self, instance: &str) -> bool {
        let mut seek = true;
        self.state.send_if_modified(|state| match state {
            State::Distrusted { instance: known, since } if known == instance && since.elapsed() < DISTRUST => {
                seek = false;
                false
            }
            State::Known(way) if way.instance == instance => false,
            _ => {
                *state = State::Trying;
                true
            }
        });
        seek
    }

    /// Two lanes may find the same at once: their links are counted together.
    fn found(&self, way: Arc<Way>, link: Handle) {
        self.state.send_modify(|state| match state {
            State::Known(known) if known.instance == way.instance => known.add(link),
            _ => {
                way.add(link);
                *state = State::Known(way);
            }
        });
    }

    /// Nothing was found out.
    fn forget(&self, instance: &str) {
        self.state.send_if_modified(|state| {
            let ours = match state {
                State::Trying => true,
                State::Known(way) => way.instance == instance,
                State::Unknown | State::Distrusted { .. } => false,
            };
            if ours {
                *state = State::Unknown;
            }
            ours
        });
    }

    fn distrust(&self, instance: &str) {
        self.state.send_if_modified(|state| {
            // What is known of a later agent stays.
            let ours = !matches!(state, State::Known(way) if way.instance != instance);
            if ours {
                *state = State::Distrusted {
                    instance: instance.to_owned(),
                    since: Instant::now(),
                };
            }
            ours
        });
    }

    fn known(&self) -> Option<Arc<Way>> {
        match &*self.state.borrow() {
            State::Known(way) => Some(way.clone()),
            State::Unknown | State::Trying | State::Distrusted { .. } => None,
        }
    }

    async fn tried(&self) {
        let mut state = self.state.subscribe();
        // We hold its sender ourselves: it cannot be gone.
        let _ = state.wait_for(|state| !matches!(state, State::Trying)).await;
    }

    fn identity(&self) -> Result<&Identity, Failure> {
        if self.identity.get().is_none() {
            let made = Identity::new().map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
            // Another lane may have been first: its key is the one that counts.
            let _ = self.identity.set(made);
        }
        Ok(self.identity.get().expect("it was set a line before"))
    }
}

impl Way {
    fn add(&self, link: Handle) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.ended().is_none() || link.has_broken());
        links.push(link);
    }

    fn has_broken(&self) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().any(Handle::has_broken)
    }
}

/// Where the agent could listen, or why it cannot.
fn address(connection: &Connection) -> Result<(Place, IpAddr), &'static str> {
    if !connection.can(LINK_DIRECT) {
        return Err("its agent is older and offers none; install the same release on both sides");
    }
    let place = connection.place.clone();
    place
        .and_then(|place| place.address.map(|address| (place, address)))
        .ok_or("it has no address of its own")
}

impl Ends {
    /// Whether there may be a better link than this one.
    pub(super) fn seeks_direct(&self, connection: &Connection) -> bool {
        let possible = connection.link != LinkName::Direct && address(connection).is_ok();
        possible && self.direct.begin(&connection.agent.instance)
    }

    /// A direct connection, if one was possible before.
    pub(super) async fn directly(&self, lane: Lane) -> Option<Connection> {
        if lane == Lane::Bulk {
            let _ = timeout(GRACE, self.direct.tried()).await;
        }
        let way = self.direct.known()?;
        let pod = self.linker.pod();
        if way.has_broken() {
            tracing::info!(pod, "no direct link: the one before it broke");
            self.direct.distrust(&way.instance);
            return None;
        }
        match self.walk(&way, lane, AGAIN).await {
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
    pub(super) async fn find_direct(&self, over: &Connection) -> Result<Connection, Failure> {
        let instance = &over.agent.instance;
        let known = self.direct.known().filter(|way| way.instance == *instance);
        let way = match known {
            Some(way) => Ok(way),
            None => self.enroll(over).await.map(Arc::new),
        };
        let found = match way {
            Ok(way) => match self.walk(&way, over.lane, FIRST).await {
                Ok(connection) => Ok((way, connection)),
                Err(failure) => Err(Missing::Impossible(failure)),
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
            Err(Missing::Impossible(failure)) => {
                self.direct.distrust(instance);
                Err(named(failure))
            }
            Err(Missing::Unknown(failure)) => {
                self.direct.forget(instance);
                Err(named(failure))
            }
        }
    }

    async fn enroll(&self, over: &Connection) -> Result<Way, Missing> {
        let failed = |why: String| Failure::new(Kind::Agent, why);
        let impossible = |why: &str| Missing::Impossible(failed(why.to_owned()));
        let (place, address) = address(over).map_err(impossible)?;
        let key = self.direct.identity().map_err(Missing::Impossible)?.public_key();
        let answer = match timeout(FIRST, over.enroll(key, address)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => {
                let failure = failed(status::reason(&status));
                return Err(match is_broken_link(&status, over) {
                    true => Missing::Unknown(failure.on_the_way_if(true)),
                    false => Missing::Impossible(failure),
                });
            }
            Err(_) => {
                let failure = failed("its agent was not asked in time".into());
                return Err(Missing::Unknown(failure.on_the_way_if(true)));
            }
        };
        let key = PublicKey::try_from(answer.agent_key.to_vec()).map_err(|error| impossible(&error.to_string()))?;
        let port = u16::try_from(answer.port).ok().filter(|port| *port >= FIRST_PORT);
        let port =
            port.ok_or_else(|| impossible(&format!("its agent says that it listens on port {}", answer.port)))?;
        Ok(Way {
            door: Door {
                address: SocketAddr::new(address, port),
                key,
                place,
            },
            instance: over.agent.instance.clone(),
            links: Mutex::default(),
        })
    }

    async fn walk(&self, way: &Way, lane: Lane, limit: Duration) -> Result<Connection, Failure> {
        let address = way.door.address;
        let walked = timeout(limit, async {
            let dialed = link::dial_direct(self.direct.identity()?, &way.door).await?;
            Connection::open(dialed, lane, limit).await
        });
        let connection = walked.await.unwrap_or_else(|_| {
            let why = format!("nothing answers at {address} within {} s", limit.as_secs());
            Err(Failure::new(Kind::Timeout, why))
        });
        let connection = connection.map_err(|failure| failure.on_the_way_if(true))?;
        // The key is the agent's. That it is the agent behind the other link, only this says.
        if connection.agent.instance != way.instance {
            connection.handle.end("it leads to another agent");
            return Err(Failure::new(Kind::Agent, format!("another agent answers at {address}")));
        }
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(instance: &str) -> Arc<Way> {
        Arc::new(Way {
            door: Door {
                address: "192.0.2.1:4000".parse().unwrap(),
                key: Identity::new().unwrap().public_key().clone(),
                place: Place {
                    pod_uid: "uid".into(),
                    container: "main".into(),
                    container_id: "id".into(),
                    restarts: 0,
                    address: None,
                },
            },
            instance: instance.into(),
            links: Mutex::default(),
        })
    }

    fn link() -> Handle {
        Handle::new(None)
    }

    #[test]
    fn what_could_not_be_had_is_left_alone_until_another_agent_is_there() {
        let direct = Direct::default();
        assert!(direct.begin("one"));
        direct.distrust("one");
        assert!(!direct.begin("one"));
        assert!(direct.begin("two"));
    }

    #[test]
    fn a_broken_way_to_the_agent_says_nothing_of_direct_links() {
        let direct = Direct::default();
        assert!(direct.begin("one"));
        direct.forget("one");
        assert!(direct.begin("one"));
        direct.found(way("one"), link());
        assert!(direct.known().is_some());
        // Of an earlier agent, and late.
        direct.forget("zero");
        direct.distrust("zero");
        assert!(direct.known().is_some());
    }

    #[test]
    fn a_break_counts_whichever_lane_had_the_link() {
        let direct = Direct::default();
        let (control, bulk) = (link(), link());
        assert!(direct.begin("one"));
        direct.found(way("one"), control.clone());
        // Bulk was late to see it, and asked for itself.
        assert!(direct.begin("one"));
        direct.found(way("one"), bulk);
        control.note_break("it was cut");
        assert!(direct.known().unwrap().has_broken());
        // And is not forgotten when there is a new link.
        direct.found(way("one"), link());
        assert!(direct.known().unwrap().has_broken());
    }

    #[test]
    fn a_link_that_was_ended_is_no_break() {
        let direct = Direct::default();
        let control = link();
        direct.found(way("one"), control.clone());
        control.end("nobody needs it");
        assert!(!direct.known().unwrap().has_broken());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_by_any_answer() {
        let direct = Arc::new(Direct::default());
        direct.tried().await;
        for answer in [Direct::forget, Direct::distrust] {
            assert!(direct.begin("one"));
            assert!(timeout(GRACE, direct.tried()).await.is_err());
            answer(&direct, "one");
            direct.tried().await;
            direct.found(way("two"), link());
            direct.forget("two");
        }
    }
}
