//! The calls after an exec: its release once the client has the result, and its cancel when the client has gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::v1::{CancelRequest, ReleaseRequest};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, is_broken_link, status};

/// How long the agent's answer to a cancel is sought, and then the command's end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks whether it has ended.
const RELEASE_RETRY_PAUSE: Duration = Duration::from_millis(200);

pub(crate) async fn release(connection: Arc<Connection>, id: [u8; 16]) {
    let exec_id = Bytes::copy_from_slice(&id);
    // Its lease would release it as well.
    let _ = connection.exec().release(ReleaseRequest { exec_id }).await;
}

/// Nobody will ask for what it wrote: it shall not be kept for a lease. Its tree has some time to end.
async fn release_when_ended(connection: Arc<Connection>, id: [u8; 16]) {
    let started = Instant::now();
    while started.elapsed() < CANCEL_TIMEOUT {
        let exec_id = Bytes::copy_from_slice(&id);
        match connection.exec().release(ReleaseRequest { exec_id }).await {
            Err(status) if status.code() == Code::FailedPrecondition => sleep(RELEASE_RETRY_PAUSE).await,
            _ => return,
        }
    }
}

/// Over another link too, if the exec's own has just broken.
pub(crate) async fn cancel(container: Arc<Container>, lost_agent: LostAgent, id: [u8; 16]) {
    let mut backoff = Backoff::new(CANCEL_TIMEOUT);
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
