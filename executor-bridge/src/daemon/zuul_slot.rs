//! The bridge in Zuul's slot, which Zuul starts as `kubectl port-forward` for each pod of a build. It listens beside
//! the kubeconfig and on the ports that Zuul reserved, serves one pod, never ends because it is unused, and ends with
//! the build. The kubectl shim calls it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::BridgeSettings;
use crate::console::Console;
use crate::daemon::{build_end, early_connection, serve};
use crate::error::{Failure, Kind};
use crate::protocol::target::{KeyedTarget, Target};
use crate::session::Session;
use crate::shutdown::{Shutdown, ShutdownReason};
use crate::sockets::{self, SlotSocket};
use crate::{sys, telemetry};

/// Time limit of one connect to the pod.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Most memory of the process, bytes (RLIMIT_DATA): ten times what the budget of a bridge allows.
const MAX_MEMORY: u64 = 1 << 30;
/// File with the kernel's preference for ending this process.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// What Zuul adds to that of the processes of jobs (zuul 14.3.0, driver/bubblewrap).
const OOM_SCORE_OF_JOBS: i32 = 200;

/// Interval between two looks at the socket of the slot by a bridge that does not have it.
const TAKE_OVER_INTERVAL: Duration = Duration::from_millis(500);
/// Interval for the bridge that has it: it loses the socket only when two bridges took it in the same moment.
const KEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Target, addresses and lease of one pod's bridge.
#[derive(Debug)]
pub(crate) struct SlotBridge {
    pub(crate) target: Target,
    pub(crate) socket: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    /// TCP ports on 127.0.0.1.
    pub(crate) ports: [u16; 2],
    pub(crate) lease: Duration,
}

/// Services of the bridge for Zuul, beside its clients: the console stream and the watch for the build's end.
#[derive(Debug)]
pub(super) struct SlotServices {
    listeners: [TcpListener; 2],
    kubeconfig: PathBuf,
    socket: PathBuf,
    slot_socket: SlotSocket,
}

impl SlotServices {
    /// Starts the services.
    pub(super) fn start(self, session: &Arc<Session>, shutdown: &Shutdown) -> io::Result<()> {
        let slots = self.socket.parent().unwrap_or(Path::new("/")).to_owned();
        let console = Console::new(session.clone(), Some(self.socket));
        for listener in self.listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(console.clone().serve(listener));
        }
        // Zuul's first playbook does not wait long, so the bridge connects before a client asks.
        let session = session.clone();
        tokio::spawn(async move { early_connection::connect(session, &slots).await });
        tokio::spawn(keep_socket(self.slot_socket));
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            build_end::wait(&self.kubeconfig).await;
            shutdown.request(ShutdownReason::BuildEnded);
        });
        Ok(())
    }
}

/// Takes the socket of the slot over when the other bridge of this pod that has it dies.
async fn keep_socket(socket: SlotSocket) {
    let mut had = None;
    loop {
        let has = socket.keep();
        if had.replace(has) != Some(has) {
            tracing::info!(has, "the socket of the slot");
        }
        tokio::time::sleep(if has { KEEP_INTERVAL } else { TAKE_OVER_INTERVAL }).await;
    }
}

/// Serves until the build ends. Calls `listening` when Zuul may use the bridge; Zuul reads the message of an error
/// before that call.
pub(crate) fn run_in_slot(slot: SlotBridge, listening: impl FnOnce()) -> Result<ShutdownReason, Failure> {
    let target = KeyedTarget::new(slot.target)?;
    raise_descriptors();
    keep_within_build();
    let listeners = [listen(slot.ports[0])?, listen(slot.ports[1])?];
    let (slot_socket, bound) = SlotSocket::bind(&slot.socket, slot.ports[0])?;
    // Without the record, clients wait less for a bridge that died.
    let recorded = sockets::record_loop(&slot.socket);
    listening();
    telemetry::start_in_slot();
    if let Err(error) = recorded {
        tracing::warn!(%error, "the loop that starts this bridge cannot be recorded");
    }
    // Zuul does not read its pipe any more, but it waits until every process has closed it.
    detach_stdio().map_err(|error| Failure::new(Kind::Bridge, format!("cannot close the caller's pipe: {error}")))?;
    let services = SlotServices {
        listeners,
        kubeconfig: slot.kubeconfig,
        socket: slot.socket,
        slot_socket,
    };
    let options = BridgeSettings {
        idle: None,
        connect_timeout: CONNECT_TIMEOUT,
        lease: slot.lease,
    };
    serve::run(target, bound, options, Session::for_build, |session, shutdown| {
        services.start(session, shutdown)
    })
}

/// Listens on a port. std sets SO_REUSEADDR, which is needed because Zuul holds the port reserved.
fn listen(port: u16) -> Result<TcpListener, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|error| Failure::new(Kind::Bridge, format!("cannot listen on 127.0.0.1:{port}: {error}")))
}

/// Raises the limit on file descriptors: Zuul keeps a connection per task.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // The bridge can run with the old limit.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Limits below all others, for what they overlook. Zuul starts this bridge outside of the memory limit of its jobs.
fn keep_within_build() {
    // Memory beyond the limit ends this bridge, and Zuul starts the next one. A failure is ignored: the limit may be lower already.
    let limit = Rlimit {
        current: Some(MAX_MEMORY),
        maximum: Some(MAX_MEMORY),
    };
    let _ = setrlimit(Resource::Data, limit);
    // When the host runs out of memory, the kernel ends this bridge before the executor, as it does with the processes of jobs.
    if let Ok(score) = std::fs::read_to_string(OOM_SCORE)
        && let Ok(score) = score.trim().parse::<i32>()
    {
        let _ = std::fs::write(OOM_SCORE, (score + OOM_SCORE_OF_JOBS).min(1000).to_string());
    }
    // Last: the kernel gives the files of such a process to root.
    sys::keep_memory_private();
}

/// Replaces standard input, output and error by /dev/null.
fn detach_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
