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

use super::connection::Lane;
use super::container::Container;
use super::descriptor::{self, Access, LocalFile};
use super::diagnosis::{self, Home, Patience, Recovery};
use super::{Client, Connection, gone, internal, status};
use crate::error::{FailedKind, Failure};
use crate::protocol::frame::{Frame, MAX_LENGTH};
use crate::protocol::request;
use crate::protocol::result::{Done, Ended, FileStat, Outcome};
use crate::protocol::target::hex;

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
        ..GetRequest::default()
    };
    let call = |mut files: FilesClient<Channel>| {
        let wanted = wanted.clone();
        async move { files.get(wanted).await }
    };
    let Client {
        mut inputs, replies, ..
    } = client;
    let mut patience = Patience::new(container.linker().timeout());
    let received = async {
        loop {
            let (connection, answer) = match repeated(container, Lane::Bulk, &mut patience, call).await {
                Ok(opened) => opened,
                Err(outcome) => return outcome,
            };
            let status = match receive(answer.into_inner(), file.as_ref(), &replies).await {
                Ok(outcome) => return outcome,
                Err(status) => status,
            };
            if !diagnosis::is_broken_link(&status, &connection) {
                return status::outcome(&status);
            }
            // A file is written again from its start; frames are gone.
            let home = Home::behind(&connection, &status::reason(&status));
            match &file {
                None => return diagnosis::lost(container, &home).await,
                Some(_) => {
                    if let Recovery::Over(outcome) = diagnosis::recover(container, &home, &mut patience).await {
                        return outcome;
                    }
                }
            }
        }
    };
    tokio::select! {
        outcome = received => outcome,
        outcome = gone(&mut inputs) => outcome,
    }
}

type Answered<T> = Result<(Arc<Connection>, T), Outcome>;

/// A call that changes nothing: repeated when its link breaks.
async fn repeated<T, F>(
    container: &Container,
    lane: Lane,
    patience: &mut Patience,
    call: impl Fn(FilesClient<Channel>) -> F,
) -> Answered<T>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut connection = container.connection(lane).await.map_err(Outcome::Unreachable)?;
    loop {
        let status = match call(connection.files()).await {
            Ok(answer) => return Ok((connection, answer)),
            Err(status) => status,
        };
        if !diagnosis::is_broken_link(&status, &connection) {
            return Err(status::outcome(&status));
        }
        let home = Home::behind(&connection, &status::reason(&status));
        connection = match diagnosis::recover(container, &home, patience).await {
            Recovery::Again(connection) => connection,
            Recovery::Over(outcome) => return Err(outcome),
        };
    }
}

async fn receive(
    mut parts: Streaming<GetResponse>,
    file: Option<&LocalFile>,
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
                match file {
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
                if trailer.length != length || trailer.digest[..] != sha256[..] {
                    return Ok(Outcome::failed(
                        FailedKind::Digest,
                        format!("the file came with {length} bytes and another digest than the agent's; try again"),
                    ));
                }
                if let Some(file) = file
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
            Some(Part::Hole(_)) | None => {}
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
        root: None,
    };
    let call = |mut files: FilesClient<Channel>| {
        let wanted = wanted.clone();
        async move { files.stat(wanted).await }
    };
    let mut patience = Patience::new(container.linker().timeout());
    let answered = tokio::select! {
        answered = repeated(container, Lane::Control, &mut patience, call) => answered,
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
