//! Puts the server together: domains, services, limits; ends on a signal or when it has been idle for long enough.
//! `commands::serve` runs it.

use std::future::pending;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use podbridge_proto::limits::MAX_MESSAGE;
use podbridge_proto::v1::agent_server::AgentServer;
use podbridge_proto::v1::exec_server::ExecServer;
use podbridge_proto::v1::files_server::FilesServer;
use podbridge_proto::v1::logs_server::LogsServer;
use rustix::process::{Rlimit, geteuid, getpid};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::Server;

use crate::exec::{Registry, Store};
use crate::files::Transfers;
use crate::logs::Logs;
use crate::rpc::{AgentService, ExecService, FilesService, Greeting, LogsService};
use crate::sys::reaper::Reaper;
use crate::sys::{heap, proc};
use crate::transport::direct::DirectListener;
use crate::transport::listener::Listener;

/// Flow control, fixed (DESIGN §6). What comes is written to a disk at once, or signalled for piece by piece (stdin): the window is as
/// wide as bulk needs, 800 MB/s at 10 ms.
const STREAM_WINDOW: u32 = 8 << 20;
/// What a connection may hold in all: so many files at once on a disk that stands still.
const CONNECTION_WINDOW: u32 = 64 << 20;
const FRAME_SIZE: u32 = 256 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// From the signal to end until the process ends, whatever still runs.
const EXEC_END_TIMEOUT: Duration = Duration::from_secs(4);

/// From an end until memory is given back: a busy agent does so once in that time, an idle one once and no more.
const TRIM_DELAY: Duration = Duration::from_secs(2);

/// Serves until a signal or the idle time ends it.
pub(crate) async fn serve(
    listener: UnixListener,
    nofile: Rlimit,
    store: Store,
    idle: Option<Duration>,
) -> io::Result<()> {
    // Before anybody can connect: from then on a signal has something to end in good order.
    let signalled = end_signal()?;
    let registry = Arc::new(Registry::new(Reaper::start()?, nofile, store));
    let connections = watch::Sender::new(0usize);
    let (incoming, queue) = Listener::start(tokio::net::UnixListener::from_std(listener)?, connections.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;

    let logs = Logs::default();
    let transfers = Transfers::default();
    tokio::spawn(trim_heap_after(registry.released()));
    tokio::spawn(trim_heap_after(logs.ended_followers()));
    let (stop, mut stopping) = watch::channel(false);
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(health_service)
        .add_service(AgentServer::new(AgentService::new(
            greeting(),
            DirectListener::new(queue),
        )))
        .add_service(ExecServer::new(ExecService(registry.clone())).max_decoding_message_size(MAX_MESSAGE))
        .add_service(FilesServer::new(FilesService(transfers.clone())).max_decoding_message_size(MAX_MESSAGE))
        .add_service(LogsServer::new(LogsService(logs)))
        .serve_with_incoming_shutdown(incoming, async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopping.wait_for(|stop| *stop).await;
        });
    let mut server = tokio::spawn(server);

    tokio::select! {
        result = &mut server => return result.map_err(io::Error::other)?.map_err(io::Error::other),
        name = signalled => {
            tracing::info!(signal = name, "agent ends");
            registry.cancel_all("the agent was told to end");
            let mut running = registry.running();
            // What is left is killed with the container, or reported by the next agent as lost.
            let _ = timeout(EXEC_END_TIMEOUT, running.wait_for(|running| *running == 0)).await;
        }
        () = wait_for_idle(idle, connections.subscribe(), registry.running()) => tracing::info!("agent ends: idle"),
    }
    stop.send_replace(true);
    // Streams that still hang are cut by the end of the process.
    let _ = timeout(Duration::from_secs(1), server).await;
    transfers.clear();
    Ok(())
}

fn greeting() -> Greeting {
    let mut random = [0u8; 16];
    // The kernel gives so few bytes at once, always.
    let _ = getrandom(&mut random, GetRandomFlags::empty());
    let boot_id = proc::boot_id();
    let init_start = proc::process(1).map_or(0, |init| init.start);
    Greeting {
        instance: format!("{:032x}.{boot_id}.{init_start}", u128::from_ne_bytes(random)),
        boot_id,
        uid: geteuid().as_raw(),
        pid: getpid().as_raw_nonzero().get() as u32,
    }
}

/// Watches from now on; ends with the name of the signal.
fn end_signal() -> io::Result<impl Future<Output = &'static str>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "TERM",
            _ = interrupt.recv() => "INT",
        }
    })
}

/// Gives back what execs or followers of logs held, a little after some have gone.
async fn trim_heap_after(mut gone: watch::Receiver<u64>) {
    while gone.changed().await.is_ok() {
        sleep(TRIM_DELAY).await;
        gone.borrow_and_update();
        heap::trim();
    }
}

async fn wait_for_idle(
    idle: Option<Duration>,
    mut connections: watch::Receiver<usize>,
    mut running: watch::Receiver<usize>,
) {
    let Some(idle) = idle else { return pending().await };
    loop {
        let quiet = *connections.borrow_and_update() == 0 && *running.borrow_and_update() == 0;
        tokio::select! {
            () = sleep(idle), if quiet => return,
            Ok(()) = connections.changed() => {}
            Ok(()) = running.changed() => {}
        }
    }
}
