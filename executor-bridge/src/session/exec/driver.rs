//! One exec over its links: connects, starts or resumes the command, forwards its events, and connects again after a
//! break. `run` uses it.

use std::sync::Arc;
use std::time::Duration;

use podbridge_proto::limits::EXEC_WINDOW;
use podbridge_proto::v1::{AttachRequest, ExecEvent, PutHeader, RunRequest, StartRequest};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, Lane, is_broken_link, provably_not_sent, status};
use crate::error::{Failure, Kind};
use crate::protocol::result::{EndedExec, Outcome};
use crate::session::budget::InputShare;
use crate::session::exec::puts;
use crate::session::exec::running_exec::{LinkEnd, RunningExec};
use crate::session::files::passed_file::LocalFile;

/// A link that lasts this long was good, also if its command told nothing new.
const GOOD_LINK_TIME: Duration = Duration::from_secs(2);
/// How often within a lease the stream of a client that stands still is opened, so that the agent keeps the command.
const READS_PER_LEASE: u32 = 3;

/// How the exec ended, and what is left to do.
pub(crate) enum ExecEnd {
    /// The agent reported the end of the command. It keeps the result until its release.
    Closed(Arc<Connection>, Outcome),
    /// The command must be ended: the client disconnected, or the bridge cannot continue.
    Cancel(Outcome),
    /// No agent can be told to end the command.
    Lost(Outcome),
}

/// Drives one exec over as many links as it takes.
pub(crate) struct ExecDriver<'a> {
    pub(crate) container: &'a Arc<Container>,
    pub(crate) lane: Lane,
    pub(crate) start: StartRequest,
    /// Files that are put before the command starts.
    pub(crate) puts: Vec<(PutHeader, LocalFile)>,
    /// What the bridge may hold of the input and the files of this client.
    pub(crate) share: InputShare,
    pub(crate) running: RunningExec,
    /// The current connection, for the tasks of the input.
    pub(crate) links: watch::Sender<Option<Arc<Connection>>>,
    /// The agent that may have the start. From then on, the exec is resumed at this agent and at no other.
    pub(crate) lost_agent: Option<LostAgent>,
}

impl ExecDriver<'_> {
    /// Drives the exec until its end.
    pub(crate) async fn drive(&mut self) -> ExecEnd {
        let mut hint = String::new();
        let lease = self.container.linker().lease();
        let mut backoff = Backoff::new(lease);
        loop {
            let connection = match self.connect(&hint, &mut backoff).await {
                Ok(connection) => connection,
                Err(end) => return end,
            };
            let previous_agent = self
                .lost_agent
                .replace(LostAgent::of_connection(&connection, "the client went away"));
            if previous_agent.is_none() && self.running.tell_agent(&connection.agent.instance).await.is_err() {
                return ExecEnd::Cancel(Outcome::Cancelled(EndedExec::default()));
            }
            let mut received = false;
            let opened = Instant::now();
            let status = loop {
                let events = match self.open_stream(&connection).await {
                    Ok(Ok(events)) => events,
                    Ok(Err(status)) => break status,
                    Err(outcome) => return ExecEnd::Cancel(outcome),
                };
                self.links.send_if_modified(|link| {
                    let is_new = !link.as_ref().is_some_and(|link| Arc::ptr_eq(link, &connection));
                    *link = Some(connection.clone());
                    is_new
                });
                let end = self
                    .running
                    .forward_events(events, connection.lane, &mut received)
                    .await;
                self.running.place = None;
                match end {
                    LinkEnd::GavePlaceUp => {}
                    LinkEnd::Closed(outcome) => return ExecEnd::Closed(connection, outcome),
                    LinkEnd::Cancel(outcome) => return ExecEnd::Cancel(outcome),
                    LinkEnd::Broken(status) => break status,
                    LinkEnd::NoPlace => {
                        if let Err(outcome) = self.running.wait_for_place(lease / READS_PER_LEASE).await {
                            return ExecEnd::Cancel(outcome);
                        }
                    }
                    LinkEnd::LetGo => {
                        if let Err(outcome) = self.running.wait_for_client(lease / READS_PER_LEASE).await {
                            return ExecEnd::Cancel(outcome);
                        }
                    }
                }
            };
            self.running.place = None;
            if !is_broken_link(&status, &connection) {
                return ExecEnd::Lost(self.refusal_outcome(&status, previous_agent.is_some()));
            }
            hint = status::reason(&status);
            tracing::info!(
                pod = self.container.linker().pod(),
                reason = hint,
                "the link of an exec broke"
            );
            if received || opened.elapsed() >= GOOD_LINK_TIME {
                // The link was good.
                backoff = Backoff::new(lease);
            }
            if !received && provably_not_sent(&status) {
                connection
                    .handle
                    .end("the connection had ended before the request was sent");
                self.lost_agent = previous_agent;
            } else {
                self.lost_agent = Some(LostAgent::of_connection(&connection, &hint));
            }
        }
    }

    /// Connects to the agent that may have the exec, or to any agent while none may have it. An agent of an older release keeps less output
    /// than a bulk stream can lose with its link: its commands go over the control connection.
    async fn connect(&mut self, hint: &str, backoff: &mut Backoff) -> Result<Arc<Connection>, ExecEnd> {
        let connection = self.connect_lane(hint, backoff).await?;
        // A command that may have begun stays with the agent that was recovered: what it dropped is told, and never skipped.
        if connection.lane == Lane::Control || connection.can(EXEC_WINDOW) || self.lost_agent.is_some() {
            return Ok(connection);
        }
        self.lane = Lane::Control;
        let connecting = self.container.connection(Lane::Control);
        match self.running.while_listening(connecting).await {
            Ok(Ok(control)) => Ok(control),
            Ok(Err(failure)) => Err(ExecEnd::Lost(Outcome::Unreachable(failure))),
            Err(outcome) => Err(ExecEnd::Lost(outcome)),
        }
    }

    async fn connect_lane(&mut self, hint: &str, backoff: &mut Backoff) -> Result<Arc<Connection>, ExecEnd> {
        let Some(lost_agent) = &self.lost_agent else {
            let connecting = async {
                backoff.pause().await;
                self.container.connection(self.lane).await
            };
            return match self.running.while_listening(connecting).await {
                Ok(Ok(_)) if backoff.is_over() => Err(ExecEnd::Lost(Outcome::Unreachable(Failure::new(
                    Kind::Timeout,
                    format!("every link broke before the command was sent: {hint}"),
                )))),
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(failure)) => Err(ExecEnd::Lost(Outcome::Unreachable(failure))),
                Err(outcome) => Err(ExecEnd::Lost(outcome)),
            };
        };
        let recovering = recovery::recover(self.container, lost_agent, backoff);
        match self.running.while_listening(recovering).await {
            Ok(Recovery::Reconnected(connection)) => Ok(connection),
            Ok(Recovery::GivenUp(outcome)) => Err(ExecEnd::Lost(outcome)),
            Err(outcome) => Err(ExecEnd::Cancel(outcome)),
        }
    }

    /// Starts the command, or attaches to it if the agent is known to run it. To start it again is safe: the agent
    /// knows the exec's id. The outer error is an outcome that ends the exec.
    async fn open_stream(&mut self, connection: &Connection) -> Result<Result<Streaming<ExecEvent>, Status>, Outcome> {
        let mut exec = connection.exec();
        let window = u64::from(connection.lane.stream_window());
        let (stdout_offset, stderr_offset) = (self.running.stdout.offset, self.running.stderr.offset);
        let attach = self.running.started.then(|| AttachRequest {
            exec_id: self.start.exec_id.clone(),
            stdout_offset,
            stderr_offset,
            window,
        });
        let run = RunRequest {
            start: Some(self.start.clone()),
            stdout_offset,
            stderr_offset,
            window,
        };
        let (puts, share) = (&self.puts, &self.share);
        let opening = async {
            let events = match attach {
                Some(attach) => exec.attach(attach).await,
                // In a box: most commands have no files, and need no room for them.
                None if !puts.is_empty() => return Box::pin(puts::run(&mut exec, run, puts, share)).await,
                None => exec.run(run).await,
            };
            Ok(events.map(tonic::Response::into_inner))
        };
        self.running.while_listening(opening).await?
    }

    /// Returns the outcome of an exec that the agent refused.
    fn refusal_outcome(&self, status: &Status, may_have_run: bool) -> Outcome {
        if !may_have_run && !self.running.started {
            return status::outcome(status);
        }
        Outcome::lost(
            Kind::AgentLost,
            format!(
                "the agent in {} no longer has the result of the command: {}",
                self.container.linker().pod(),
                status::message(status)
            ),
        )
    }
}
