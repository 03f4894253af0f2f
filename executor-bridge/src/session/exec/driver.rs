//! One exec kept on a link: started once, its output carried to the client as it comes, over as many links as it takes.

use std::sync::Arc;

use podbridge_proto::v1::{AttachRequest, ExecEvent, PutHeader, RunRequest, StartRequest};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, Lane, is_broken_link, provably_not_sent, status};
use crate::error::{Failure, Kind};
use crate::protocol::result::{Ended, Outcome};
use crate::session::exec::puts;
use crate::session::exec::running_exec::{End, Running};
use crate::session::files::passed_file::LocalFile;

pub(crate) enum Over {
    Closed(Arc<Connection>, Outcome),
    /// The command is to end.
    Cancel(Outcome),
    /// There is nobody to tell.
    Lost(Outcome),
}

/// Keeps one exec on a link.
pub(crate) struct Carrier<'a> {
    pub(crate) container: &'a Arc<Container>,
    pub(crate) lane: Lane,
    pub(crate) start: StartRequest,
    pub(crate) puts: Vec<(PutHeader, LocalFile)>,
    pub(crate) running: Running,
    pub(crate) links: watch::Sender<Option<Arc<Connection>>>,
    /// Where the start may have arrived: this agent and no other has the exec.
    pub(crate) lost_agent: Option<LostAgent>,
}

impl Carrier<'_> {
    pub(crate) async fn carry(&mut self) -> Over {
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
