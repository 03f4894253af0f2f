//! Accepts the connections of Zuul's console stream on the ports of one bridge, and bounds how many there are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::console::connection;
use crate::console::siblings::Siblings;
use crate::session::Session;

/// After an accept that failed for want of descriptors.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Console {
    session: Arc<Session>,
    siblings: Siblings,
    /// Whoever opens thousands of connections must leave descriptors for the tasks themselves.
    connection_permits: Arc<Semaphore>,
}

impl Console {
    /// `socket`: our own, among those of the bridges of this build's other pods.
    pub(crate) fn new(session: Arc<Session>, socket: PathBuf) -> Arc<Self> {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let connection_permits = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        Arc::new(Self {
            siblings: Siblings::new(session.clone(), socket),
            session,
            connection_permits: Arc::new(Semaphore::new(connection_permits.min(Semaphore::MAX_PERMITS))),
        })
    }

    /// Serves one port for ever.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "console connection not accepted");
                    tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = self.connection_permits.clone().try_acquire_owned() else {
                tracing::warn!("console connection refused: there are too many");
                continue;
            };
            let console = self.clone();
            tokio::spawn(async move {
                // Lines are to arrive as they are written. An error concerns that connection only, which has gone.
                let _ = stream.set_nodelay(true);
                let _ = connection::serve(stream, &console.session, &console.siblings).await;
                drop(permit);
            });
        }
    }
}
