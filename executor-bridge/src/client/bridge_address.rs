//! The bridge that a request goes to, and how to connect to it: a bridge that is started on demand, or the bridge of Zuul's slot, which
//! Zuul itself restarts. The subcommands and the kubectl shim choose one of them.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::backoff::DoublingPause;
use crate::client::conversation::{Conversation, connect, send};
use crate::client::start::find_or_start;
use crate::config::BridgeSettings;
use crate::error::{Failure, Kind};
use crate::protocol::request::Request;
use crate::protocol::target::KeyedTarget;
use crate::sockets::Directory;

/// Attempts to send a request: a bridge may die before it has read the request.
const SEND_ATTEMPTS_MAX: usize = 3;
/// Time limit for the bridge of a slot. Zuul restarts a dead bridge at once; an overloaded host needs longer.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);
/// First pause between two attempts to connect to the bridge of a slot; each pause is twice as long as the one before it.
const SLOT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause between two attempts.
const SLOT_PAUSE_MAX: Duration = Duration::from_millis(320);

/// The bridge that a request goes to.
#[derive(Debug, Clone)]
pub(crate) enum BridgeAddress {
    /// The bridge of this target; started with these settings if none runs.
    OnDemand {
        target: KeyedTarget,
        options: BridgeSettings,
    },
    /// The bridge on this socket, in Zuul's slot. The client waits for it and never starts one: a second bridge would take the pod away
    /// from Zuul.
    Slot(PathBuf),
}

impl BridgeAddress {
    /// Connects to the bridge and sends the request.
    pub(crate) async fn begin(&self, request: &Request) -> Result<Conversation, Failure> {
        self.begin_with(request, &[]).await
    }

    /// Connects and sends the request with the descriptors of files that the bridge reads or writes itself.
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

/// Sends the request to the bridge of the target; starts that bridge if none runs.
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
            // The bridge died before it had read the whole request, so nothing ran: a second attempt is safe.
            Err(failure) if failure.kind == Kind::Bridge && attempt < SEND_ATTEMPTS_MAX => attempt += 1,
            sent => return sent,
        }
    }
}

/// Starts the bridge of the target and connects to it.
async fn start(target: &KeyedTarget, options: BridgeSettings) -> Result<UnixStream, Failure> {
    let json = serde_json::to_vec(&target.target)
        .map_err(|error| Failure::usage(format!("the target cannot be written as JSON: {error}")))?;
    let socket = find_or_start(target, &json, options).await?;
    connect(&socket).await?.ok_or_else(|| {
        Failure::new(
            Kind::Bridge,
            format!(
                "the bridge on {} ended right after its start; see the log file beside the socket",
                socket.display()
            ),
        )
    })
}

/// Sends the request to the bridge of a slot; waits for a bridge until the time limit.
async fn begin_in_slot(
    socket: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Conversation, Failure> {
    let started = Instant::now();
    let mut pause = DoublingPause::new(SLOT_PAUSE_MIN, SLOT_PAUSE_MAX);
    loop {
        let sent = match connect(socket).await {
            Ok(Some(stream)) => send(stream, request, descriptors).await,
            Ok(None) => Err(Failure::new(Kind::Bridge, "no process listens on the socket")),
            Err(failure) => Err(failure),
        };
        match sent {
            // Zuul removes the directory when the build ends: no bridge will start there any more.
            Err(failure)
                if failure.kind == Kind::Bridge && socket.parent().is_some_and(|directory| !directory.exists()) =>
            {
                return Err(failure);
            }
            Err(failure) if failure.kind == Kind::Bridge && started.elapsed() < SLOT_TIMEOUT => {
                pause.sleep().await;
            }
            Err(failure) if failure.kind == Kind::Bridge => {
                return Err(Failure::new(
                    Kind::Bridge,
                    format!(
                        "the bridge on {} did not answer within {} s: {}; check that Zuul's `kubectl port-forward` for this pod still runs",
                        socket.display(),
                        SLOT_TIMEOUT.as_secs(),
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
    async fn the_client_stops_waiting_for_a_slot_without_a_bridge() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("0199756f54f43fe8");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let request = Request {
            container: None,
            operation: Operation::Status,
        };
        let started = Instant::now();
        let failure = BridgeAddress::Slot(socket.clone()).begin(&request).await.unwrap_err();
        assert!(started.elapsed() >= SLOT_TIMEOUT);
        assert_eq!(failure.kind, Kind::Bridge);
        assert!(failure.message.contains(socket.to_str().unwrap()), "{failure}");
    }
}
