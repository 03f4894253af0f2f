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
use crate::sockets::{self, Directory};

/// Attempts to send a request: a bridge may die before it has read the request.
const SEND_ATTEMPTS_MAX: usize = 3;
/// Time limit for the bridge of a slot. Zuul restarts a dead bridge at once; an overloaded host needs longer.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after which a client looks whether Zuul can still restart the bridge: its loop needs some 20 ms.
const SLOT_GRACE: Duration = Duration::from_secs(1);
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
    /// The bridge on this socket, in Zuul's slot. The client waits for it and starts none while Zuul may start it again: a second bridge
    /// would take the pod away from Zuul.
    Slot {
        socket: PathBuf,
        /// The bridge that serves the pod after the end of the build.
        otherwise: Option<(KeyedTarget, BridgeSettings)>,
    },
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
            BridgeAddress::Slot { socket, otherwise } => {
                match (begin_in_slot(socket, request, descriptors).await, otherwise) {
                    (Ok(None), Some((target, options))) => {
                        begin_on_demand(target, *options, request, descriptors).await
                    }
                    (Ok(None), None) => Err(sockets::abandoned(socket)),
                    (Ok(Some(conversation)), _) => Ok(conversation),
                    (Err(failure), _) => Err(failure),
                }
            }
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

/// Sends the request to the bridge of a slot; waits for a bridge until the time limit. `None` if nothing ran and no bridge will come any
/// more.
async fn begin_in_slot(
    socket: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Option<Conversation>, Failure> {
    let started = Instant::now();
    let mut pause = DoublingPause::new(SLOT_PAUSE_MIN, SLOT_PAUSE_MAX);
    loop {
        let connected = connect(socket).await;
        let is_dead = matches!(connected, Ok(None));
        let sent = match connected {
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
            Err(_) if is_dead && started.elapsed() >= SLOT_GRACE && !sockets::may_return(socket) => return Ok(None),
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
            sent => return sent.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::protocol::request::Operation;

    const STATUS: Request = Request {
        container: None,
        operation: Operation::Status,
    };

    /// Returns the failure of a client, and how long it waited.
    async fn wait_for_dead_slot(socket: &Path) -> (Failure, Duration) {
        let address = BridgeAddress::Slot {
            socket: socket.to_owned(),
            otherwise: None,
        };
        let started = Instant::now();
        let failure = address.begin(&STATUS).await.unwrap_err();
        (failure, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_client_waits_for_a_slot_as_long_as_zuul_may_start_its_bridge() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("0199756f54f43fe8");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let (failure, waited) = wait_for_dead_slot(&socket).await;
        assert!((SLOT_GRACE..SLOT_GRACE * 2).contains(&waited), "{waited:?}");
        assert_eq!(failure.kind, Kind::Bridge);
        assert!(failure.message.contains(socket.to_str().unwrap()), "{failure}");

        let mut zuul = std::process::Command::new("sh")
            .args(["-c", "echo; while read line; do : port-forward; done"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Before its first line it may still be this program.
        zuul.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        sockets::record_loop_of(zuul.id(), &socket).unwrap();
        let (failure, waited) = wait_for_dead_slot(&socket).await;
        assert!(waited >= SLOT_TIMEOUT, "{waited:?}");
        assert!(failure.message.contains("port-forward"), "{failure}");
        zuul.kill().unwrap();
        zuul.wait().unwrap();
        let (_, waited) = wait_for_dead_slot(&socket).await;
        assert!(waited < SLOT_GRACE * 2, "{waited:?}");
    }
}
