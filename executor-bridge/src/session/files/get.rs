//! Gets one file from the container, into the client's file descriptor or as frames, and compares its digest with the
//! agent's. After a link break the transfer continues where it stopped if the file is still the same.

use bytes::Bytes;
use podbridge_proto::limits::{FILES_V2, MAX_FILE_IDENTITY, check_hole, check_length};
use podbridge_proto::v1::get_response::Part;
use podbridge_proto::v1::{GetRequest, GetResponse, GetTrailer};
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Container, Lane, is_broken_link, status};
use crate::error::{FailedKind, Failure, Kind};
use crate::protocol::request;
use crate::protocol::result::{Done, FileStat, Outcome};
use crate::session::client::{Client, Replies, wait_for_cancel};
use crate::session::files::capability::refuse_root;
use crate::session::files::get_sink::{GetSink, ReceivedPart, Taken};
use crate::session::files::passed_file::{self, Access, LocalFile};
use crate::session::files::running_digest;
use crate::session::files::stat::{call_until_answered, to_file_stat};
use crate::session::news::News;

/// Gets the file until its end or until the client disconnects.
pub(crate) async fn get(container: &Container, request: request::Get, mut client: Client) -> Outcome {
    let file = if client.descriptors.is_empty() {
        None
    } else {
        match passed_file::take(&mut client.descriptors, "the content", Access::Write) {
            Ok(file) => Some(file),
            Err(outcome) => return outcome,
        }
    };
    let Client {
        mut inputs, replies, ..
    } = client;
    tokio::select! {
        outcome = receive(container, &request, file.as_ref(), &replies) => outcome,
        outcome = wait_for_cancel(&mut inputs) => outcome,
    }
}

/// The part of the file that has come so far.
struct PartialFile {
    sink: GetSink,
    length: u64,
    stat: Option<FileStat>,
    /// Version of the file; empty if the agent sends none.
    version: Bytes,
}

/// How one stream of parts ended.
enum StreamEnd {
    Trailer(GetTrailer),
    Failed(Outcome),
    /// The file is not the one whose first part came.
    Changed,
    /// The client stands still, and so do too many others. The rest follows when the client takes more.
    LetGo,
}

/// Receives the file over as many links as it takes.
async fn receive(
    container: &Container,
    request: &request::Get,
    file: Option<&LocalFile>,
    replies: &Replies,
) -> Outcome {
    let mut backoff = Backoff::new(container.linker().timeout());
    let mut received: Option<PartialFile> = None;
    loop {
        let offset = received.as_ref().map_or(0, |received| received.length);
        let receiving = replies.budget.receiving().await;
        let opened = call_until_answered(container, Lane::Bulk, &mut backoff, |connection| {
            let wanted = GetRequest {
                path: request.path.0.clone().into(),
                offset,
                root: request.root.as_ref().map(|root| root.0.clone().into()),
                digest: running_digest::choose_kind(connection).into(),
                sparse: connection.can(FILES_V2),
            };
            let refused = refuse_root(connection, wanted.root.is_some());
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
        let mut current = received.take().unwrap_or_else(|| PartialFile {
            sink: GetSink::new(file, replies, running_digest::choose_kind(&connection)),
            length: 0,
            stat: None,
            version: Bytes::new(),
        });
        let status = match current.run(parts, connection.lane).await {
            Ok(StreamEnd::Failed(outcome)) => return outcome,
            Ok(StreamEnd::Trailer(trailer)) => {
                let PartialFile { sink, stat, .. } = current;
                return finish(sink, &trailer, stat).await;
            }
            Ok(StreamEnd::LetGo) => {
                drop(receiving);
                let resumed = async {
                    current.sink.wait_for_client().await?;
                    current.sink.accept(ReceivedPart::LinkBreak, None).await
                };
                if let Err(outcome) = resumed.await {
                    return outcome;
                }
                received = Some(current);
                continue;
            }
            Ok(StreamEnd::Changed) if file.is_some() => {
                // The old writer must end before the next one starts.
                if let Err(outcome) = current.sink.finish().await {
                    return outcome;
                }
                continue;
            }
            Ok(StreamEnd::Changed) => {
                return Outcome::failed(
                    FailedKind::Io,
                    "the file changed after its first part was sent, while the link was down or the output was not read; try again",
                );
            }
            Err(status) => status,
        };
        drop(receiving);
        if !is_broken_link(&status, &connection) {
            return status::outcome(&status);
        }
        let lost_agent = LostAgent::of_connection(&connection, &status::reason(&status));
        let made_progress = current.length > offset;
        // The file has no version, so it may be another one after the break. A descriptor gets the whole file again.
        // Frames cannot be taken back.
        let restarted = match (file, current.version.is_empty() && current.length > 0) {
            (None, true) => return recovery::diagnose(container, &lost_agent).await,
            (Some(_), true) => current.sink.finish().await.map(drop),
            (_, false) => {
                let cut = current.sink.accept(ReceivedPart::LinkBreak, None).await;
                received = Some(current);
                cut.map(drop)
            }
        };
        if let Err(outcome) = restarted {
            return outcome;
        }
        if made_progress {
            // The link carried data, so it was good.
            backoff = Backoff::new(container.linker().timeout());
        }
        if let Recovery::GivenUp(outcome) = recovery::recover(container, &lost_agent, &mut backoff).await {
            return outcome;
        }
    }
}

impl PartialFile {
    /// Receives the parts of one stream. An error is the status of the call.
    async fn run(&mut self, mut parts: Streaming<GetResponse>, lane: Lane) -> Result<StreamEnd, Status> {
        let mut news = News::default();
        while let Some(GetResponse { part }) = parts.message().await? {
            let brings_bytes = match &part {
                Some(Part::Data(data)) => !data.is_empty(),
                Some(Part::Hole(count)) => *count > 0,
                Some(Part::Stat(_) | Part::Trailer(_)) | None => false,
            };
            if let Err(repetition) = news.note(brings_bytes) {
                return Ok(StreamEnd::Failed(Outcome::lost(
                    Kind::AgentLost,
                    repetition.to_string(),
                )));
            }
            let (received, checked) = match part {
                Some(Part::Stat(found)) => {
                    if self.length > 0 && found.version != self.version {
                        return Ok(StreamEnd::Changed);
                    }
                    if found.version.len() > MAX_FILE_IDENTITY {
                        return Ok(StreamEnd::Failed(untrue("the version of the file is too long")));
                    }
                    self.stat = Some(to_file_stat(&found));
                    self.version = found.version;
                    continue;
                }
                Some(Part::Data(data)) => {
                    let checked = check_length(self.length, data.len() as u64, self.announced());
                    (ReceivedPart::Data(data), checked)
                }
                Some(Part::Hole(count)) => {
                    let checked = check_hole(self.length, count, self.announced());
                    (ReceivedPart::Hole(count), checked)
                }
                Some(Part::Trailer(trailer)) => return Ok(StreamEnd::Trailer(trailer)),
                None => continue,
            };
            let length = match checked {
                Ok(length) => length,
                Err(error) => return Ok(StreamEnd::Failed(untrue(&error.to_string()))),
            };
            // Without a version the file may be another one when the rest is asked for.
            let lane = Some(lane).filter(|_| !self.version.is_empty());
            match self.sink.accept(received, lane).await {
                Ok(Taken::Whole) => self.length = length,
                Ok(Taken::LetGo) => {
                    self.length = self.sink.sent().unwrap_or(self.length);
                    return Ok(StreamEnd::LetGo);
                }
                Err(outcome) => return Ok(StreamEnd::Failed(outcome)),
            }
        }
        Ok(StreamEnd::Failed(Outcome::Lost(Failure::new(
            Kind::AgentLost,
            "the agent ended the transfer before the end of the file; try again",
        ))))
    }

    /// Returns the size that the agent has announced; `None` for files that the kernel makes while they are read.
    fn announced(&self) -> Option<u64> {
        self.stat.map(|stat| stat.size).filter(|size| *size > 0)
    }
}

/// Makes the outcome of a content that no agent sends.
fn untrue(why: &str) -> Outcome {
    Outcome::lost(
        Kind::AgentLost,
        format!("the agent's answer was refused: {why}; the program that answers is not a released podbridge-agent"),
    )
}

/// Compares the digests and returns the outcome.
async fn finish(sink: GetSink, trailer: &GetTrailer, stat: Option<FileStat>) -> Outcome {
    let digest = match sink.finish().await {
        Ok(digest) => digest,
        Err(outcome) => return outcome,
    };
    if !digest.matches(trailer) {
        return Outcome::failed(
            FailedKind::Digest,
            format!(
                "the digest of the {} bytes that came is not the agent's digest; try again",
                digest.length()
            ),
        );
    }
    Outcome::Ok(Done {
        stat: stat.map(Some),
        ..digest.to_done()
    })
}
