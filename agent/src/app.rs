//! Puts the server together: domains, services, limits. It ends on a signal, or when it has been idle for long enough. It holds no
//! logic of a domain. `commands::serve` calls it.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use podbridge_proto::limits::MAX_MESSAGE;
use podbridge_proto::v1::agent_server::AgentServer;
use podbridge_proto::v1::exec_server::ExecServer;
use podbridge_proto::v1::files_server::FilesServer;
use podbridge_proto::v1::logs_server::LogsServer;
use rustix::process::{geteuid, getpid};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::Server;

use crate::exec::{Registry, Store, WarmPython};
use crate::files::Transfers;
use crate::logs::Logs;
use crate::rpc::{AgentService, ExecService, FilesService, Greeting, LogsService};
use crate::sys::limits::InheritedLimits;
use crate::sys::reaper::Reaper;
use crate::sys::{container, heap, proc};
use crate::transport::backlog::BacklogLayer;
use crate::transport::direct::DirectListener;
use crate::transport::listener::Listener;
use crate::transport::socket::BoundSocket;

/// Flow-control window of one stream, in bytes; fixed. Sized for bulk: 1 GB/s if sender and receiver get their processors 4 ms late, as on
/// a busy machine. It bounds the memory of a stream that stalls; most data is written to a disk at once, and stdin is acknowledged in steps.
const STREAM_WINDOW: u32 = 4 << 20;
/// Flow-control window of one connection, in bytes: the memory that it may hold at most. A bridge leaves more than half of it free: the
/// unacknowledged input of all its clients together has a budget. So there is always room for a new command, a signal or a cancel.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Largest HTTP/2 frame that the agent accepts, in bytes.
const FRAME_SIZE: u32 = 256 << 10;
/// Most calls at once on one connection. All operations of a bridge, with three calls each, are fewer.
const MAX_STREAMS: u32 = 4096;
/// Calls that a bridge may have reset before the agent has begun them: all clients of a bridge may go at once. The connection ends if there
/// are more.
const MAX_RESET_CALLS: usize = 2048;
/// Largest headers of a call, in bytes. Those of a bridge have some hundreds.
const MAX_HEADERS: u32 = 16 << 10;
/// Time between two HTTP/2 pings.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Time without an answer to a ping after which a connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the end of all execs after a signal to end.
const EXEC_END_TIMEOUT: Duration = Duration::from_secs(4);
/// Delay before freed memory is returned to the system. A busy agent returns memory at most once in this time, an idle agent once.
const TRIM_DELAY: Duration = Duration::from_secs(2);

/// Serves until a signal arrives, or no connection and no command exists for `idle`; `None`: never idle.
pub(crate) async fn serve(
    socket: BoundSocket,
    limits: InheritedLimits,
    store: Store,
    warm_python: bool,
    idle: Option<Duration>,
) -> io::Result<()> {
    // Watch for signals before the first client can connect: from then on there is something to end in good order.
    let signalled = end_signal()?;
    let reaper = Reaper::start()?;
    let warm_python = WarmPython::new(reaper.clone(), limits, warm_python);
    let registry = Arc::new(Registry::new(reaper, limits, warm_python.clone(), store));
    let connections = watch::Sender::new(0usize);
    tokio::spawn(end_with_connections(warm_python, connections.subscribe()));
    let (incoming, queue, path) = Listener::start(socket, connections.clone())?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;

    let logs = Logs::default();
    let transfers = Transfers::default();
    let files = FilesService::new(transfers.clone());
    tokio::spawn(trim_heap_after(registry.released()));
    tokio::spawn(trim_heap_after(files.ended_transfers()));
    tokio::spawn(trim_heap_after(logs.ended_followers()));
    tokio::spawn(trim_heap_after(connections.subscribe()));
    let (stop, mut stopping) = watch::channel(false);
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESET_CALLS))
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .layer(BacklogLayer)
        .add_service(health_service)
        .add_service(AgentServer::new(AgentService::new(
            greeting(),
            DirectListener::new(queue),
        )))
        .add_service(ExecServer::new(ExecService(registry.clone())).max_decoding_message_size(MAX_MESSAGE))
        .add_service(FilesServer::new(files).max_decoding_message_size(MAX_MESSAGE))
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
            // Execs that are left end with the container, or the bridge finds that their agent is lost.
            let _ = timeout(EXEC_END_TIMEOUT, running.wait_for(|running| *running == 0)).await;
        }
        () = wait_for_idle(idle, connections.subscribe(), registry.running()) => tracing::info!("agent ends: idle"),
    }
    stop.send_replace(true);
    // The end of the process closes streams that still hang.
    let _ = timeout(Duration::from_secs(1), server).await;
    transfers.clear();
    path.remove();
    Ok(())
}

fn greeting() -> Greeting {
    let mut random = [0u8; 16];
    // getrandom(2) always returns so few bytes at once.
    let _ = getrandom(&mut random, GetRandomFlags::empty());
    let boot_id = proc::boot_id();
    let init_start = proc::process(1).map_or(0, |init| init.start);
    Greeting {
        instance: format!("{:032x}.{boot_id}.{init_start}", u128::from_ne_bytes(random)),
        boot_id,
        uid: geteuid().as_raw(),
        pid: getpid().as_raw_nonzero().get() as u32,
        container: container::name(),
    }
}

/// Watches for TERM and INT from now on. The future returns the name of the signal.
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

/// Returns freed memory to the system a little after each change of a count: of execs, transfers or followers that have ended, or of open
/// connections.
async fn trim_heap_after<T>(mut count: watch::Receiver<T>) {
    while count.changed().await.is_ok() {
        sleep(TRIM_DELAY).await;
        count.borrow_and_update();
        heap::trim();
    }
}

/// Ends all warm interpreters whenever the last connection has ended: when nobody is there to use them, and on a reset of the connection.
async fn end_with_connections(warm_python: WarmPython, mut connections: watch::Receiver<usize>) {
    while connections.changed().await.is_ok() {
        if *connections.borrow_and_update() == 0 {
            warm_python.end_all();
        }
    }
}

/// Returns when there has been neither a connection nor a running exec for `idle`; never if it is `None`.
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
