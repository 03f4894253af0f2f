//! Puts one file into the container, from the client's file descriptor or from its frames, and compares its digest with
//! the agent's. After a link break the transfer continues over the next link: the agent keeps what it has written
//! (`Files.Write`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use memchr::memmem;
use podbridge_proto::limits::FILES_V2;
use podbridge_proto::v1::put_request::Part;
use podbridge_proto::v1::{Abandon, PutHeader, PutRequest, PutResponse, PutTrailer};
use podbridge_proto::words::clean;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::Status;

use crate::backoff::Backoff;
use crate::connections::recovery::{self, LostAgent, Recovery};
use crate::connections::{Connection, Container, Lane, is_broken_link, status};
use crate::error::{FailedKind, Kind};
use crate::protocol::frame::Frame;
use crate::protocol::request;
use crate::protocol::result::{Done, EndedExec, Outcome};
use crate::random;
use crate::session::background::BackgroundCalls;
use crate::session::client::{Client, ClientInput, bad_request};
use crate::session::files::capability::unsupported_by_agent;
use crate::session::files::passed_file::{self, Access, LocalFile};
use crate::session::files::put_source::{PutAnswer, PutCall, PutSource, QueuedPart};
use crate::session::files::read_ahead::ContentPart;
use crate::session::files::running_digest::{self, RunningDigest};
use crate::session::logs::LogIndex;
use crate::session::news::News;

/// Part of the path of an Ansible module that is sent as a file and not as standard input.
const MODULE_PATH_PART: &[u8] = b"/AnsiballZ_";
/// Size above which a file is no Ansible module, bytes.
const MAX_MODULE_SIZE: u64 = 4 << 20;

/// Parts handed to HTTP/2 and not yet sent.
const QUEUED_PARTS: usize = 4;
/// An agent tells what it has written in steps that may be longer than what the bridge may hold for this client. After this time without
/// a step, a new call asks for it.
const STARVED_TIME: Duration = Duration::from_millis(50);
/// Time limit to tell the agent that the transfer is abandoned.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// Puts the file over as many links as it takes.
pub(crate) async fn put(
    container: &Container,
    background_calls: &BackgroundCalls,
    logs: Option<&LogIndex>,
    request: request::Put,
    mut client: Client,
) -> Outcome {
    let progress = request.progress;
    let header = PutHeader {
        transfer_id: random::bytes::<16>().to_vec().into(),
        ..to_header(request)
    };
    let file = if client.descriptors.is_empty() {
        None
    } else {
        match passed_file::take(&mut client.descriptors, "the content", Access::Read) {
            Ok(file) => Some(file),
            Err(outcome) => return outcome,
        }
    };
    if let (Some(logs), Some(file)) = (logs, &file)
        && memmem::find(&header.path, MODULE_PATH_PART).is_some()
        && file.size() <= MAX_MODULE_SIZE
        && let Ok(content) = file.read_at(0, file.size() as usize).await
    {
        logs.note_module(&header.path, &content);
    }
    let lane = choose_lane(file.as_ref());
    let mut transfer = Transfer {
        header,
        acknowledges: file.is_none() || progress,
        source: PutSource::new(file, client.share.clone()),
        digest: None,
        started: false,
        written: 0,
        reported: 0,
    };
    let mut backoff = Backoff::new(container.linker().timeout());
    let mut lost_agent: Option<LostAgent> = None;
    loop {
        let connecting = async {
            match &lost_agent {
                None => container.connection(lane).await.map_err(Outcome::Unreachable),
                Some(lost_agent) => match recovery::recover(container, lost_agent, &mut backoff).await {
                    Recovery::Reconnected(connection) => Ok(connection),
                    Recovery::GivenUp(outcome) => Err(outcome),
                },
            }
        };
        let linked = tokio::select! {
            linked = connecting => linked,
            outcome = transfer.wait_for_cancel(&mut client) => return outcome,
        };
        let connection = match linked {
            Ok(connection) => connection,
            Err(outcome) => return outcome,
        };
        let written_before = transfer.written;
        let ended = loop {
            match transfer.run(&connection, background_calls, &mut client).await {
                Ok(RunEnd::Starved) => {}
                Ok(RunEnd::Outcome(outcome)) => break Ok(outcome),
                Err(status) => break Err(status),
            }
        };
        match ended {
            Ok(outcome) => return outcome,
            Err(status) if is_broken_link(&status, &connection) => {
                let broken = LostAgent::of_connection(&connection, &status::reason(&status));
                // An agent without `Files.Write` starts again at the first byte. A file can be read again, and the
                // agent renamed nothing, since it did not answer. Frames cannot be read again.
                if !connection.can(FILES_V2) && transfer.source.is_framed() {
                    return recovery::diagnose(container, &broken).await;
                }
                if transfer.written > written_before {
                    // The link carried data, so it was good.
                    backoff = Backoff::new(container.linker().timeout());
                }
                lost_agent = Some(broken);
            }
            Err(status) => return status::outcome(&status),
        }
    }
}

/// Chooses the lane: a file that is not larger than a module may go with the commands.
fn choose_lane(file: Option<&LocalFile>) -> Lane {
    match file {
        Some(file) if file.size() <= MAX_MODULE_SIZE => Lane::Control,
        _ => Lane::Bulk,
    }
}

/// Converts a request to the agent's header.
pub(crate) fn to_header(request: request::Put) -> PutHeader {
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

/// State of one put over all its links.
struct Transfer {
    header: PutHeader,
    source: PutSource,
    /// Digest of the kind that the agent knows; the same one over all links.
    digest: Option<Arc<Mutex<RunningDigest>>>,
    /// The agent may know of the transfer.
    started: bool,
    /// The client wants to know how much is written.
    acknowledges: bool,
    /// Length that the agent has written.
    written: u64,
    /// Length that the client was told.
    reported: u64,
}

/// How the call of one link ended.
enum RunEnd {
    Outcome(Outcome),
    /// The next call asks how much the agent has written, so that the client may send more.
    Starved,
}

type Parts = mpsc::Sender<QueuedPart>;

fn request(part: Part) -> PutRequest {
    PutRequest { part: Some(part) }
}

impl Transfer {
    /// Queues the client's input until the client ends the operation; returns the outcome.
    async fn wait_for_cancel(&mut self, client: &mut Client) -> Outcome {
        loop {
            let input = client.inputs.recv().await;
            if let Err(outcome) = self.take(input) {
                return outcome;
            }
        }
    }

    /// Takes one input; an error ends the operation.
    fn take(&mut self, input: Option<ClientInput>) -> Result<(), Outcome> {
        match input {
            Some(ClientInput::Stdin(data, credit)) => self.source.add(data, credit),
            Some(ClientInput::StdinEof(_)) => self.source.end(),
            Some(ClientInput::Signal(..) | ClientInput::Resize { .. }) => {}
            Some(ClientInput::Disconnected) | None => return Err(Outcome::Cancelled(EndedExec::default())),
            Some(ClientInput::ProtocolError(why)) => return Err(bad_request(why)),
        }
        Ok(())
    }

    /// Runs the transfer over one link. An error is the status of the call.
    async fn run(
        &mut self,
        connection: &Arc<Connection>,
        background_calls: &BackgroundCalls,
        client: &mut Client,
    ) -> Result<RunEnd, Status> {
        let resumable = connection.can(FILES_V2);
        if !resumable && (self.header.sync || self.header.root.is_some()) {
            return Ok(RunEnd::Outcome(unsupported_by_agent(connection, "`sync` and `root`")));
        }
        let kind = running_digest::choose_kind(connection);
        self.header.digest = kind.into();
        if !resumable {
            // The transfer starts at its first byte, at the first try and at every other.
            self.written = 0;
        }
        let digest = self
            .digest
            .get_or_insert_with(|| Arc::new(Mutex::new(RunningDigest::new(kind))))
            .clone();
        let (parts, outgoing) = mpsc::channel(QUEUED_PARTS);
        // The channel is empty, so this cannot fail.
        let _ = parts.try_send((request(Part::Header(self.header.clone())), None));
        let mut call = PutCall::start(connection, resumable, outgoing);
        // The agent has nothing of a new transfer, so the answer need not be waited for.
        let mut positioned = !(resumable && self.started) && self.source.seek(0, &digest, resumable);
        self.started = true;
        let mut next = None;
        let mut all_queued = false;
        let mut news = News::default();
        let stopped = loop {
            tokio::select! {
                answer = call.next() => match answer? {
                    PutAnswer::Written(length) => {
                        if let Err(repetition) = news.note(length > self.written) {
                            break Outcome::lost(Kind::AgentLost, repetition.to_string());
                        }
                        if !positioned {
                            positioned = self.source.seek(length, &digest, resumable);
                            if !positioned {
                                break data_lost();
                            }
                        }
                        self.acknowledge(length);
                    }
                    PutAnswer::Done(answer) => return Ok(RunEnd::Outcome(to_outcome(&answer, &lock(&digest)))),
                },
                part = self.source.next(&digest), if positioned && next.is_none() && !all_queued => match part {
                    Ok((ContentPart::Data(data), credit)) => next = Some((Part::Data(data), credit)),
                    Ok((ContentPart::Hole(count), credit)) => next = Some((Part::Hole(count), credit)),
                    Ok((ContentPart::End, _)) => {
                        let digest = lock(&digest);
                        let trailer = Part::Trailer(PutTrailer {
                            length: digest.length(),
                            digest: digest.value().to_vec().into(),
                        });
                        next = Some((trailer, None));
                        all_queued = true;
                    }
                    Err(outcome) => break outcome,
                },
                permit = parts.reserve(), if next.is_some() => match (permit, next.take()) {
                    (Ok(permit), Some((next, credit))) => {
                        if let (false, Part::Data(data)) = (resumable, &next) {
                            // An agent without `Files.Write` does not report its progress.
                            self.acknowledge(self.written + data.len() as u64);
                        }
                        permit.send((request(next), credit));
                    }
                    // The call has ended; its answer above says why.
                    _ => all_queued = true,
                },
                permit = client.replies.reserve(), if self.acknowledges && self.reported < self.written => match permit {
                    Ok(permit) => {
                        self.reported = self.written;
                        permit.send(Frame::StdinAck { offset: self.reported, closed: false }.into());
                    }
                    Err(_) => break Outcome::Cancelled(EndedExec::default()),
                },
                input = client.inputs.recv() => if let Err(outcome) = self.take(input) {
                    break outcome;
                },
                () = sleep(STARVED_TIME), if resumable && positioned && next.is_none() && self.source.is_starved() => {
                    return Ok(RunEnd::Starved);
                }
            }
        };
        if resumable {
            background_calls.send(abandon(call, parts));
        }
        Ok(RunEnd::Outcome(stopped))
    }

    fn acknowledge(&mut self, length: u64) {
        self.written = self.written.max(length);
        self.source.acknowledge(self.written);
    }
}

fn lock(digest: &Mutex<RunningDigest>) -> MutexGuard<'_, RunningDigest> {
    digest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the agent to drop the transfer. Otherwise the agent would keep its part of the file for a while.
async fn abandon(mut call: PutCall, parts: Parts) {
    let tell_agent = async {
        let sending = parts.send((request(Part::Abandon(Abandon {})), None));
        let mut sending = std::pin::pin!(sending.fuse());
        let mut news = News::default();
        loop {
            tokio::select! {
                _ = &mut sending => {}
                // Nobody wants to know any more how much is written.
                answer = call.next() => match answer {
                    Ok(PutAnswer::Written(_)) if news.note(false).is_ok() => {}
                    _ => return,
                },
            }
        }
    };
    let _ = tokio::time::timeout(ABANDON_TIMEOUT, tell_agent).await;
}

/// Makes the outcome of a transfer whose data neither side has any more.
fn data_lost() -> Outcome {
    Outcome::lost(
        Kind::LinkLost,
        "the link broke, and the agent no longer has the first part of the file; try again",
    )
}

/// Compares lengths and digests and returns the outcome.
fn to_outcome(answer: &PutResponse, digest: &RunningDigest) -> Outcome {
    if answer.length != digest.length() || answer.digest[..] != digest.value()[..] {
        return Outcome::failed(
            FailedKind::Digest,
            format!(
                "the agent wrote {} bytes, but {} bytes with another digest were sent; try again",
                answer.length,
                digest.length()
            ),
        );
    }
    Outcome::Ok(Done {
        in_place: Some(clean(&answer.in_place)).filter(|reason| !reason.is_empty()),
        ..digest.to_done()
    })
}
