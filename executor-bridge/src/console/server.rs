//! Accepts TCP connections of Zuul's console stream and limits their number. `daemon` runs it on both ports of a bridge
//! in Zuul's slot, and at the address of a pod that a job made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::console::connection;
use crate::console::siblings::Siblings;
use crate::console::strangers::Strangers;
use crate::session::Session;

/// Pause after a failed accept, most likely for lack of file descriptors.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Most connections, whatever the number of file descriptors: an idle one costs a kilobyte or two. Zuul has one for each task of a playbook.
const MAX_CONNECTIONS: usize = 16_384;

/// State that all connections share.
#[derive(Debug)]
pub(crate) struct Console {
    session: Arc<Session>,
    siblings: Siblings,
    strangers: Arc<Strangers>,
    /// Limit on connections, at most half of the file descriptors: the other half is for the tasks of the build.
    connection_permits: Arc<Semaphore>,
}

impl Console {
    /// Makes the server. `socket`: the bridge's own socket, if the bridges of the build's other pods are beside it.
    pub(crate) fn new(session: Arc<Session>, socket: Option<PathBuf>) -> Arc<Self> {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(descriptors / 2)
            .unwrap_or(usize::MAX)
            .min(MAX_CONNECTIONS);
        Arc::new(Self {
            siblings: Siblings::new(session.clone(), socket),
            session,
            strangers: Arc::new(Strangers::new(most)),
            connection_permits: Arc::new(Semaphore::new(most)),
        })
    }

    /// Serves one port for as long as the process runs.
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
                self.session
                    .refusals()
                    .note("a console connection was refused because too many are open");
                continue;
            };
            let console = self.clone();
            tokio::spawn(async move {
                // Lines must arrive as they are written. An error concerns only this connection, whose client is gone.
                let _ = stream.set_nodelay(true);
                let _ = connection::serve(stream, &console.session, &console.siblings, &console.strangers).await;
                drop(permit);
            });
        }
    }
}
