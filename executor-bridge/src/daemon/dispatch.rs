//! Serves one client's connection, from its request to its result; outside of a Zuul build it logs one line when the operation
//! ends. `serve` runs one task per client.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::geteuid;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::daemon::peer::{self, ClientError, ReceivedRequest, Writer};
use crate::error::{FailedKind, Failure, Kind};
use crate::pod;
use crate::protocol::frame::Frame;
use crate::protocol::request::{self, Operation, Request, RequestError};
use crate::protocol::result::{Bridge, Done, Outcome};
use crate::protocol::target::Target;
use crate::session::{Client, LogId, MAX_CONTAINERS, Replies, Reply, Session};
use crate::shutdown::{Shutdown, ShutdownReason};

/// Time limit for the request of a new client.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The same while more clients wait than can be connected.
const CROWDED_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Time limit to send a result that the client does not read.
const RESULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Replies that may wait behind the one that is being written.
const QUEUED_REPLIES: usize = 1;

/// State that all connections of one bridge share.
#[derive(Debug)]
pub(super) struct BridgeState {
    pub(super) target: Arc<Target>,
    pub(super) session: Arc<Session>,
    pub(super) shutdown: Shutdown,
    /// Time after which an unused bridge ends; `None`: it never ends by itself.
    pub(super) idle: Option<Duration>,
    pub(super) started: Instant,
    /// Number of operations that run now.
    pub(super) operations: AtomicUsize,
    /// Number of operations that have ended.
    pub(super) ended: AtomicUsize,
    /// As many clients are connected as may be.
    pub(super) crowded: watch::Sender<bool>,
}

impl BridgeState {
    /// Waits until a client that came now keeps a place from others if it has not sent its request.
    async fn request_is_late(&self) {
        tokio::time::sleep(CROWDED_REQUEST_TIMEOUT).await;
        // The sender is not dropped before `self`.
        let _ = self.crowded.subscribe().wait_for(|crowded| *crowded).await;
    }
}

/// Serves one client.
pub(super) async fn serve_client(stream: UnixStream, bridge: &BridgeState) {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == geteuid().as_raw() => {}
        // The directory's mode keeps other users out, but a descriptor may be passed to them.
        other => {
            tracing::warn!(peer = ?other.map(|peer| peer.uid()), "connection of another user refused");
            return;
        }
    }
    let (mut reader, mut writer) = peer::split(stream);
    let budget = bridge.session.budget();
    let request = tokio::select! {
        request = tokio::time::timeout(REQUEST_TIMEOUT, reader.request(budget, bridge.request_is_late())) => request,
        reason = bridge.shutdown.wait() => {
            // If the request stays unread, closing resets the connection, and the client tries the next bridge.
            if !reader.is_unread() {
                refuse_request(&mut writer, reason).await;
            }
            return;
        }
    };
    let ReceivedRequest {
        json,
        descriptors,
        credit,
    } = match request {
        Ok(Ok(request)) => request,
        Ok(Err(ClientError::Io(_) | ClientError::Gone)) => return,
        Ok(Err(error @ ClientError::Late)) => {
            let silent = "clients without a request were closed because too many were connected";
            bridge.session.refusals().note(silent);
            // If nothing was read, an honest client that is slow tries again.
            if !reader.is_unread() {
                send_result(&mut writer, &Outcome::failed(FailedKind::BadRequest, error.to_string())).await;
            }
            return;
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "client broke the protocol");
            send_result(&mut writer, &Outcome::failed(FailedKind::BadRequest, error.to_string())).await;
            return;
        }
        Err(_) => {
            let silent = "no request came; the connection is closed";
            send_result(&mut writer, &Outcome::failed(FailedKind::BadRequest, silent)).await;
            return;
        }
    };
    let words = tokio::select! {
        credit = budget.values(request::count_values(&json)) => credit,
        reason = bridge.shutdown.wait() => {
            refuse_request(&mut writer, reason).await;
            return;
        }
    };
    if reader.has_gone() {
        return;
    }
    let notices = request::takes_notices(&json).then(pod::plugin_messages);
    let request = match Request::parse(&json) {
        Ok(request) => request,
        Err(error) => {
            send_result(&mut writer, &request_error_outcome(&error)).await;
            return;
        }
    };
    drop(json);
    if bridge.shutdown.is_requested() {
        refuse_request(&mut writer, bridge.shutdown.wait().await).await;
        return;
    }
    // Questions about the bridge and its logs are small and are always answered.
    let permit = if request.operation.moves_data() {
        if budget.is_busy() {
            bridge
                .session
                .refusals()
                .note("an operation waits because too many run at once");
        }
        tokio::select! {
            permit = budget.operation() => Some(permit),
            reason = bridge.shutdown.wait() => {
                refuse_request(&mut writer, reason).await;
                return;
            }
        }
    } else {
        None
    };
    // Hundreds of clients may have gone while their requests waited, and must not keep the next one waiting.
    if reader.has_gone() {
        return;
    }
    bridge.operations.fetch_add(1, Ordering::Relaxed);
    perform(request, descriptors, reader, writer, notices, bridge).await;
    bridge.operations.fetch_sub(1, Ordering::Relaxed);
    drop((permit, credit, words));
    budget.trim_soon();
}

/// Runs the operation, sends its replies and its result.
async fn perform(
    request: Request,
    descriptors: VecDeque<OwnedFd>,
    reader: peer::Reader,
    mut writer: Writer,
    mut notices: Option<pod::PluginMessages>,
    bridge: &BridgeState,
) {
    let started = Instant::now();
    let name = request.operation.name();
    let stops = matches!(request.operation, Operation::Stop) && !bridge.session.serves_build();
    let (input_queue, inputs) = mpsc::unbounded_channel();
    let (replies, mut outgoing) = mpsc::channel(QUEUED_REPLIES);
    let (delivery_guard, result_delivered) = oneshot::channel();
    let share = bridge.session.budget().input();
    let client = Client {
        inputs,
        replies: Replies {
            queue: replies,
            budget: bridge.session.budget().clone(),
        },
        share: share.clone(),
        descriptors,
        result_delivered,
    };
    let container = request.container.clone();
    let reader_task = tokio::spawn(reader.forward(input_queue, share));
    let write_replies = async move {
        loop {
            let reply = tokio::select! {
                biased;
                reply = outgoing.recv() => match reply {
                    Some(reply) => reply,
                    None => break,
                },
                message = next_notice(&mut notices) => Frame::Notice(message.into()).into(),
            };
            let Reply { frame, credit: _credit } = reply;
            if writer.send(frame).await.is_err() {
                break;
            }
        }
        // The closed channel tells a running operation that the client has disconnected.
        drop(outgoing);
        writer
    };
    let run_operation = async {
        tokio::select! {
            outcome = operate(request, client, bridge) => Some(outcome),
            reason = bridge.shutdown.wait() => match reason {
                // A client without a result continues with the next bridge.
                ShutdownReason::Signal(_) => None,
                ShutdownReason::StopRequest | ShutdownReason::Idle | ShutdownReason::BuildEnded | ShutdownReason::Outdated => Some(bridge_stopped(reason)),
            },
        }
    };
    let (mut writer, outcome) = tokio::join!(write_replies, run_operation);
    if let Some(outcome) = &outcome {
        send_result(&mut writer, outcome).await;
    }
    // Completes `result_delivered`.
    drop(delivery_guard);
    reader_task.abort();
    let milliseconds = started.elapsed().as_millis() as u64;
    let container = container.as_deref().unwrap_or("-");
    let outcome = outcome.map_or("handed over", |outcome| outcome.name());
    bridge.ended.fetch_add(1, Ordering::Relaxed);
    if bridge.session.serves_build() {
        // All bridges of an executor share its system log, and a job chooses how many operations it has.
        tracing::debug!(operation = name, container, outcome, milliseconds, "operation ended");
    } else {
        tracing::info!(operation = name, container, outcome, milliseconds, "operation ended");
    }
    if stops {
        bridge.shutdown.request(ShutdownReason::StopRequest);
    }
}

/// Waits for the next message of a credential plugin; for ever if the client takes none.
async fn next_notice(notices: &mut Option<pod::PluginMessages>) -> String {
    match notices {
        Some(messages) => messages.next().await,
        None => std::future::pending().await,
    }
}

/// Calls the session's method for the operation.
async fn operate(request: Request, client: Client, bridge: &BridgeState) -> Outcome {
    let container = request.container.as_deref();
    let session = &bridge.session;
    if !session.admits(container) {
        return Outcome::failed(
            FailedKind::BadRequest,
            format!(
                "too many different container names (limit {MAX_CONTAINERS}); use the name of a container of this pod"
            ),
        );
    }
    match request.operation {
        Operation::Exec(exec) => session.exec(container, *exec, client).await,
        Operation::Put(put) => session.put(container, put, client).await,
        Operation::Get(get) => session.get(container, get, client).await,
        Operation::Stat(stat) => session.stat(container, stat, client).await,
        Operation::Connect => session.connect(container, client).await,
        Operation::Relink => session.relink(container, client).await,
        Operation::Logs => session.list_logs(client).await,
        Operation::Log(log) => match LogId::new(&log.id) {
            Some(id) => session.send_log(&id, log.position, client).await,
            None => Outcome::failed(FailedKind::BadRequest, "this id cannot be the name of a log"),
        },
        Operation::DeleteLog(log) => match LogId::new(&log.id) {
            Some(id) => session.delete_log(&id).await,
            None => Outcome::done(),
        },
        Operation::AdmitToken(admission) => session.admit_token(admission.token, client).await,
        Operation::Status => Outcome::Ok(Done {
            bridge: Some(Bridge {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                target: bridge.target.public(),
                uptime_s: bridge.started.elapsed().as_secs(),
                operations: bridge.operations.load(Ordering::Relaxed).saturating_sub(1),
                idle_s: bridge.idle.unwrap_or_default().as_secs(),
            }),
            links: Some(session.links()),
            ..Done::default()
        }),
        Operation::Stop if bridge.session.serves_build() => Outcome::failed(
            FailedKind::Unsupported,
            "this bridge belongs to a Zuul build and ends with it",
        ),
        // The bridge ends after the answer.
        Operation::Stop => Outcome::done(),
    }
}

/// Makes the outcome of a request that cannot be parsed.
fn request_error_outcome(error: &RequestError) -> Outcome {
    let kind = match error {
        RequestError::Version(_) | RequestError::Requires(_) | RequestError::Operation(_) => FailedKind::Unsupported,
        RequestError::Json(_) | RequestError::Invalid(_) => FailedKind::BadRequest,
    };
    Outcome::failed(kind, error.to_string())
}

/// Tells the client that the bridge ends before the operation starts.
async fn refuse_request(writer: &mut Writer, reason: ShutdownReason) {
    // A client without a result tries the next bridge.
    if let ShutdownReason::Signal(_) = reason {
        return;
    }
    let outcome = Outcome::Unreachable(Failure::new(
        Kind::Bridge,
        format!("the bridge ended before the operation started ({reason}); try again"),
    ));
    send_result(writer, &outcome).await;
}

/// Makes the outcome of an operation that the end of the bridge interrupts.
fn bridge_stopped(reason: ShutdownReason) -> Outcome {
    Outcome::lost(
        Kind::BridgeLost,
        format!("the bridge ended while the operation ran: {reason}"),
    )
}

async fn send_result(writer: &mut Writer, outcome: &Outcome) {
    let frame = Frame::Result(Bytes::from(outcome.encode()));
    // A client that has disconnected, or that does not read, needs no result.
    let _ = tokio::time::timeout(RESULT_TIMEOUT, writer.send(frame)).await;
}
