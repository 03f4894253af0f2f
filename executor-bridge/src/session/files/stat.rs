//! Attributes of a path in the container, and the repetition of calls that change nothing. `get` uses the repetition
//! too.

use std::sync::Arc;

use podbridge_proto::v1 as wire;
use podbridge_proto::v1::StatRequest;
use tonic::Status;

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, Lane, is_broken_link, status};
use crate::protocol::request;
use crate::protocol::result::{Done, FileStat, Outcome};
use crate::session::client::{Client, wait_for_cancel};
use crate::session::files::capability::refuse_root;

/// Answer and connection of a call.
type CallResult<T> = Result<(Arc<Connection>, T), Outcome>;

/// Makes a call that changes nothing, again and again until a link carries its answer. Returns the answer and its
/// connection.
pub(crate) async fn call_until_answered<T, F>(
    container: &Container,
    lane: Lane,
    backoff: &mut Backoff,
    call: impl Fn(&Connection) -> F,
) -> CallResult<T>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut connection = container.connection(lane).await.map_err(Outcome::Unreachable)?;
    loop {
        let status = match call(&connection).await {
            Ok(answer) => return Ok((connection, answer)),
            Err(status) => status,
        };
        if !is_broken_link(&status, &connection) {
            return Err(status::outcome(&status));
        }
        let lost_agent = LostAgent::of_connection(&connection, &status::reason(&status));
        connection = match recovery::recover(container, &lost_agent, backoff).await {
            Recovery::Reconnected(connection) => connection,
            Recovery::GivenUp(outcome) => return Err(outcome),
        };
    }
}

/// Returns the attributes of the path.
pub(crate) async fn stat(container: &Container, request: request::Stat, mut client: Client) -> Outcome {
    let wanted = StatRequest {
        path: request.path.0.into(),
        no_follow: request.no_follow,
        root: request.root.map(|root| root.0.into()),
    };
    let call = |connection: &Connection| {
        let wanted = wanted.clone();
        let refused = refuse_root(connection, wanted.root.is_some());
        let mut files = connection.files();
        async move {
            match refused {
                Some(outcome) => Ok(Err(outcome)),
                None => files.stat(wanted).await.map(Ok),
            }
        }
    };
    let mut backoff = Backoff::new(container.linker().timeout());
    let answered = tokio::select! {
        answered = call_until_answered(container, Lane::Control, &mut backoff, call) => answered,
        outcome = wait_for_cancel(&mut client.inputs) => return outcome,
    };
    match answered {
        Ok((_, Ok(answer))) => Outcome::Ok(Done {
            stat: Some(answer.into_inner().stat.as_ref().map(to_file_stat)),
            ..Done::default()
        }),
        Ok((_, Err(outcome))) | Err(outcome) => outcome,
    }
}

pub(crate) fn to_file_stat(stat: &wire::FileStat) -> FileStat {
    FileStat {
        mode: stat.mode,
        size: stat.size,
        uid: stat.uid,
        gid: stat.gid,
        mtime_ns: stat.mtime_ns,
    }
}
