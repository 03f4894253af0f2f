//! The pod of a Zuul build: its containers are kept connected as long as the build lasts, and their logs are known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::connections::{Container, KeepAlive, Reachability};
use crate::session::logs::{Logs, Source, watch_logs};

/// The containers of a build's pod, kept in reach for as long as the build lasts, and their logs.
#[derive(Debug, Default)]
pub(crate) struct BuildPod {
    pub(crate) logs: Arc<Logs>,
    keepers: Mutex<HashMap<Option<String>, Arc<KeepAlive>>>,
}

impl BuildPod {
    pub(crate) fn reach(&self, container: Option<&str>) -> watch::Receiver<Reachability> {
        let keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = keepers.get(&container.map(str::to_owned));
        keeper.map_or_else(|| watch::channel(Reachability::Connecting).1, |keeper| keeper.reach())
    }

    pub(crate) fn keep(&self, container: Arc<Container>) {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        let name = container.name().map(str::to_owned);
        let keeper = KeepAlive::start(container);
        let source = Source::Container(name.clone());
        tokio::spawn(watch_logs(source, self.logs.clone(), keeper.reach()));
        keepers.insert(name, keeper);
    }
}
