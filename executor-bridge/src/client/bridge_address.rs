//! Which bridge a request is for, and how it is got: one that is started when it is needed, or the one that Zuul's own loop keeps
//! alive. The commands and the `kubectl` shim choose.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::client::conversation::{Conversation, connect, send};
use crate::config::BridgeSettings;
use crate::error::{Failure, Kind};
use crate::launch;
use crate::protocol::request::Request;
use crate::protocol::target::KeyedTarget;
use crate::sockets::Directory;

/// Bridges that die under a request before they have read it, until we give up.
const ATTEMPTS: usize = 3;
/// Zuul's loop starts a bridge again at once; this is for a host that is short of everything.
const SLOT_PATIENCE: Duration = Duration::from_secs(30);
const SLOT_FIRST_PAUSE: Duration = Duration::from_millis(10);
const SLOT_LAST_PAUSE: Duration = Duration::from_millis(320);

#[derive(Debug, Clone)]
pub(crate) enum BridgeAddress {
    /// The target's, started if there is none.
    OnDemand {
        target: KeyedTarget,
        options: BridgeSettings,
    },
    /// The one on this socket. A rival would take a pod of the slot away from Zuul: it is waited for, never started.
    Slot(PathBuf),
}

impl BridgeAddress {
    /// A connection to it, with the request sent.
    pub(crate) async fn begin(&self, request: &Request) -> Result<Conversation, Failure> {
        self.begin_with(request, &[]).await
    }

    /// The same, with files that the bridge reads or writes itself.
    pub(crate) async fn begin_with(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Conversation, Failure> {
        match self {
            BridgeAddress::OnDemand { target, options } => {
                begin_on_demand(target, *options, request, descriptors).await
            }
            BridgeAddress::Slot(socket) => begin_in_slot(socket, request, descriptors).await,
        }
    }
}

async fn begin_on_demand(
    target: &KeyedTarget,
    options: BridgeSettings,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Conversation, Failure> {
    let socket = Directory::open()?.files(&target.key)?.socket;
    let mut attempt = 1;
    loop {
        let stream = match connect(&socket).await? {
            Some(stream) => Ok(stream),
            None => start(target, options).await,
        };
        let sent = match stream {
            Ok(stream) => send(stream, request, descriptors).await,
            Err(failure) => Err(failure),
        };
        match sent {
            // A dying bridge did not begin, or did not read all of it: nothing ran.
            Err(failure) if failure.kind == Kind::Bridge && attempt < ATTEMPTS => attempt += 1,
            sent => return sent,
        }
    }
}

async fn start(target: &KeyedTarget, options: BridgeSettings) -> Result<UnixStream, Failure> {
    let json = serde_json::to_vec(&target.target)
        .map_err(|error| Failure::usage(format!("the target cannot be written as JSON: {error}")))?;
    let socket = launch::launch(target, &json, options)?;
    connect(&socket).await?.ok_or_else(|| {
        Failure::new(
            Kind::Bridge,
            format!(
                "the bridge on {} ended at once; see its log beside it",
                socket.display()
            ),
        )
    })
}

async fn begin_in_slot(
    socket: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Conversation, Failure> {
    let begun = Instant::now();
    let mut pause = SLOT_FIRST_PAUSE;
    loop {
        let sent = match connect(socket).await {
            Ok(Some(stream)) => send(stream, request, descriptors).await,
            Ok(None) => Err(Failure::new(Kind::Bridge, "nobody listens there")),
            Err(failure) => Err(failure),
        };
        match sent {
            // The build's directory is removed at its end: nobody will come.
            Err(failure)
                if failure.kind == Kind::Bridge && socket.parent().is_some_and(|directory| !directory.exists()) =>
            {
                return Err(failure);
            }
            Err(failure) if failure.kind == Kind::Bridge && begun.elapsed() < SLOT_PATIENCE => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(SLOT_LAST_PAUSE);
            }
            Err(failure) if failure.kind == Kind::Bridge => {
                return Err(Failure::new(
                    Kind::Bridge,
                    format!(
                        "the bridge on {} did not answer within {} s: {}; does Zuul's `kubectl port-forward` for this pod still run?",
                        socket.display(),
                        SLOT_PATIENCE.as_secs(),
                        failure.message
                    ),
                ));
            }
            sent => return sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Operation;

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_nobody_serves_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("0199756f54f43fe8");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let request = Request {
            container: None,
            operation: Operation::Status,
        };
        let begun = Instant::now();
        let failure = BridgeAddress::Slot(socket.clone()).begin(&request).await.unwrap_err();
        assert!(begun.elapsed() >= SLOT_PATIENCE);
        assert_eq!(failure.kind, Kind::Bridge);
        assert!(failure.message.contains(socket.to_str().unwrap()), "{failure}");
    }
}
