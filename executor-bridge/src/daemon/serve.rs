//! The daemon's main loop: accepts clients until the bridge must end or was unused for long enough. Then it removes the
//! socket, except in a Zuul build, where the next bridge replaces it. `run` and `zuul_slot` call it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::BridgeSettings;
use crate::daemon::arrivals::Arrivals;
use crate::daemon::dispatch::{self, BridgeState};
use crate::error::{Failure, Kind};
use crate::protocol::target::{KeyedTarget, Target};
use crate::session::Session;
use crate::shutdown::{Shutdown, ShutdownReason};
use crate::sockets::BoundSocket;
use crate::sys;

/// Time limit for everything that is under way when the bridge must end: operations, and the calls after them. Whoever sent the signal
/// waits for about three seconds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Most threads that may block on a disk or on a credential plugin. Transfers use a few of them (`session/files/disk_turns.rs`).
const BLOCKING_THREADS: usize = 8;
/// Most clients that are connected. Others wait in the listener's queue.
const MAX_CLIENTS: usize = 1024;
/// Pause after a failed accept, most likely for lack of file descriptors.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Constructor of a session from its target, connect timeout and lease.
pub(super) type NewSession = fn(Arc<Target>, Duration, Duration) -> Session;

/// Serves clients with the session that `new_session` makes, and returns why it ended. `on_start` runs once, before the
/// first client.
pub(super) fn run(
    target: KeyedTarget,
    bound: BoundSocket,
    options: BridgeSettings,
    new_session: NewSession,
    on_start: impl FnOnce(&Arc<Session>, &Shutdown) -> io::Result<()>,
) -> Result<ShutdownReason, Failure> {
    let failed = |error: io::Error| Failure::new(Kind::Bridge, format!("the bridge cannot run: {error}"));
    sys::set_up_heap();
    // The provider must be named: the build has two, and rustls would not choose one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(failed)?;
    let served = runtime.block_on(serve(target, bound, options, new_session, on_start));
    // A thread that still blocks in a file system must not keep the process alive.
    runtime.shutdown_background();
    served.map_err(failed)
}

async fn serve(
    target: KeyedTarget,
    bound: BoundSocket,
    options: BridgeSettings,
    new_session: NewSession,
    on_start: impl FnOnce(&Arc<Session>, &Shutdown) -> io::Result<()>,
) -> io::Result<ShutdownReason> {
    let BoundSocket { listener, file } = bound;
    let arrivals = Arrivals::new(listener)?;
    let shutdown = Shutdown::default();
    watch_signals(shutdown.clone())?;
    let shared_target = Arc::new(target.target);
    let session = Arc::new(new_session(
        shared_target.clone(),
        options.connect_timeout,
        options.lease,
    ));
    on_start(&session, &shutdown)?;
    let bridge = Arc::new(BridgeState {
        session,
        target: shared_target,
        shutdown: shutdown.clone(),
        idle: options.idle,
        started: Instant::now(),
        operations: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        crowded: watch::Sender::new(false),
    });
    tracing::info!(key = %target.key, pid = std::process::id(), target = ?bridge.target, "bridge begins");
    let mut clients = JoinSet::new();
    let reason = accept(&arrivals, &mut clients, &bridge).await;
    if reason == ShutdownReason::Idle {
        file.remove();
        // Clients that connected before the socket's file was removed are served.
        while let Some(stream) = arrivals.next_waiting() {
            spawn_client(stream, &mut clients, &bridge);
        }
        drop(arrivals);
    } else {
        // Clients in the queue get a reset and start the next bridge. If that bridge is first, it has replaced the file, and
        // `remove` leaves its file alone.
        drop(arrivals);
        file.remove();
    }
    let settled = async {
        while clients.join_next().await.is_some() {}
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, bridge.session.settle()).await;
    };
    let must_end = async {
        shutdown.wait().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    // What is not done by then ends with the process.
    tokio::select! {
        () = settled => {}
        () = must_end => {}
    }
    let operations = bridge.ended.load(Ordering::Relaxed);
    tracing::info!(%reason, operations, "bridge ends");
    Ok(reason)
}

/// Accepts clients until the bridge must end; returns the reason.
async fn accept(arrivals: &Arrivals, clients: &mut JoinSet<()>, bridge: &Arc<BridgeState>) -> ShutdownReason {
    loop {
        let unused = clients.is_empty();
        let crowded = clients.len() >= MAX_CLIENTS;
        bridge
            .crowded
            .send_if_modified(|before| std::mem::replace(before, crowded) != crowded);
        if crowded {
            bridge
                .session
                .refusals()
                .note("clients wait because too many are connected");
        }
        let idle = async {
            match bridge.idle {
                Some(idle) if unused => tokio::time::sleep(idle).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = bridge.shutdown.wait() => return reason,
            () = idle => return ShutdownReason::Idle,
            Some(_) = clients.join_next(), if !unused => {}
            accepted = arrivals.next(), if !crowded => match accepted {
                Ok(stream) if bridge.session.is_current() => spawn_client(stream, clients, bridge),
                // A connection that closes with its request unread makes the client start another bridge. Running operations continue.
                Ok(_) => return ShutdownReason::Outdated,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                }
            },
        }
    }
}

/// Starts the task of a client.
fn spawn_client(stream: tokio::net::UnixStream, clients: &mut JoinSet<()>, bridge: &Arc<BridgeState>) {
    let bridge = bridge.clone();
    clients.spawn(async move { dispatch::serve_client(stream, &bridge).await });
}

/// Requests the shutdown when a signal comes.
fn watch_signals(shutdown: Shutdown) -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        let reason = tokio::select! {
            _ = term.recv() => ShutdownReason::Signal("SIGTERM"),
            _ = interrupt.recv() => ShutdownReason::Signal("SIGINT"),
            _ = hangup.recv() => ShutdownReason::Signal("SIGHUP"),
        };
        shutdown.request(reason);
    });
    Ok(())
}
