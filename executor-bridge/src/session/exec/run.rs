//! One exec from request to outcome: prepares it, starts its tasks, drives it over its links, and leaves its release or cancel behind.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::connections::recovery::LostAgent;
use crate::connections::{Container, Lane};
use crate::protocol::request;
use crate::protocol::result::Outcome;
use crate::session::background::BackgroundCalls;
use crate::session::client::Client;
use crate::session::exec::bulk_limit::BulkLimiter;
use crate::session::exec::cancel::{cancel, release};
use crate::session::exec::driver::{Carrier, Over};
use crate::session::exec::prepare::{self, Prepared};
use crate::session::exec::running_exec::{Running, Sink, Wires};
use crate::session::exec::{choose_lane, control, stdin};
use crate::session::logs::Logs;

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
