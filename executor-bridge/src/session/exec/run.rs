//! One exec from its request to its outcome: prepares the command, starts the tasks of its input, drives it over its
//! links, and sends its release or cancel afterwards.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::connections::recovery::LostAgent;
use crate::connections::{Connection, Container, Lane};
use crate::protocol::request;
use crate::protocol::result::Outcome;
use crate::session::background::BackgroundCalls;
use crate::session::budget::InputShare;
use crate::session::client::Client;
use crate::session::exec::bulk_limit::BulkLimiter;
use crate::session::exec::cancel::{cancel, release};
use crate::session::exec::driver::{ExecDriver, ExecEnd};
use crate::session::exec::prepare::{self, PreparedExec};
use crate::session::exec::running_exec::{InputQueues, OutputSink, RunningExec};
use crate::session::exec::{choose_lane, control, stdin};
use crate::session::files::passed_file::LocalFile;
use crate::session::logs::LogIndex;

/// Runs one command until its end or its cancel.
pub(crate) async fn run(
    container: &Arc<Container>,
    background_calls: &BackgroundCalls,
    bulk_limiter: &Arc<BulkLimiter>,
    logs: Option<&Arc<LogIndex>>,
    request: request::Exec,
    mut client: Client,
) -> Outcome {
    let prepared = match prepare::prepare(request, &mut client).await {
        Ok(prepared) => prepared,
        Err(outcome) => return outcome,
    };
    let PreparedExec {
        mut start,
        id,
        stdin_file,
        stdout,
        stderr,
        puts,
        resume,
        inline_credit: _inline_credit,
    } = prepared;
    // The lease is not part of the digest: a bridge with another lease may have to send this start again.
    start.lease_ms = container.linker().lease().as_millis() as u64;
    let _writer = logs.map(|logs| logs.start_exec(container.name(), &start.argv, &start.stdin));
    let progress = resume.unwrap_or_default();
    // A file is read from its first byte. The agent drops the bytes that it has.
    let stdin_offset = if stdin_file.is_some() { 0 } else { progress.stdin };
    let share = client.share.clone();
    let InputTasks {
        queues,
        links,
        acks,
        broken_stdin,
        tasks: _tasks,
    } = start_input_tasks(id, stdin_offset, stdin_file, share.clone());
    let mut running = RunningExec {
        id,
        client,
        input_queues: queues,
        acks,
        broken_stdin,
        stdout: OutputSink::new(stdout, progress.stdout),
        stderr: OutputSink::new(stderr, progress.stderr),
        started: progress.started,
        outbox: None,
        place: None,
        exit: None,
    };
    let lane = choose_lane::lane_of(&start);
    let lost_agent = (!progress.instance.is_empty()).then(|| LostAgent::of_another_bridge(progress.instance, lane));
    // A resumed command got its permit in the previous bridge.
    let needs_permit = lane == Lane::Bulk && lost_agent.is_none();
    let _permit = if needs_permit {
        match running.while_listening(bulk_limiter.acquire()).await {
            Ok(permit) => Some(permit),
            Err(outcome) => return outcome,
        }
    } else {
        None
    };
    let mut driver = ExecDriver {
        container,
        lane,
        start,
        puts,
        share,
        running,
        links,
        lost_agent,
    };
    let end = driver.drive().await;
    let ExecDriver {
        lost_agent, running, ..
    } = driver;
    match end {
        ExecEnd::Closed(connection, outcome) => {
            let result_delivered = running.client.result_delivered;
            background_calls.send(async move {
                // Release only after the client has the result: until then, a client without the result asks the next
                // bridge for it. `Err` means that the sender was dropped, so the result is delivered.
                let _ = result_delivered.await;
                release(connection, id).await;
            });
            outcome
        }
        // The start may have been sent or not, and the command may run or not. The agent refuses every later start with
        // this id.
        ExecEnd::Cancel(outcome) => {
            if let Some(lost_agent) = lost_agent {
                background_calls.send(cancel(container.clone(), lost_agent, id));
            }
            outcome
        }
        ExecEnd::Lost(outcome) => outcome,
    }
}

/// Tasks that send a client's input to the agent, and the bridge's ends of their channels.
struct InputTasks {
    queues: InputQueues,
    /// Current connection of the exec.
    links: watch::Sender<Option<Arc<Connection>>>,
    acks: watch::Receiver<stdin::Ack>,
    broken_stdin: mpsc::Receiver<Outcome>,
    /// Aborts the tasks when it is dropped.
    tasks: JoinSet<()>,
}

/// Starts the tasks of one exec's input. `stdin_offset`: offset of the first byte that they get.
fn start_input_tasks(id: [u8; 16], stdin_offset: u64, stdin_file: Option<LocalFile>, share: InputShare) -> InputTasks {
    let (links, current_link) = watch::channel(None);
    let (stdin_parts, queued_stdin_parts) = mpsc::unbounded_channel();
    let (controls, queued_controls) = mpsc::unbounded_channel();
    let (ack_sender, acks) = watch::channel(stdin::Ack {
        offset: stdin_offset,
        closed: false,
    });
    let (unreadable, broken_stdin) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(stdin::pump(
        id,
        stdin_offset,
        current_link.clone(),
        queued_stdin_parts,
        ack_sender,
    ));
    tasks.spawn(control::send(id, current_link, queued_controls));
    if let Some(file) = stdin_file {
        let stdin_parts = stdin_parts.clone();
        tasks.spawn(async move {
            if let Err(outcome) = stdin::read_file(file, share, stdin_parts).await {
                // If the exec has ended the receiver is gone.
                let _ = unreadable.send(outcome).await;
            }
        });
    }
    InputTasks {
        queues: InputQueues {
            stdin: stdin_parts,
            controls,
        },
        links,
        acks,
        broken_stdin,
        tasks,
    }
}
