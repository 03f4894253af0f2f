//! One exec: started once, its output carried to the client as it comes, over as many links as it takes; its end told
//! only from the agent's exit record. A client that goes away has it cancelled.

mod control;
mod ended;
mod prepare;
mod running;
mod stdin;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::v1::{AttachRequest, CancelRequest, ExecEvent, ReleaseRequest, RunRequest, StartRequest};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Status, Streaming};

use super::container::Container;
use super::diagnosis::{self, Recovery};
use super::{Client, Connection, Errands, status};
use crate::error::{Failure, Kind};
use crate::protocol::request;
use crate::protocol::result::Outcome;
use prepare::Prepared;
use running::{End, Running, Sink, Wires};

/// How long a link may be down before its exec counts as lost: as long as the agent keeps it (`StartRequest.lease_ms`).
const LEASE: Duration = Duration::from_secs(15 * 60);
/// And how long the agent's answer to a cancel is sought.
const CANCEL: Duration = Duration::from_secs(60);

pub(super) async fn run(
    container: &Arc<Container>,
    errands: &Errands,
    request: request::Exec,
    mut client: Client,
) -> Outcome {
    let prepared = match prepare::prepare(request, &mut client).await {
        Ok(prepared) => prepared,
        Err(outcome) => return outcome,
    };
    let Prepared {
        start,
        id,
        stdin_file,
        stdout,
        stderr,
    } = prepared;
    let (links, watched) = watch::channel(None);
    let (pieces, queued_pieces) = mpsc::unbounded_channel();
    let (controls, queued_controls) = mpsc::unbounded_channel();
    let (acks, incoming_acks) = mpsc::unbounded_channel();
    let (unreadable, broken_stdin) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(stdin::pump(id, watched.clone(), queued_pieces, acks));
    tasks.spawn(control::send(id, watched, queued_controls));
    if let Some(file) = stdin_file {
        let pieces = pieces.clone();
        tasks.spawn(async move {
            if let Err(outcome) = stdin::read_file(file, pieces).await {
                // Nobody listens when the exec has ended.
                let _ = unreadable.send(outcome).await;
            }
        });
    }
    let running = Running {
        id,
        client,
        wires: Wires { pieces, controls },
        acks: incoming_acks,
        broken_stdin,
        stdout: Sink::new(stdout),
        stderr: Sink::new(stderr),
        started: false,
        outbox: None,
        exit: None,
    };
    let mut carrier = Carrier {
        container,
        start,
        running,
        links,
        home: None,
    };
    let over = carrier.carry().await;
    let Some(home) = carrier.home else {
        return match over {
            Over::Closed(outcome) | Over::Cancel(outcome) | Over::Lost(outcome) => outcome,
        };
    };
    match over {
        Over::Closed(outcome) => {
            errands.send(release(home, id));
            outcome
        }
        // Sent or not, started or not: the agent fences the id.
        Over::Cancel(outcome) => {
            errands.send(cancel(container.clone(), home, id));
            outcome
        }
        Over::Lost(outcome) => outcome,
    }
}

enum Over {
    Closed(Outcome),
    /// The command is to end.
    Cancel(Outcome),
    /// There is nobody to tell.
    Lost(Outcome),
}

/// Keeps one exec on a link.
struct Carrier<'a> {
    container: &'a Arc<Container>,
    start: StartRequest,
    running: Running,
    links: watch::Sender<Option<Arc<Connection>>>,
    /// The last connection that may have carried the start: this agent and no other has the exec.
    home: Option<Arc<Connection>>,
}

impl Carrier<'_> {
    async fn carry(&mut self) -> Over {
        let mut hint = String::new();
        let mut patience = diagnosis::Patience::new(LEASE);
        loop {
            let connection = match self.link(&hint, &mut patience).await {
                Ok(connection) => connection,
                Err(over) => return over,
            };
            let before = self.home.replace(connection.clone());
            let mut moved = false;
            let status = match self.open(&connection).await {
                Ok(Ok(events)) => {
                    self.links.send_replace(Some(connection.clone()));
                    match self.running.follow(events, &mut moved).await {
                        End::Closed(outcome) => return Over::Closed(outcome),
                        End::Cancel(outcome) => return Over::Cancel(outcome),
                        End::Broken(status) => status,
                    }
                }
                Ok(Err(status)) if diagnosis::provably_not_sent(&status) => {
                    connection
                        .handle
                        .end("the connection had ended before the request was sent");
                    self.home.clone_from(&before);
                    status
                }
                Ok(Err(status)) => status,
                Err(outcome) => return Over::Cancel(outcome),
            };
            if moved {
                patience = diagnosis::Patience::new(LEASE);
            }
            if !diagnosis::is_broken_link(&status, &connection) {
                return Over::Lost(self.refused(&status, before.is_some()));
            }
            hint = status::reason(&status);
            tracing::info!(
                pod = self.container.linker.pod(),
                reason = hint,
                "the link of an exec broke"
            );
        }
    }

    /// A link to the agent that has the exec; to any, as long as none has.
    async fn link(&mut self, hint: &str, patience: &mut diagnosis::Patience) -> Result<Arc<Connection>, Over> {
        let Some(home) = &self.home else {
            let linked = async {
                patience.pause().await;
                self.container.connection().await
            };
            return match self.running.meanwhile(linked).await {
                Ok(Ok(_)) if patience.is_over() => Err(Over::Lost(Outcome::Unreachable(Failure::new(
                    Kind::Timeout,
                    format!("every link broke before the command was sent: {hint}"),
                )))),
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(failure)) => Err(Over::Lost(Outcome::Unreachable(failure))),
                Err(outcome) => Err(Over::Lost(outcome)),
            };
        };
        let recovered = diagnosis::recover(self.container, home, hint, patience);
        match self.running.meanwhile(recovered).await {
            Ok(Recovery::Again(connection)) => Ok(connection),
            Ok(Recovery::Over(outcome)) => Err(Over::Lost(outcome)),
            Err(outcome) => Err(Over::Cancel(outcome)),
        }
    }

    /// Starts the command, which changes nothing if the agent has it already; follows it where it is known to have it.
    async fn open(&mut self, connection: &Connection) -> Result<Result<Streaming<ExecEvent>, Status>, Outcome> {
        let mut exec = connection.exec();
        let (stdout_offset, stderr_offset) = (self.running.stdout.offset, self.running.stderr.offset);
        let attach = self.running.started.then(|| AttachRequest {
            exec_id: self.start.exec_id.clone(),
            stdout_offset,
            stderr_offset,
        });
        let run = RunRequest {
            start: Some(self.start.clone()),
            stdout_offset,
            stderr_offset,
        };
        let opened = async {
            let events = match attach {
                Some(attach) => exec.attach(attach).await,
                None => exec.run(run).await,
            };
            events.map(tonic::Response::into_inner)
        };
        self.running.meanwhile(opened).await
    }

    /// The agent's own answer.
    fn refused(&self, status: &Status, may_have_run: bool) -> Outcome {
        match may_have_run || self.running.started {
            true => Outcome::lost(
                Kind::AgentLost,
                format!(
                    "the agent in {} has no result of the command any more: {}",
                    self.container.linker.pod(),
                    status.message()
                ),
            ),
            false => status::outcome(status),
        }
    }
}

async fn release(connection: Arc<Connection>, id: [u8; 16]) {
    let exec_id = Bytes::copy_from_slice(&id);
    // Its lease would release it as well.
    let _ = connection.exec().release(ReleaseRequest { exec_id }).await;
}

/// Over another link too, if this one has just broken.
async fn cancel(container: Arc<Container>, mut connection: Arc<Connection>, id: [u8; 16]) {
    let mut patience = diagnosis::Patience::new(CANCEL);
    loop {
        let request = CancelRequest {
            exec_id: Bytes::copy_from_slice(&id),
            reason: "its client went away".into(),
        };
        let Err(status) = connection.exec().cancel(request).await else {
            return;
        };
        let hint = status::reason(&status);
        if diagnosis::is_broken_link(&status, &connection)
            && let Recovery::Again(again) = diagnosis::recover(&container, &connection, &hint, &mut patience).await
        {
            connection = again;
            continue;
        }
        tracing::warn!(
            error = hint,
            "cancel did not reach the agent; if it lives, the lease will end the command"
        );
        return;
    }
}
