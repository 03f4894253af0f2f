//! The direct route to the agent of one container: unknown, being searched, known, or on hold after a failure. Pure state of one container;
//! does no I/O. `upgrade` reads and changes it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use podbridge_tls::Identity;
use tokio::sync::watch;

use crate::error::{Failure, Kind};
use crate::link::{DirectAddress, Handle};

/// Time for which a bulk operation waits for the faster link: several round trips, and too short for a user to notice.
pub(crate) const UPGRADE_WAIT: Duration = Duration::from_millis(100);
/// Pause of the search after a direct link broke or could not be dialled. Without it a network that passes a handshake and nothing else
/// would be tried for ever.
const HOLD_TIME: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct DirectRoutes {
    state: watch::Sender<State>,
    /// Key of this bridge for this container alone. If an agent returned the address and key of another container's agent, that agent
    /// would not accept this key.
    identity: OnceLock<Identity>,
}

#[derive(Debug)]
enum State {
    Unknown,
    Searching,
    Known(Arc<DirectRoute>),
    OnHold { instance: String, since: Instant },
}

/// A direct route to one agent.
#[derive(Debug)]
pub(crate) struct DirectRoute {
    pub(crate) address: DirectAddress,
    /// Instance of the agent.
    pub(crate) instance: String,
    /// Handles of the links that were dialled on this route.
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
    /// Tells whether to look for a direct link to this agent, and notes that the search has begun.
    pub(crate) fn begin_search(&self, instance: &str) -> bool {
        let mut search = true;
        self.state.send_if_modified(|state| match state {
            State::OnHold { instance: known, since } if known == instance && since.elapsed() < HOLD_TIME => {
                search = false;
                false
            }
            State::Known(route) if route.instance == instance => false,
            _ => {
                *state = State::Searching;
                true
            }
        });
        search
    }

    /// Adds a link on a route. Both lanes may find a route to the same agent at once: then the first route has the links of both.
    pub(crate) fn add_link(&self, route: Arc<DirectRoute>, link: Handle) {
        self.state.send_modify(|state| match state {
            State::Known(known) if known.instance == route.instance => known.add(link),
            _ => {
                route.add(link);
                *state = State::Known(route);
            }
        });
    }

    /// Ends a search without a result, or forgets the route to this agent.
    pub(crate) fn forget(&self, instance: &str) {
        self.state.send_if_modified(|state| {
            let concerned = match state {
                State::Searching => true,
                State::Known(route) => route.instance == instance,
                State::Unknown | State::OnHold { .. } => false,
            };
            if concerned {
                *state = State::Unknown;
            }
            concerned
        });
    }

    /// Refuses further searches for this agent, for a while.
    pub(crate) fn put_on_hold(&self, instance: &str) {
        self.state.send_if_modified(|state| {
            // A known route to another, later agent stays.
            let concerned = !matches!(state, State::Known(route) if route.instance != instance);
            if concerned {
                *state = State::OnHold {
                    instance: instance.to_owned(),
                    since: Instant::now(),
                };
            }
            concerned
        });
    }

    pub(crate) fn known_route(&self) -> Option<Arc<DirectRoute>> {
        match &*self.state.borrow() {
            State::Known(route) => Some(route.clone()),
            State::Unknown | State::Searching | State::OnHold { .. } => None,
        }
    }

    /// Waits until no search is running.
    pub(crate) async fn wait_for_search(&self) {
        let mut state = self.state.subscribe();
        // The error case cannot happen: `self` holds the sender.
        let _ = state.wait_for(|state| !matches!(state, State::Searching)).await;
    }

    /// Returns this bridge's key for this container; makes it on first use.
    pub(crate) fn identity(&self) -> Result<&Identity, Failure> {
        if self.identity.get().is_none() {
            let made = Identity::new().map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
            // The other lane may have set a key meanwhile: then that key is used.
            let _ = self.identity.set(made);
        }
        Ok(self.identity.get().expect("it was set a line before"))
    }
}

impl DirectRoute {
    pub(crate) fn new(address: DirectAddress, instance: String) -> Self {
        Self {
            address,
            instance,
            links: Mutex::default(),
        }
    }

    /// Adds the handle of a link, and drops handles of links that were ended on purpose.
    fn add(&self, link: Handle) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.end_reason().is_none() || link.has_broken());
        links.push(link);
    }

    /// Tells whether any link on this route broke, whichever lane it belonged to.
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

    fn route(instance: &str) -> Arc<DirectRoute> {
        Arc::new(DirectRoute {
            address: DirectAddress {
                socket_address: "192.0.2.1:4000".parse().unwrap(),
                key: Identity::new().unwrap().public_key().clone(),
                container: ContainerRef {
                    pod_uid: "uid".into(),
                    static_pod_uid: None,
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
    fn after_a_failed_search_only_another_agent_is_searched() {
        let routes = DirectRoutes::default();
        assert!(routes.begin_search("one"));
        routes.put_on_hold("one");
        assert!(!routes.begin_search("one"));
        assert!(routes.begin_search("two"));
    }

    #[test]
    fn a_search_without_a_result_may_be_repeated() {
        let routes = DirectRoutes::default();
        assert!(routes.begin_search("one"));
        routes.forget("one");
        assert!(routes.begin_search("one"));
        routes.add_link(route("one"), link());
        assert!(routes.known_route().is_some());
        // Late answers about an earlier agent change nothing.
        routes.forget("zero");
        routes.put_on_hold("zero");
        assert!(routes.known_route().is_some());
    }

    #[test]
    fn a_break_on_either_lane_counts_for_the_route() {
        let routes = DirectRoutes::default();
        let (control, bulk) = (link(), link());
        assert!(routes.begin_search("one"));
        routes.add_link(route("one"), control.clone());
        // The bulk lane did not see the route in time, and found it by itself.
        assert!(routes.begin_search("one"));
        routes.add_link(route("one"), bulk);
        control.note_break("it was cut");
        assert!(routes.known_route().unwrap().has_broken());
        // A new link does not hide the break.
        routes.add_link(route("one"), link());
        assert!(routes.known_route().unwrap().has_broken());
    }

    #[test]
    fn ending_a_link_is_not_counted_as_a_break() {
        let routes = DirectRoutes::default();
        let control = link();
        routes.add_link(route("one"), control.clone());
        control.end("nobody needs it");
        assert!(!routes.known_route().unwrap().has_broken());
    }

    #[tokio::test(start_paused = true)]
    async fn every_result_of_a_search_ends_the_wait() {
        let routes = Arc::new(DirectRoutes::default());
        routes.wait_for_search().await;
        for answer in [DirectRoutes::forget, DirectRoutes::put_on_hold] {
            assert!(routes.begin_search("one"));
            assert!(timeout(UPGRADE_WAIT, routes.wait_for_search()).await.is_err());
            answer(&routes, "one");
            routes.wait_for_search().await;
            routes.add_link(route("two"), link());
            routes.forget("two");
        }
    }
}
