//! A pod whose live logs Zuul reads: its containers stay connected and their logs are known for as long as the bridge runs. `session` owns
//! one if the bridge is in Zuul's slot, or serves a pod that a job made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::connections::{Container, KeepAlive, Reachability};
use crate::session::logs::{LogIndex, LogSource, watch_logs};

/// Whether the pod's containers can be reached, and the index of their logs.
#[derive(Debug, Default)]
pub(crate) struct WatchedPod {
    pub(crate) logs: Arc<LogIndex>,
    reachabilities: Mutex<HashMap<Option<String>, watch::Receiver<Reachability>>>,
}

impl WatchedPod {
    /// Returns whether the container can be reached, as a value that changes.
    pub(crate) fn reachability(&self, container: Option<&str>) -> watch::Receiver<Reachability> {
        let reachabilities = self.reachabilities.lock().unwrap_or_else(PoisonError::into_inner);
        let reachability = reachabilities.get(&container.map(str::to_owned)).cloned();
        reachability.unwrap_or_else(|| watch::channel(Reachability::Connecting).1)
    }

    /// Keeps the container connected and watches its logs from now on.
    pub(crate) fn keep_connected(&self, container: Arc<Container>) {
        let mut reachabilities = self.reachabilities.lock().unwrap_or_else(PoisonError::into_inner);
        // The names of containers that the pod does not have come from clients, without end. A container that was lost keeps its reason.
        reachabilities.retain(|_, reachability| {
            reachability.has_changed().is_ok() || !matches!(*reachability.borrow(), Reachability::Connecting)
        });
        let name = container.name().map(str::to_owned);
        let reachability = KeepAlive::start(container);
        let source = LogSource::Container(name.clone());
        if name.is_none() {
            // Every pod has it, and logs of an earlier bridge may be in it. Of another one this is known when it is reached.
            self.logs.note_incomplete(&source);
        }
        tokio::spawn(watch_logs(source, self.logs.clone(), reachability.clone()));
        reachabilities.insert(name, reachability);
    }
}
