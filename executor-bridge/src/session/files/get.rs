//! One file out of the pod, into a descriptor or to the client as frames, its digest compared with the agent's. Goes on over
//! the next link where the last one broke, if it is still the same file.

use bytes::Bytes;
use podbridge_proto::limits::FILES_V2;
use podbridge_proto::v1::get_response::Part;
use podbridge_proto::v1::{GetRequest, GetResponse, GetTrailer};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Container, Lane, is_broken_link, status};
use crate::error::{FailedKind, Failure, Kind};
use crate::protocol::frame::Frame;
use crate::protocol::request;
use crate::protocol::result::{Done, FileStat, Outcome};
use crate::session::client::{Client, gone};
use crate::session::files::capability::no_root;
use crate::session::files::get_sink::{Landing, Piece};
use crate::session::files::passed_file::{self, Access, LocalFile};
use crate::session::files::running_digest;
use crate::session::files::stat::{convert, repeated};

pub(crate) async fn get(container: &Container, request: request::Get, mut client: Client) -> Outcome {
    let file = match client.descriptors.is_empty() {
        true => None,
        false => match passed_file::take(&mut client.descriptors, "the content", Access::Write) {
            Ok(file) => Some(file),
            Err(outcome) => return outcome,
        },
    };
    let Client {
        mut inputs, replies, ..
    } = client;
    tokio::select! {
        outcome = receive(container, &request, file.as_ref(), &replies) => outcome,
        outcome = gone(&mut inputs) => outcome,
    }
}

/// What has come so far.
struct Received {
    landing: Landing,
    length: u64,
    stat: Option<FileStat>,
    /// Of the file; empty if the agent does not tell.
    version: Bytes,
}

/// How one stream of parts ended.
enum End {
    Trailer(GetTrailer),
    Over(Outcome),
    /// It is another file now than the one whose beginning came.
    Changed,
}

async fn receive(
    container: &Container,
    request: &request::Get,
    file: Option<&LocalFile>,
    replies: &mpsc::Sender<Frame>,
) -> Outcome {
    let mut backoff = Backoff::new(container.linker().timeout());
    let mut received: Option<Received> = None;
    loop {
        let offset = received.as_ref().map_or(0, |received| received.length);
        let opened = repeated(container, Lane::Bulk, &mut backoff, |connection| {
            let wanted = GetRequest {
                path: request.path.0.clone().into(),
                offset,
                root: request.root.as_ref().map(|root| root.0.clone().into()),
                digest: running_digest::digest(connection).into(),
                sparse: connection.can(FILES_V2),
            };
            let refused = no_root(connection, wanted.root.is_some());
            let mut files = connection.files();
            async move {
                match refused {
                    Some(outcome) => Ok(Err(outcome)),
                    None => files.get(wanted).await.map(Ok),
                }
            }
        });
        let (connection, parts) = match opened.await {
            Ok((connection, Ok(parts))) => (connection, parts.into_inner()),
            Ok((_, Err(outcome))) | Err(outcome) => return outcome,
        };
        let mut current = received.take().unwrap_or_else(|| Received {
            landing: Landing::new(file, replies, running_digest::digest(&connection)),
            length: 0,
            stat: None,
            version: Bytes::new(),
        });
        let status = match current.run(parts).await {
            Ok(End::Over(outcome)) => return outcome,
            Ok(End::Trailer(trailer)) => {
                let Received { landing, stat, .. } = current;
                return finish(landing, &trailer, stat).await;
            }
            Ok(End::Changed) if file.is_some() => {
                // Its writer is done before another one begins.
                if let Err(outcome) = current.landing.finish().await {
                    return outcome;
                }
                continue;
            }
            Ok(End::Changed) => {
                return Outcome::failed(
                    FailedKind::Io,
                    "the file changed while the link was down, after its beginning had come; try again",
                );
            }
            Err(status) => status,
        };
        if !is_broken_link(&status, &connection) {
            return status::outcome(&status);
        }
        let lost_agent = LostAgent::of_connection(&connection, &status::reason(&status));
        let came = current.length > offset;
        // Of a file that cannot be told from another one, a descriptor gets it all again, and frames cannot.
        let again = match (file, current.version.is_empty() && current.length > 0) {
            (None, true) => return recovery::lost(container, &lost_agent).await,
            (Some(_), true) => current.landing.finish().await.map(drop),
            (_, false) => {
                let cut = current.landing.take(Piece::Cut).await;
                received = Some(current);
                cut
            }
        };
        if let Err(outcome) = again {
            return outcome;
        }
        if came {
            // A link that carried something was good.
            backoff = Backoff::new(container.linker().timeout());
        }
        if let Recovery::GivenUp(outcome) = recovery::recover(container, &lost_agent, &mut backoff).await {
            return outcome;
        }
    }
}

impl Received {
    async fn run(&mut self, mut parts: Streaming<GetResponse>) -> Result<End, Status> {
        while let Some(GetResponse { part }) = parts.message().await? {
            let (piece, length) = match part {
                Some(Part::Stat(found)) => {
                    if self.length > 0 && found.version != self.version {
                        return Ok(End::Changed);
                    }
                    self.stat = Some(convert(&found));
                    self.version = found.version;
                    continue;
                }
                Some(Part::Data(data)) => {
                    let length = data.len() as u64;
                    (Piece::Data(data), length)
                }
                Some(Part::Hole(count)) => (Piece::Hole(count), count),
                Some(Part::Trailer(trailer)) => return Ok(End::Trailer(trailer)),
                None => continue,
            };
            if let Err(outcome) = self.landing.take(piece).await {
                return Ok(End::Over(outcome));
            }
            self.length += length;
        }
        Ok(End::Over(Outcome::Lost(Failure::new(
            Kind::AgentLost,
            "the agent ended the file early; try again",
        ))))
    }
}

async fn finish(landing: Landing, trailer: &GetTrailer, stat: Option<FileStat>) -> Outcome {
    let sums = match landing.finish().await {
        Ok(sums) => sums,
        Err(outcome) => return outcome,
    };
    if !sums.agree(trailer) {
        return Outcome::failed(
            FailedKind::Digest,
            format!(
                "the file came with {} bytes and another digest than the agent's; try again",
                sums.length()
            ),
        );
    }
    Outcome::Ok(Done {
        stat: stat.map(Some),
        ..sums.done()
    })
}
