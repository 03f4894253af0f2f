//! What is known of the direct route to one container's agent: unknown, being tried, known, or on hold after it broke or could not be
//! had. Pure state, no I/O; one for each container. `upgrade` fills it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use podbridge_tls::Identity;
use tokio::sync::watch;

use crate::error::{Failure, Kind};
use crate::link::{Door, Handle};

/// What is large waits so long for the faster link: several round trips, and less than anybody notices.
pub(crate) const UPGRADE_WAIT: Duration = Duration::from_millis(100);
/// After a direct link that broke, or could not be had. A network that lets a handshake pass and no more would else be tried for ever.
const HOLD: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct DirectRoutes {
    state: watch::Sender<State>,
    /// This container's alone: an agent that passed another's answer off as its own would lead to a door that is closed.
    identity: OnceLock<Identity>,
}

#[derive(Debug)]
enum State {
    Unknown,
    Trying,
    Known(Arc<DirectRoute>),
    OnHold { instance: String, since: Instant },
}

/// To one agent.
#[derive(Debug)]
pub(crate) struct DirectRoute {
    pub(crate) door: Door,
    pub(crate) instance: String,
    /// Of the links that were dialled on it.
    links: Mutex<Vec<Handle>>,
}

impl Default for DirectRoutes {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::Unknown),
            identity: OnceLock::new(),
        }
    }
}

impl DirectRoutes {
    /// Whether a direct link to this agent is to be sought.
    pub(crate) fn begin(&self, instance: &str) -> bool {
        let mut seek = true;
        self.state.send_if_modified(|state| match state {
            State::OnHold { instance: known, since } if known == instance && since.elapsed() < HOLD => {
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
    pub(crate) fn found(&self, way: Arc<DirectRoute>, link: Handle) {
        self.state.send_modify(|state| match state {
            State::Known(known) if known.instance == way.instance => known.add(link),
            _ => {
                way.add(link);
                *state = State::Known(way);
            }
        });
    }

    /// Nothing was found out.
    pub(crate) fn forget(&self, instance: &str) {
        self.state.send_if_modified(|state| {
            let ours = match state {
                State::Trying => true,
                State::Known(way) => way.instance == instance,
                State::Unknown | State::OnHold { .. } => false,
            };
            if ours {
                *state = State::Unknown;
            }
            ours
        });
    }

    pub(crate) fn put_on_hold(&self, instance: &str) {
        self.state.send_if_modified(|state| {
            // What is known of a later agent stays.
            let ours = !matches!(state, State::Known(way) if way.instance != instance);
            if ours {
                *state = State::OnHold {
                    instance: instance.to_owned(),
                    since: Instant::now(),
                };
            }
            ours
        });
    }

    pub(crate) fn known(&self) -> Option<Arc<DirectRoute>> {
        match &*self.state.borrow() {
            State::Known(way) => Some(way.clone()),
            State::Unknown | State::Trying | State::OnHold { .. } => None,
        }
    }

    pub(crate) async fn tried(&self) {
        let mut state = self.state.subscribe();
        // We hold its sender ourselves: it cannot be gone.
        let _ = state.wait_for(|state| !matches!(state, State::Trying)).await;
    }

    pub(crate) fn identity(&self) -> Result<&Identity, Failure> {
        if self.identity.get().is_none() {
            let made = Identity::new().map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
            // Another lane may have been first: its key is the one that counts.
            let _ = self.identity.set(made);
        }
        Ok(self.identity.get().expect("it was set a line before"))
    }
}

impl DirectRoute {
    pub(crate) fn new(door: Door, instance: String) -> Self {
        Self {
            door,
            instance,
            links: Mutex::default(),
        }
    }

    fn add(&self, link: Handle) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.ended().is_none() || link.has_broken());
        links.push(link);
    }

    pub(crate) fn has_broken(&self) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().any(Handle::has_broken)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::pod::ContainerRef;

    fn way(instance: &str) -> Arc<DirectRoute> {
        Arc::new(DirectRoute {
            door: Door {
                address: "192.0.2.1:4000".parse().unwrap(),
                key: Identity::new().unwrap().public_key().clone(),
                place: ContainerRef {
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
        let direct = DirectRoutes::default();
        assert!(direct.begin("one"));
        direct.put_on_hold("one");
        assert!(!direct.begin("one"));
        assert!(direct.begin("two"));
    }

    #[test]
    fn a_broken_way_to_the_agent_says_nothing_of_direct_links() {
        let direct = DirectRoutes::default();
        assert!(direct.begin("one"));
        direct.forget("one");
        assert!(direct.begin("one"));
        direct.found(way("one"), link());
        assert!(direct.known().is_some());
        // Of an earlier agent, and late.
        direct.forget("zero");
        direct.put_on_hold("zero");
        assert!(direct.known().is_some());
    }

    #[test]
    fn a_break_counts_whichever_lane_had_the_link() {
        let direct = DirectRoutes::default();
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
        let direct = DirectRoutes::default();
        let control = link();
        direct.found(way("one"), control.clone());
        control.end("nobody needs it");
        assert!(!direct.known().unwrap().has_broken());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_by_any_answer() {
        let direct = Arc::new(DirectRoutes::default());
        direct.tried().await;
        for answer in [DirectRoutes::forget, DirectRoutes::put_on_hold] {
            assert!(direct.begin("one"));
            assert!(timeout(UPGRADE_WAIT, direct.tried()).await.is_err());
            answer(&direct, "one");
            direct.tried().await;
            direct.found(way("two"), link());
            direct.forget("two");
        }
    }
}
