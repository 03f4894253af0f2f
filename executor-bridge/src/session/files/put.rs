//! One file into the pod: from a descriptor or from the client's frames, its digest computed here and compared there. Goes on
//! over the next link where the last one broke; the agent keeps what it has (`Files.Write`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use memchr::memmem;
use podbridge_proto::limits::FILES_V2;
use podbridge_proto::v1::put_request::Part;
use podbridge_proto::v1::{Abandon, PutHeader, PutRequest, PutResponse, PutTrailer};
use tokio::sync::mpsc;
use tonic::Status;

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, Lane, is_broken_link, status};
use crate::error::{FailedKind, Kind};
use crate::protocol::frame::Frame;
use crate::protocol::request;
use crate::protocol::result::{Ended, Outcome};
use crate::random;
use crate::session::background::BackgroundCalls;
use crate::session::client::{Client, Input, bad_request};
use crate::session::files::capability::lacks;
use crate::session::files::passed_file::{self, Access, LocalFile};
use crate::session::files::put_source::{Answer, Call, Content};
use crate::session::files::read_ahead::Piece;
use crate::session::files::running_digest::{self, Sums};
use crate::session::logs::Logs;

/// How Ansible names the file of a module that it does not send as standard input.
const MODULE: &[u8] = b"/AnsiballZ_";
/// Those are smaller, bytes.
const MODULE_MAX: u64 = 4 << 20;

/// Chunks handed to HTTP/2 and not yet taken by it.
const IN_FLIGHT: usize = 4;
/// To tell the agent that nobody will go on.
const FAREWELL: Duration = Duration::from_secs(5);

pub(crate) async fn put(
    container: &Container,
    background_calls: &BackgroundCalls,
    logs: Option<&Logs>,
    request: request::Put,
    mut client: Client,
) -> Outcome {
    let progress = request.progress;
    let header = PutHeader {
        transfer_id: random::bytes::<16>().to_vec().into(),
        ..header(request)
    };
    let file = match client.descriptors.is_empty() {
        true => None,
        false => match passed_file::take(&mut client.descriptors, "the content", Access::Read) {
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
    let lane = lane(file.as_ref());
    let mut transfer = Transfer {
        header,
        acknowledges: file.is_none() || progress,
        content: Content::new(file),
        sums: None,
        begun: false,
        there: 0,
        told: 0,
    };
    let mut backoff = Backoff::new(container.linker().timeout());
    let mut lost_agent: Option<LostAgent> = None;
    loop {
        let linked = async {
            match &lost_agent {
                None => container.connection(lane).await.map_err(Outcome::Unreachable),
                Some(lost_agent) => match recovery::recover(container, lost_agent, &mut backoff).await {
                    Recovery::Reconnected(connection) => Ok(connection),
                    Recovery::GivenUp(outcome) => Err(outcome),
                },
            }
        };
        let linked = tokio::select! {
            linked = linked => linked,
            outcome = transfer.listen(&mut client) => return outcome,
        };
        let connection = match linked {
            Ok(connection) => connection,
            Err(outcome) => return outcome,
        };
        let before = transfer.there;
        match transfer.run(&connection, background_calls, &mut client).await {
            Ok(outcome) => return outcome,
            Err(status) if is_broken_link(&status, &connection) => {
                let broken = LostAgent::of_connection(&connection, &status::reason(&status));
                // A file can be read again, and nothing was renamed if the agent did not say so; frames are gone.
                if !connection.can(FILES_V2) && transfer.content.is_framed() {
                    return recovery::lost(container, &broken).await;
                }
                if transfer.there > before {
                    // A link that carried something was good.
                    backoff = Backoff::new(container.linker().timeout());
                }
                lost_agent = Some(broken);
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

pub(crate) fn header(request: request::Put) -> PutHeader {
    PutHeader {
        path: request.path.0.into(),
        mode: request.mode,
        mtime_ns: request.mtime_ns,
        user: request.user.unwrap_or_default(),
        sync: request.sync,
        root: request.root.map(|root| root.0.into()),
        ..PutHeader::default()
    }
}

struct Transfer {
    header: PutHeader,
    content: Content,
    /// Of what the agent can; the same one over all links.
    sums: Option<Arc<Mutex<Sums>>>,
    /// The agent may know of it.
    begun: bool,
    /// The client wants to know what is there.
    acknowledges: bool,
    /// What the agent has written, and what of it the client was told.
    there: u64,
    told: u64,
}

type Parts = mpsc::Sender<PutRequest>;

fn part(part: Part) -> PutRequest {
    PutRequest { part: Some(part) }
}

impl Transfer {
    /// Keeps what the client sends until it gives up.
    async fn listen(&mut self, client: &mut Client) -> Outcome {
        loop {
            let input = client.inputs.recv().await;
            if let Err(outcome) = self.take(input) {
                return outcome;
            }
        }
    }

    fn take(&mut self, input: Option<Input>) -> Result<(), Outcome> {
        match input {
            Some(Input::Stdin(data, charge)) => self.content.add(data, charge),
            Some(Input::StdinEof(_)) => self.content.end(),
            Some(Input::Signal(..) | Input::Resize { .. }) => {}
            Some(Input::Gone) | None => return Err(Outcome::Cancelled(Ended::default())),
            Some(Input::Bad(why)) => return Err(bad_request(why)),
        }
        Ok(())
    }

    /// Over one link, to the end or until it breaks.
    async fn run(
        &mut self,
        connection: &Arc<Connection>,
        background_calls: &BackgroundCalls,
        client: &mut Client,
    ) -> Result<Outcome, Status> {
        let resumable = connection.can(FILES_V2);
        if !resumable && (self.header.sync || self.header.root.is_some()) {
            return Ok(lacks(connection, "`sync` and `root`"));
        }
        let digest = running_digest::digest(connection);
        self.header.digest = digest.into();
        if !resumable {
            // Begins again, or for the first time.
            self.there = 0;
        }
        let sums = self
            .sums
            .get_or_insert_with(|| Arc::new(Mutex::new(Sums::new(digest))))
            .clone();
        let (parts, outgoing) = mpsc::channel(IN_FLIGHT);
        // The channel has room for it.
        let _ = parts.try_send(part(Part::Header(self.header.clone())));
        let mut call = Call::begin(connection, resumable, outgoing);
        // Of a transfer that is new the agent has nothing: that needs no answer.
        let mut placed = !(resumable && self.begun) && self.content.seek(0, &sums, resumable);
        self.begun = true;
        let mut next = None;
        let mut fed = false;
        let stopped = loop {
            tokio::select! {
                answer = call.next() => match answer? {
                    Answer::There(length) => {
                        if !placed {
                            placed = self.content.seek(length, &sums, resumable);
                            if !placed {
                                break forgotten();
                            }
                        }
                        self.acknowledge(length);
                    }
                    Answer::Done(answer) => return Ok(judge(&answer, &lock(&sums))),
                },
                piece = self.content.next(&sums), if placed && next.is_none() && !fed => match piece {
                    Ok(Piece::Data(data)) => next = Some(Part::Data(data)),
                    Ok(Piece::Hole(count)) => next = Some(Part::Hole(count)),
                    Ok(Piece::End) => {
                        let sums = lock(&sums);
                        next = Some(Part::Trailer(PutTrailer {
                            length: sums.length(),
                            digest: sums.sum().to_vec().into(),
                        }));
                        fed = true;
                    }
                    Err(outcome) => break outcome,
                },
                room = parts.reserve(), if next.is_some() => match (room, next.take()) {
                    (Ok(room), Some(next)) => {
                        if let (false, Part::Data(data)) = (resumable, &next) {
                            // Such an agent does not say what it has.
                            self.acknowledge(self.there + data.len() as u64);
                        }
                        room.send(part(next));
                    }
                    // The call has ended, and says how above.
                    _ => fed = true,
                },
                room = client.replies.reserve(), if self.acknowledges && self.told < self.there => match room {
                    Ok(room) => {
                        self.told = self.there;
                        room.send(Frame::StdinAck { offset: self.told, closed: false });
                    }
                    Err(_) => break Outcome::Cancelled(Ended::default()),
                },
                input = client.inputs.recv() => if let Err(outcome) = self.take(input) {
                    break outcome;
                },
            }
        };
        if resumable {
            background_calls.send(abandon(call, parts));
        }
        Ok(stopped)
    }

    fn acknowledge(&mut self, length: u64) {
        self.there = self.there.max(length);
        self.content.acknowledge(self.there);
    }
}

fn lock(sums: &Mutex<Sums>) -> MutexGuard<'_, Sums> {
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without it the agent would keep what it has for a while.
async fn abandon(mut call: Call, parts: Parts) {
    let told = async {
        let farewell = parts.send(part(Part::Abandon(Abandon {})));
        let mut farewell = std::pin::pin!(farewell.fuse());
        loop {
            tokio::select! {
                _ = &mut farewell => {}
                answer = call.next() => if !matches!(answer, Ok(Answer::There(_))) {
                    return;
                },
            }
        }
    };
    let _ = tokio::time::timeout(FAREWELL, told).await;
}

fn forgotten() -> Outcome {
    Outcome::lost(
        Kind::LinkLost,
        "the link broke, and the agent no longer has what had come before; try again",
    )
}

fn judge(answer: &PutResponse, sums: &Sums) -> Outcome {
    if answer.length != sums.length() || answer.digest[..] != sums.sum()[..] {
        return Outcome::failed(
            FailedKind::Digest,
            format!(
                "the agent wrote {} bytes with another digest than the {} that were sent; try again",
                answer.length,
                sums.length()
            ),
        );
    }
    Outcome::Ok(sums.done())
}
