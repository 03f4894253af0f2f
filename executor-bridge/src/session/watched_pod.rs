//! A pod whose live logs Zuul reads: its containers stay connected and their logs are known for as long as the bridge runs. `session` owns
//! one if the bridge is in Zuul's slot, or serves a pod that a job made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::connections::{Container, KeepAlive, Reachability};
use crate::session::logs::{LogIndex, LogSource, watch_logs};

/// Keep-alives of the pod's containers, and the index of their logs.
#[derive(Debug, Default)]
pub(crate) struct WatchedPod {
    pub(crate) logs: Arc<LogIndex>,
    keep_alives: Mutex<HashMap<Option<String>, Arc<KeepAlive>>>,
}

impl WatchedPod {
    /// Returns whether the container can be reached, as a value that changes.
    pub(crate) fn reachability(&self, container: Option<&str>) -> watch::Receiver<Reachability> {
        let keep_alives = self.keep_alives.lock().unwrap_or_else(PoisonError::into_inner);
        let keep_alive = keep_alives.get(&container.map(str::to_owned));
        keep_alive.map_or_else(
            || watch::channel(Reachability::Connecting).1,
            |keep_alive| keep_alive.reachability(),
        )
    }

    /// Keeps the container connected and watches its logs from now on.
    pub(crate) fn keep_connected(&self, container: Arc<Container>) {
        let mut keep_alives = self.keep_alives.lock().unwrap_or_else(PoisonError::into_inner);
        let name = container.name().map(str::to_owned);
        let keep_alive = KeepAlive::start(container);
        let source = LogSource::Container(name.clone());
        self.logs.note_incomplete(&source);
        tokio::spawn(watch_logs(source, self.logs.clone(), keep_alive.reachability()));
        keep_alives.insert(name, keep_alive);
    }
}
