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
use crate::session::client::{Client, ClientInput, bad_request};
use crate::session::files::capability::unsupported_by_agent;
use crate::session::files::passed_file::{self, Access, LocalFile};
use crate::session::files::put_source::{PutAnswer, PutCall, PutSource};
use crate::session::files::read_ahead::ContentPart;
use crate::session::files::running_digest::{self, RunningDigest};
use crate::session::logs::LogIndex;

/// How Ansible names the file of a module that it does not send as standard input.
const MODULE_NAME: &[u8] = b"/AnsiballZ_";
/// Those are smaller, bytes.
const MAX_MODULE: u64 = 4 << 20;

/// Chunks handed to HTTP/2 and not yet taken by it.
const QUEUED_PARTS: usize = 4;
/// To tell the agent that nobody will go on.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

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
        && memmem::find(&header.path, MODULE_NAME).is_some()
        && file.size() <= MAX_MODULE
        && let Ok(content) = file.read_at(0, file.size() as usize).await
    {
        logs.note_module(&header.path, &content);
    }
    let lane = choose_lane(file.as_ref());
    let mut transfer = Transfer {
        header,
        acknowledges: file.is_none() || progress,
        source: PutSource::new(file),
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
        match transfer.run(&connection, background_calls, &mut client).await {
            Ok(outcome) => return outcome,
            Err(status) if is_broken_link(&status, &connection) => {
                let broken = LostAgent::of_connection(&connection, &status::reason(&status));
                // A file can be read again, and nothing was renamed if the agent did not say so; frames are gone.
                if !connection.can(FILES_V2) && transfer.source.is_framed() {
                    return recovery::diagnose(container, &broken).await;
                }
                if transfer.written > written_before {
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
fn choose_lane(file: Option<&LocalFile>) -> Lane {
    match file {
        Some(file) if file.size() <= MAX_MODULE => Lane::Control,
        _ => Lane::Bulk,
    }
}

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

struct Transfer {
    header: PutHeader,
    source: PutSource,
    /// Of what the agent can; the same one over all links.
    digest: Option<Arc<Mutex<RunningDigest>>>,
    /// The agent may know of it.
    started: bool,
    /// The client wants to know what is there.
    acknowledges: bool,
    /// What the agent has written, and what of it the client was told.
    written: u64,
    reported: u64,
}

type Parts = mpsc::Sender<PutRequest>;

fn request(part: Part) -> PutRequest {
    PutRequest { part: Some(part) }
}

impl Transfer {
    /// Keeps what the client sends until it gives up.
    async fn wait_for_cancel(&mut self, client: &mut Client) -> Outcome {
        loop {
            let input = client.inputs.recv().await;
            if let Err(outcome) = self.take(input) {
                return outcome;
            }
        }
    }

    fn take(&mut self, input: Option<ClientInput>) -> Result<(), Outcome> {
        match input {
            Some(ClientInput::Stdin(data, credit)) => self.source.add(data, credit),
            Some(ClientInput::StdinEof(_)) => self.source.end(),
            Some(ClientInput::Signal(..) | ClientInput::Resize { .. }) => {}
            Some(ClientInput::Disconnected) | None => return Err(Outcome::Cancelled(Ended::default())),
            Some(ClientInput::ProtocolError(why)) => return Err(bad_request(why)),
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
            return Ok(unsupported_by_agent(connection, "`sync` and `root`"));
        }
        let kind = running_digest::choose_kind(connection);
        self.header.digest = kind.into();
        if !resumable {
            // Begins again, or for the first time.
            self.written = 0;
        }
        let digest = self
            .digest
            .get_or_insert_with(|| Arc::new(Mutex::new(RunningDigest::new(kind))))
            .clone();
        let (parts, outgoing) = mpsc::channel(QUEUED_PARTS);
        // The channel has room for it.
        let _ = parts.try_send(request(Part::Header(self.header.clone())));
        let mut call = PutCall::start(connection, resumable, outgoing);
        // Of a transfer that is new the agent has nothing: that needs no answer.
        let mut positioned = !(resumable && self.started) && self.source.seek(0, &digest, resumable);
        self.started = true;
        let mut next = None;
        let mut all_queued = false;
        let stopped = loop {
            tokio::select! {
                answer = call.next() => match answer? {
                    PutAnswer::Written(length) => {
                        if !positioned {
                            positioned = self.source.seek(length, &digest, resumable);
                            if !positioned {
                                break data_lost();
                            }
                        }
                        self.acknowledge(length);
                    }
                    PutAnswer::Done(answer) => return Ok(to_outcome(&answer, &lock(&digest))),
                },
                part = self.source.next(&digest), if positioned && next.is_none() && !all_queued => match part {
                    Ok(ContentPart::Data(data)) => next = Some(Part::Data(data)),
                    Ok(ContentPart::Hole(count)) => next = Some(Part::Hole(count)),
                    Ok(ContentPart::End) => {
                        let digest = lock(&digest);
                        next = Some(Part::Trailer(PutTrailer {
                            length: digest.length(),
                            digest: digest.sum().to_vec().into(),
                        }));
                        all_queued = true;
                    }
                    Err(outcome) => break outcome,
                },
                permit = parts.reserve(), if next.is_some() => match (permit, next.take()) {
                    (Ok(permit), Some(next)) => {
                        if let (false, Part::Data(data)) = (resumable, &next) {
                            // Such an agent does not say what it has.
                            self.acknowledge(self.written + data.len() as u64);
                        }
                        permit.send(request(next));
                    }
                    // The call has ended, and says how above.
                    _ => all_queued = true,
                },
                permit = client.replies.reserve(), if self.acknowledges && self.reported < self.written => match permit {
                    Ok(permit) => {
                        self.reported = self.written;
                        permit.send(Frame::StdinAck { offset: self.reported, closed: false });
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
        self.written = self.written.max(length);
        self.source.acknowledge(self.written);
    }
}

fn lock(digest: &Mutex<RunningDigest>) -> MutexGuard<'_, RunningDigest> {
    digest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without it the agent would keep what it has for a while.
async fn abandon(mut call: PutCall, parts: Parts) {
    let tell_agent = async {
        let sending = parts.send(request(Part::Abandon(Abandon {})));
        let mut sending = std::pin::pin!(sending.fuse());
        loop {
            tokio::select! {
                _ = &mut sending => {}
                answer = call.next() => if !matches!(answer, Ok(PutAnswer::Written(_))) {
                    return;
                },
            }
        }
    };
    let _ = tokio::time::timeout(ABANDON_TIMEOUT, tell_agent).await;
}

fn data_lost() -> Outcome {
    Outcome::lost(
        Kind::LinkLost,
        "the link broke, and the agent no longer has what had come before; try again",
    )
}

fn to_outcome(answer: &PutResponse, digest: &RunningDigest) -> Outcome {
    if answer.length != digest.length() || answer.digest[..] != digest.sum()[..] {
        return Outcome::failed(
            FailedKind::Digest,
            format!(
                "the agent wrote {} bytes with another digest than the {} that were sent; try again",
                answer.length,
                digest.length()
            ),
        );
    }
    Outcome::Ok(digest.to_done())
}
