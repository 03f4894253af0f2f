//! The calls after an exec: its release when the client has the result, or its cancel when the client is gone. They run
//! as background calls; `run` starts them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::v1::{CancelRequest, ReleaseRequest};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, is_broken_link, status};

/// Time limit of the Cancel call, and then of the wait for the command's end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit of one call. A link on which an agent does not answer a cancel for so long is ended, and the next one is tried.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two Release calls for a command that still runs.
const RELEASE_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Tells the agent to forget the exec and its output.
pub(crate) async fn release(connection: Arc<Connection>, id: [u8; 16]) {
    let exec_id = Bytes::copy_from_slice(&id);
    // Best effort: the agent also releases the exec when its lease ends.
    let _ = timeout(ANSWER_TIMEOUT, connection.exec().release(ReleaseRequest { exec_id })).await;
}

/// Releases a cancelled exec as soon as it has ended. No client will ask for its output, so the agent need not keep it
/// until the lease ends. The process tree gets some time to end.
async fn release_when_ended(connection: Arc<Connection>, id: [u8; 16]) {
    let started = Instant::now();
    while started.elapsed() < CANCEL_TIMEOUT {
        let exec_id = Bytes::copy_from_slice(&id);
        match timeout(ANSWER_TIMEOUT, connection.exec().release(ReleaseRequest { exec_id })).await {
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => sleep(RELEASE_RETRY_PAUSE).await,
            _ => return,
        }
    }
}

/// Cancels an exec, over another link if its own link has just broken.
pub(crate) async fn cancel(container: Arc<Container>, lost_agent: LostAgent, id: [u8; 16]) {
    let mut backoff = Backoff::new(CANCEL_TIMEOUT);
    let reason = loop {
        let connection = match recovery::recover(&container, &lost_agent, &mut backoff).await {
            Recovery::Reconnected(connection) => connection,
            // An agent that is gone has ended the command.
            Recovery::GivenUp(_) => break "there is no link to the agent any more".to_owned(),
        };
        let request = CancelRequest {
            exec_id: Bytes::copy_from_slice(&id),
            reason: "its client went away".into(),
        };
        match timeout(ANSWER_TIMEOUT, connection.exec().cancel(request)).await {
            Ok(Ok(_)) => return release_when_ended(connection, id).await,
            Ok(Err(status)) if is_broken_link(&status, &connection) => {}
            Ok(Err(status)) => break status::reason(&status),
            Err(_) => connection.handle.end("the agent did not answer a cancel"),
        }
    };
    tracing::warn!(
        reason,
        "the cancel did not reach the agent; if the agent still runs, it ends the command when the lease ends"
    );
}
