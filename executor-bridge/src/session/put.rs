//! One file into the pod: from a descriptor or from the client's frames, its digest computed here and compared there.

use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;
use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::put_request::Part;
use podbridge_proto::v1::{PutHeader, PutRequest, PutResponse, PutTrailer};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::connection::Lane;
use super::container::Container;
use super::descriptor::{self, Access, LocalFile};
use super::diagnosis::{self, Home, Patience, Recovery};
use super::{Client, Connection, Input, Logs, bad_request, gone, status};
use crate::error::FailedKind;
use crate::protocol::frame::Frame;
use crate::protocol::request;
use crate::protocol::result::{Done, Ended, Outcome};
use crate::protocol::target::hex;

/// How Ansible names the file of a module that it does not send as standard input.
const MODULE: &[u8] = b"/AnsiballZ_";
/// Those are smaller, bytes.
const MODULE_MAX: u64 = 4 << 20;

/// Chunks handed to HTTP/2 and not yet taken by it.
const IN_FLIGHT: usize = 4;

pub(super) async fn put(
    container: &Container,
    logs: Option<&Logs>,
    request: request::Put,
    mut client: Client,
) -> Outcome {
    let header = header(request);
    let file = match client.descriptors.is_empty() {
        true => None,
        false => match descriptor::take(&mut client.descriptors, "the content", Access::Read) {
            Ok(file) => Some(file),
            Err(outcome) => return outcome,
        },
    };
    if let (Some(logs), Some(file)) = (logs, &file)
        && memmem::find(&header.path, MODULE).is_some()
        && file.size() <= MODULE_MAX
        && let Ok(content) = file.read_at(0, file.size() as usize).await
    {
        logs.put(&header.path, &content);
    }
    let mut patience = Patience::new(container.linker().timeout());
    let mut home: Option<Home> = None;
    loop {
        let linked = async {
            match &home {
                None => container
                    .connection(lane(file.as_ref()))
                    .await
                    .map_err(Outcome::Unreachable),
                Some(home) => match diagnosis::recover(container, home, &mut patience).await {
                    Recovery::Again(connection) => Ok(connection),
                    Recovery::Over(outcome) => Err(outcome),
                },
            }
        };
        let linked = match &file {
            Some(_) => tokio::select! {
                linked = linked => linked,
                outcome = gone(&mut client.inputs) => return outcome,
            },
            // Frames must wait in their queue until there is a link.
            None => linked.await,
        };
        let connection = match linked {
            Ok(connection) => connection,
            Err(outcome) => return outcome,
        };
        let mut transfer = Transfer {
            connection: connection.clone(),
            digest: Sha256::new(),
            length: 0,
        };
        match transfer.run(header.clone(), file.as_ref(), &mut client).await {
            Ok(outcome) => return outcome,
            Err(status) if diagnosis::is_broken_link(&status, &connection) => {
                let broken = Home::behind(&connection, &status::reason(&status));
                // A file can be read again, and nothing was renamed if the agent did not say so; frames are gone.
                if file.is_none() {
                    return diagnosis::lost(container, &broken).await;
                }
                home = Some(broken);
            }
            Err(status) => return status::outcome(&status),
        }
    }
}

/// What is no longer than a module travels with the commands.
fn lane(file: Option<&LocalFile>) -> Lane {
    match file {
        Some(file) if file.size() <= MODULE_MAX => Lane::Control,
        _ => Lane::Bulk,
    }
}

pub(super) fn header(request: request::Put) -> PutHeader {
    PutHeader {
        path: request.path.0.into(),
        mode: request.mode,
        mtime_ns: request.mtime_ns,
        user: request.user.unwrap_or_default(),
        ..PutHeader::default()
    }
}

struct Transfer {
    connection: Arc<Connection>,
    digest: Sha256,
    length: u64,
}

type Parts = mpsc::Sender<PutRequest>;

impl Transfer {
    async fn run(
        &mut self,
        header: PutHeader,
        file: Option<&LocalFile>,
        client: &mut Client,
    ) -> Result<Outcome, Status> {
        let (parts, outgoing) = mpsc::channel(IN_FLIGHT);
        let mut files = self.connection.files();
        let call = files.put(ReceiverStream::new(outgoing));
        let part = |part| PutRequest { part: Some(part) };
        // The channel has room for it.
        let _ = parts.send(part(Part::Header(header))).await;
        tokio::pin!(call);
        // The call moves only while it is polled: every part, the trailer too, is sent beside it.
        let feeding = async {
            match file {
                Some(file) => tokio::select! {
                    fed = self.feed_file(file, &parts) => fed,
                    outcome = gone(&mut client.inputs) => Err(outcome),
                },
                None => self.feed_frames(client, &parts).await,
            }?;
            let trailer = PutTrailer {
                length: self.length,
                digest: self.digest.clone().finalize().to_vec().into(),
            };
            // A call that has ended says why below.
            let _ = parts.send(part(Part::Trailer(trailer))).await;
            drop(parts);
            Ok(())
        };
        tokio::select! {
            // An answer before the end is a refusal.
            answer = &mut call => return Ok(self.judge(answer?.into_inner())),
            // Without a trailer nothing is renamed.
            fed = feeding => if let Err(outcome) = fed { return Ok(outcome) },
        }
        tokio::select! {
            answer = &mut call => Ok(self.judge(answer?.into_inner())),
            outcome = gone(&mut client.inputs) => Ok(outcome),
        }
    }

    async fn feed_file(&mut self, file: &LocalFile, parts: &Parts) -> Result<(), Outcome> {
        loop {
            let data = file.read_at(self.length, MAX_CHUNK).await?;
            if data.is_empty() {
                return Ok(());
            }
            self.send(data, parts).await;
        }
    }

    async fn feed_frames(&mut self, client: &mut Client, parts: &Parts) -> Result<(), Outcome> {
        loop {
            match client.inputs.recv().await {
                Some(Input::Stdin(mut data, _charge)) => {
                    while !data.is_empty() {
                        let chunk = data.split_to(data.len().min(MAX_CHUNK));
                        self.send(chunk, parts).await;
                    }
                    let ack = Frame::StdinAck {
                        offset: self.length,
                        closed: false,
                    };
                    if client.replies.send(ack).await.is_err() {
                        return Err(Outcome::Cancelled(Ended::default()));
                    }
                }
                Some(Input::StdinEof(_)) => return Ok(()),
                Some(Input::Signal(..) | Input::Resize { .. }) => {}
                Some(Input::Gone) | None => return Err(Outcome::Cancelled(Ended::default())),
                Some(Input::Bad(why)) => return Err(bad_request(why)),
            }
        }
    }

    async fn send(&mut self, data: Bytes, parts: &Parts) {
        self.digest.update(&data);
        self.length += data.len() as u64;
        let data = PutRequest {
            part: Some(Part::Data(data)),
        };
        if parts.send(data).await.is_err() {
            // The call has ended; its answer ends the operation.
            std::future::pending::<()>().await;
        }
    }

    fn judge(&self, answer: PutResponse) -> Outcome {
        let sha256 = self.digest.clone().finalize();
        if answer.length != self.length || answer.digest[..] != sha256[..] {
            return Outcome::failed(
                FailedKind::Digest,
                format!(
                    "the agent wrote {} bytes with another digest than the {} that were sent; try again",
                    answer.length, self.length
                ),
            );
        }
        Outcome::Ok(Done {
            length: Some(self.length),
            sha256: Some(hex(&sha256)),
            ..Done::default()
        })
    }
}
