//! One exec: started once, its output carried to the client as it comes, over as many links as it takes; its end told
//! only from the agent's exit record. A client that goes away has it cancelled.

mod bulk_limit;
mod choose_lane;
mod control;
mod outcome;
mod prepare;
mod puts;
mod running;
mod stdin;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::v1::{
    AttachRequest, CancelRequest, ExecEvent, PutHeader, ReleaseRequest, RunRequest, StartRequest,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, Lane, is_broken_link, provably_not_sent, status};
use crate::error::{Failure, Kind};
use crate::protocol::request;
use crate::protocol::result::{Ended, Outcome};
use crate::session::background::BackgroundCalls;
use crate::session::client::Client;
use crate::session::exec::prepare::Prepared;
use crate::session::exec::running::{End, Running, Sink, Wires};
use crate::session::files::passed_file::LocalFile;
use crate::session::logs::Logs;
pub(crate) use bulk_limit::BulkLimiter;

/// How long the agent's answer to a cancel is sought, and then the command's end.
const CANCEL: Duration = Duration::from_secs(60);
/// Between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) async fn run(
    container: &Arc<Container>,
    background_calls: &BackgroundCalls,
    bulk_limiter: &Arc<BulkLimiter>,
    logs: Option<&Arc<Logs>>,
    request: request::Exec,
    mut client: Client,
) -> Outcome {
    let prepared = match prepare::prepare(request, &mut client).await {
        Ok(prepared) => prepared,
        Err(outcome) => return outcome,
    };
    let Prepared {
        mut start,
        id,
        stdin_file,
        stdout,
        stderr,
        puts,
        resume,
    } = prepared;
    // No part of the digest: a bridge with another lease may have to send this start again.
    start.lease_ms = container.linker().lease().as_millis() as u64;
    let _running = logs.map(|logs| logs.begin(container.name(), &start.argv, &start.stdin));
    let (links, watched) = watch::channel(None);
    let (pieces, queued_pieces) = mpsc::unbounded_channel();
    let (controls, queued_controls) = mpsc::unbounded_channel();
    let (acks, incoming_acks) = mpsc::unbounded_channel();
    let (unreadable, broken_stdin) = mpsc::channel(1);
    let progress = resume.unwrap_or_default();
    // A file is read from its start; the agent drops what it has.
    let from = if stdin_file.is_some() { 0 } else { progress.stdin };
    let mut tasks = JoinSet::new();
    tasks.spawn(stdin::pump(id, from, watched.clone(), queued_pieces, acks));
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
    let mut running = Running {
        id,
        client,
        wires: Wires { pieces, controls },
        acks: incoming_acks,
        broken_stdin,
        stdout: Sink::new(stdout, progress.stdout),
        stderr: Sink::new(stderr, progress.stderr),
        started: progress.started,
        outbox: None,
        exit: None,
    };
    let lane = choose_lane::of(&start);
    let lost_agent = (!progress.instance.is_empty()).then(|| LostAgent::of_another_bridge(progress.instance, lane));
    // Who comes from another bridge has had it.
    let _permit = match lane == Lane::Bulk && lost_agent.is_none() {
        true => match running.meanwhile(bulk_limiter.take()).await {
            Ok(permit) => Some(permit),
            Err(outcome) => return outcome,
        },
        false => None,
    };
    let mut carrier = Carrier {
        container,
        lane,
        start,
        puts,
        running,
        links,
        lost_agent,
    };
    let over = carrier.carry().await;
    let Carrier {
        lost_agent, running, ..
    } = carrier;
    match over {
        Over::Closed(connection, outcome) => {
            let result_delivered = running.client.result_delivered;
            background_calls.send(async move {
                // Not earlier: a client without its result asks the next bridge for it. The error says "told".
                let _ = result_delivered.await;
                release(connection, id).await;
            });
            outcome
        }
        // Sent or not, started or not: the agent fences the id.
        Over::Cancel(outcome) => {
            if let Some(lost_agent) = lost_agent {
                background_calls.send(cancel(container.clone(), lost_agent, id));
            }
            outcome
        }
        Over::Lost(outcome) => outcome,
    }
}

enum Over {
    Closed(Arc<Connection>, Outcome),
    /// The command is to end.
    Cancel(Outcome),
    /// There is nobody to tell.
    Lost(Outcome),
}

/// Keeps one exec on a link.
struct Carrier<'a> {
    container: &'a Arc<Container>,
    lane: Lane,
    start: StartRequest,
    puts: Vec<(PutHeader, LocalFile)>,
    running: Running,
    links: watch::Sender<Option<Arc<Connection>>>,
    /// Where the start may have arrived: this agent and no other has the exec.
    lost_agent: Option<LostAgent>,
}

impl Carrier<'_> {
    async fn carry(&mut self) -> Over {
        let mut hint = String::new();
        let lease = self.container.linker().lease();
        let mut backoff = Backoff::new(lease);
        loop {
            let connection = match self.link(&hint, &mut backoff).await {
                Ok(connection) => connection,
                Err(over) => return over,
            };
            let before = self
                .lost_agent
                .replace(LostAgent::of_connection(&connection, "the client went away"));
            if before.is_none() && self.running.tell_agent(&connection.agent.instance).await.is_err() {
                return Over::Cancel(Outcome::Cancelled(Ended::default()));
            }
            let mut moved = false;
            let status = match self.open(&connection).await {
                Ok(Ok(events)) => {
                    self.links.send_replace(Some(connection.clone()));
                    match self.running.follow(events, &mut moved).await {
                        End::Closed(outcome) => return Over::Closed(connection, outcome),
                        End::Cancel(outcome) => return Over::Cancel(outcome),
                        End::Broken(status) => status,
                    }
                }
                Ok(Err(status)) => status,
                Err(outcome) => return Over::Cancel(outcome),
            };
            if !is_broken_link(&status, &connection) {
                return Over::Lost(self.refused(&status, before.is_some()));
            }
            hint = status::reason(&status);
            tracing::info!(
                pod = self.container.linker().pod(),
                reason = hint,
                "the link of an exec broke"
            );
            if moved {
                backoff = Backoff::new(lease);
            }
            if !moved && provably_not_sent(&status) {
                connection
                    .handle
                    .end("the connection had ended before the request was sent");
                self.lost_agent = before;
            } else {
                self.lost_agent = Some(LostAgent::of_connection(&connection, &hint));
            }
        }
    }

    /// A link to the agent that has the exec; to any, as long as none has.
    async fn link(&mut self, hint: &str, backoff: &mut Backoff) -> Result<Arc<Connection>, Over> {
        let Some(lost_agent) = &self.lost_agent else {
            let linked = async {
                backoff.pause().await;
                self.container.connection(self.lane).await
            };
            return match self.running.meanwhile(linked).await {
                Ok(Ok(_)) if backoff.is_over() => Err(Over::Lost(Outcome::Unreachable(Failure::new(
                    Kind::Timeout,
                    format!("every link broke before the command was sent: {hint}"),
                )))),
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(failure)) => Err(Over::Lost(Outcome::Unreachable(failure))),
                Err(outcome) => Err(Over::Lost(outcome)),
            };
        };
        let recovered = recovery::recover(self.container, lost_agent, backoff);
        match self.running.meanwhile(recovered).await {
            Ok(Recovery::Reconnected(connection)) => Ok(connection),
            Ok(Recovery::GivenUp(outcome)) => Err(Over::Lost(outcome)),
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
        let puts = &self.puts;
        let opened = async {
            let events = match attach {
                Some(attach) => exec.attach(attach).await,
                None if !puts.is_empty() => return puts::run(&mut exec, run, puts).await,
                None => exec.run(run).await,
            };
            Ok(events.map(tonic::Response::into_inner))
        };
        self.running.meanwhile(opened).await?
    }

    /// The agent's own answer.
    fn refused(&self, status: &Status, may_have_run: bool) -> Outcome {
        match may_have_run || self.running.started {
            true => Outcome::lost(
                Kind::AgentLost,
                format!(
                    "the agent in {} has no result of the command any more: {}",
                    self.container.linker().pod(),
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

/// Nobody will ask for what it wrote: it shall not be kept for a lease. Its tree has some time to end.
async fn release_when_ended(connection: Arc<Connection>, id: [u8; 16]) {
    let begun = Instant::now();
    while begun.elapsed() < CANCEL {
        let exec_id = Bytes::copy_from_slice(&id);
        match connection.exec().release(ReleaseRequest { exec_id }).await {
            Err(status) if status.code() == Code::FailedPrecondition => sleep(PAUSE).await,
            _ => return,
        }
    }
}

/// Over another link too, if the exec's own has just broken.
async fn cancel(container: Arc<Container>, lost_agent: LostAgent, id: [u8; 16]) {
    let mut backoff = Backoff::new(CANCEL);
    let reason = loop {
        let connection = match recovery::recover(&container, &lost_agent, &mut backoff).await {
            Recovery::Reconnected(connection) => connection,
            // Who is gone has ended it.
            Recovery::GivenUp(_) => break "there is no link to it any more".to_owned(),
        };
        let request = CancelRequest {
            exec_id: Bytes::copy_from_slice(&id),
            reason: "its client went away".into(),
        };
        match connection.exec().cancel(request).await {
            Ok(_) => return release_when_ended(connection, id).await,
            Err(status) if is_broken_link(&status, &connection) => {}
            Err(status) => break status::reason(&status),
        }
    };
    tracing::warn!(
        reason,
        "cancel did not reach the agent; if it lives, the lease will end the command"
    );
}
