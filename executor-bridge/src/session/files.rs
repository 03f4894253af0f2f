//! One file out of the pod, and what is known of a path there. The content goes to a descriptor or to the client as
//! frames, its digest compared with the agent's.

use std::sync::Arc;

use podbridge_proto::v1 as wire;
use podbridge_proto::v1::files_client::FilesClient;
use podbridge_proto::v1::get_response::Part;
use podbridge_proto::v1::{GetRequest, GetResponse, StatRequest};
use sha2::{Digest as _, Sha256};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::container::Container;
use super::descriptor::{self, Access, LocalFile};
use super::{Client, Connection, diagnosis, gone, internal, status};
use crate::error::{FailedKind, Failure};
use crate::protocol::frame::{Frame, MAX_LENGTH};
use crate::protocol::request;
use crate::protocol::result::{Done, Ended, FileStat, Outcome};
use crate::protocol::target::hex;

/// Reads may be repeated, so any link that breaks before the first answer is worth another.
const ATTEMPTS: usize = 2;

pub(super) async fn get(container: &Container, request: request::Get, mut client: Client) -> Outcome {
    let file = match client.descriptors.is_empty() {
        true => None,
        false => match descriptor::take(&mut client.descriptors, "the content", Access::Write) {
            Ok(file) => Some(file),
            Err(outcome) => return outcome,
        },
    };
    let wanted = GetRequest {
        path: request.path.0.into(),
        offset: 0,
    };
    let call = |mut files: FilesClient<Channel>| {
        let wanted = wanted.clone();
        async move { files.get(wanted).await }
    };
    let opened = tokio::select! {
        opened = repeated(container, call) => opened,
        outcome = gone(&mut client.inputs) => return outcome,
    };
    let (connection, parts) = match opened {
        Ok((connection, answer)) => (connection, answer.into_inner()),
        Err(outcome) => return outcome,
    };
    let Client {
        mut inputs, replies, ..
    } = client;
    let received = tokio::select! {
        received = receive(parts, file, &replies) => received,
        outcome = gone(&mut inputs) => return outcome,
    };
    match received {
        Ok(outcome) => outcome,
        Err(status) if diagnosis::is_broken_link(&status, &connection) => {
            diagnosis::lost(container, &connection, &crate::error::chain(&status)).await
        }
        Err(status) => status::outcome(&status),
    }
}

type Answered<T> = Result<(Arc<Connection>, T), Outcome>;

/// A call that changes nothing, on a link that lives.
async fn repeated<T, F>(container: &Container, call: impl Fn(FilesClient<Channel>) -> F) -> Answered<T>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut attempt = 1;
    loop {
        let connection = container.connection().await.map_err(Outcome::Unreachable)?;
        match call(connection.files()).await {
            Ok(answer) => return Ok((connection, answer)),
            Err(status) if diagnosis::is_broken_link(&status, &connection) => {
                let hint = crate::error::chain(&status);
                if attempt == ATTEMPTS {
                    return Err(diagnosis::lost(container, &connection, &hint).await);
                }
                connection.handle.end(hint);
                attempt += 1;
            }
            Err(status) => return Err(status::outcome(&status)),
        }
    }
}

async fn receive(
    mut parts: Streaming<GetResponse>,
    file: Option<LocalFile>,
    replies: &tokio::sync::mpsc::Sender<Frame>,
) -> Result<Outcome, Status> {
    let mut digest = Sha256::new();
    let mut length = 0;
    let mut stat = None;
    while let Some(GetResponse { part }) = parts.message().await? {
        match part {
            Some(Part::Stat(found)) => stat = Some(convert(&found)),
            Some(Part::Data(data)) => {
                if data.len() >= MAX_LENGTH {
                    return Ok(Outcome::Lost(internal("the agent sent more at once than it may")));
                }
                digest.update(&data);
                let offset = length;
                length += data.len() as u64;
                match &file {
                    Some(file) => {
                        if let Err(outcome) = file.write_at(offset, data).await {
                            return Ok(outcome);
                        }
                    }
                    None => {
                        if replies.send(Frame::Stdout(data)).await.is_err() {
                            return Ok(Outcome::Cancelled(Ended::default()));
                        }
                    }
                }
            }
            Some(Part::Trailer(trailer)) => {
                let sha256 = digest.finalize();
                if trailer.length != length || trailer.sha256[..] != sha256[..] {
                    return Ok(Outcome::failed(
                        FailedKind::Digest,
                        format!("the file came with {length} bytes and another digest than the agent's; try again"),
                    ));
                }
                if let Some(file) = &file
                    && let Err(outcome) = file.truncate(length).await
                {
                    return Ok(outcome);
                }
                return Ok(Outcome::Ok(Done {
                    length: Some(length),
                    sha256: Some(hex(&sha256)),
                    stat: stat.map(Some),
                    ..Done::default()
                }));
            }
            None => {}
        }
    }
    Ok(Outcome::Lost(Failure::new(
        crate::error::Kind::AgentLost,
        "the agent ended the file early; try again",
    )))
}

pub(super) async fn stat(container: &Container, request: request::Stat, mut client: Client) -> Outcome {
    let wanted = StatRequest {
        path: request.path.0.into(),
        no_follow: request.no_follow,
    };
    let call = |mut files: FilesClient<Channel>| {
        let wanted = wanted.clone();
        async move { files.stat(wanted).await }
    };
    let answered = tokio::select! {
        answered = repeated(container, call) => answered,
        outcome = gone(&mut client.inputs) => return outcome,
    };
    match answered {
        Ok((_, answer)) => Outcome::Ok(Done {
            stat: Some(answer.into_inner().stat.as_ref().map(convert)),
            ..Done::default()
        }),
        Err(outcome) => outcome,
    }
}

fn convert(stat: &wire::FileStat) -> FileStat {
    FileStat {
        mode: stat.mode,
        size: stat.size,
        uid: stat.uid,
        gid: stat.gid,
        mtime_ns: stat.mtime_ns,
    }
}
