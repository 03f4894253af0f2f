//! One connection of the console stream, from its first request until its client closes it. The client never connects
//! again, so the connection stays open whatever happens to the links to the pod. `server` runs one task per connection.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use podbridge_proto::words;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{sleep, timeout};

use crate::connections::{Lane, Reachability};
use crate::console::last_line::LastLine;
use crate::console::log_stream::LogStream;
use crate::console::not_found_timer::NotFoundTimer;
use crate::console::request::{self, ParseResult, Request};
use crate::console::siblings::Siblings;
use crate::console::strangers::Strangers;
use crate::session::{Interest, LogEvent, LogId, LogIndex, LogSource, READER_STALL, Session};

/// Time limit for one request to arrive (zuul_console's REQUEST_TIMEOUT).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for which a client that has closed only its sending side still gets output (zuul_console looks for the client's
/// end as seldom).
const HALF_CLOSED_WAIT: Duration = Duration::from_millis(500);

/// Least time between two logs that are deleted. Anybody on this host can ask for it, and each costs a call of every container's agent.
const DELETE_PAUSE: Duration = Duration::from_millis(5);

/// Answer to a version request: protocol version 1.
const VERSION: &[u8] = b"1\n";
/// Line that the client gets while its log does not exist.
const NOT_FOUND: &[u8] = b"[Zuul] Log not found\n";

/// Answers requests until the client closes the connection.
pub(super) async fn serve(
    mut stream: TcpStream,
    session: &Session,
    siblings: &Siblings,
    strangers: &Arc<Strangers>,
) -> io::Result<()> {
    let mut received = BytesMut::new();
    let stranger = strangers.enter(session, None);
    loop {
        let next = tokio::select! {
            next = timeout(REQUEST_TIMEOUT, next_request(&mut stream, &mut received)) => next,
            () = stranger.wait_for_end() => return Ok(()),
        };
        match next.ok().transpose()?.flatten() {
            Some(Request::Version) => stream.write_all(VERSION).await?,
            Some(Request::Finish(id)) => finish(session, siblings, &id).await,
            Some(Request::Stream(id)) => {
                drop(stranger);
                let (reading, writing) = stream.split();
                return tokio::select! {
                    sent = stream_log(writing, session, siblings, strangers, &id) => sent,
                    () = wait_for_close(reading) => Ok(()),
                };
            }
            // The client is gone or silent, or it is not one of Zuul's.
            None => return Ok(()),
        }
    }
}

/// Reads the next request; `None` if there is no valid one.
async fn next_request(stream: &mut TcpStream, received: &mut BytesMut) -> io::Result<Option<Request>> {
    loop {
        match request::parse(received) {
            ParseResult::Request(request, length) => {
                let _ = received.split_to(length);
                return Ok(Some(request));
            }
            ParseResult::Bad => return Ok(None),
            ParseResult::Incomplete => {}
        }
        received.reserve(request::MAX_LENGTH);
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}

/// Waits until the client closes the connection. Ignores further requests.
async fn wait_for_close(mut reading: ReadHalf<'_>) {
    let mut buffer = [0; 256];
    loop {
        match reading.read(&mut buffer).await {
            Ok(0) => return sleep(HALF_CLOSED_WAIT).await,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Writes to the client. If the client stalls, closes the log's stream until the next event is wanted.
async fn write(writing: &mut WriteHalf<'_>, stream: &mut LogStream, bytes: &[u8], session: &Session) -> io::Result<()> {
    let mut writing = pin!(writing.write_all(bytes));
    tokio::select! {
        biased;
        written = &mut writing => return written,
        () = sleep(READER_STALL) => {}
        () = session.budget().stall_timeout(Lane::Control) => {}
    }
    stream.pause();
    writing.await
}

/// Deletes a log of which a reader, a command or the pod has told; other ids are guesses of a stranger. One log at a time.
async fn finish(session: &Session, siblings: &Siblings, id: &LogId) {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    if !session.logs().is_some_and(|logs| logs.may_exist(id)) {
        session
            .refusals()
            .note("a console connection wanted to delete a log that is not known");
        return;
    }
    {
        let _turn = TURN.lock().await;
        sleep(DELETE_PAUSE).await;
    }
    delete_log(session, siblings, id).await;
}

/// Deletes the log in this pod, and in the other pod that has it.
async fn delete_log(session: &Session, siblings: &Siblings, id: &LogId) {
    let elsewhere = async {
        let source = session.logs().and_then(|logs| logs.source(id));
        if let Some(LogSource::Sibling(socket)) = source {
            siblings.delete(&socket, id).await;
        }
    };
    // Both run at once, so that neither waits for the other's link.
    tokio::join!(session.remove_log(id), elsewhere);
}

/// Sends one log, from whichever source has it.
async fn stream_log(
    mut writing: WriteHalf<'_>,
    session: &Session,
    siblings: &Siblings,
    strangers: &Arc<Strangers>,
    id: &LogId,
) -> io::Result<()> {
    let Some(logs) = session.logs() else {
        return Ok(());
    };
    logs.note_read(id);
    let interest = logs.interest(id);
    let mut search = LogSearch {
        session,
        siblings,
        strangers,
        logs,
        id,
        interest,
    };
    loop {
        let stranger = strangers.enter(session, Some(id));
        let found = tokio::select! {
            found = search.wait_for_log(&mut writing) => found?,
            () = stranger.wait_for_end() => return Ok(()),
        };
        drop(stranger);
        let (source, stream) = match found {
            SearchResult::At(source, stream) => (source, stream),
            SearchResult::WillNotAppear => return Ok(()),
            SearchResult::Lost(why) => return say_lost(&mut writing, &why, true).await,
        };
        if let Some(why) = search.stream_content(stream, &mut writing).await? {
            return match why {
                StreamEnd::Lost { why, at_start } => say_lost(&mut writing, &why, at_start).await,
                StreamEnd::Deleted => Ok(()),
            };
        }
        logs.forget(&source, id);
    }
}

/// Writes the reason as a line in Zuul's format, so that it appears in the job's log.
async fn say_lost(writing: &mut WriteHalf<'_>, why: &str, at_start: bool) -> io::Result<()> {
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S.%6f");
    let newline = if at_start { "" } else { "\n" };
    let line = format!("{newline}{now} | [Zuul] {}\n", words::clean(why));
    writing.write_all(line.as_bytes()).await
}

/// Result of the wait for a log.
enum SearchResult {
    /// The log exists at this source.
    At(LogSource, LogStream),
    /// The task of the log has ended without a log.
    WillNotAppear,
    Lost(String),
}

/// Why a log is over.
enum StreamEnd {
    Lost {
        why: String,
        /// The last line is complete.
        at_start: bool,
    },
    /// The task of the log has ended, and the log was deleted.
    Deleted,
}

/// One log that a client wants.
struct LogSearch<'a> {
    session: &'a Session,
    siblings: &'a Siblings,
    strangers: &'a Strangers,
    logs: &'a LogIndex,
    id: &'a LogId,
    interest: Interest,
}

impl LogSearch<'_> {
    /// Waits until the log exists. Tells the client regularly that it does not exist yet.
    async fn wait_for_log(&mut self, writing: &mut WriteHalf<'_>) -> io::Result<SearchResult> {
        let session = self.session;
        let (mut timer, mut ended, mut reachability) =
            (NotFoundTimer::new(), self.logs.exec_ends(), session.reachability(None));
        loop {
            let changed = self.interest.changed();
            if let Some(source) = self.logs.source(self.id) {
                let stream = LogStream::open(&source, self.id, session);
                return Ok(SearchResult::At(source, stream));
            }
            match self.exists_after_task().await {
                Some((_, false)) => return Ok(SearchResult::WillNotAppear),
                Some((source, true)) => {
                    let stream = LogStream::open(&source, self.id, session);
                    return Ok(SearchResult::At(source, stream));
                }
                None => {}
            }
            if let Some(source) = self.exists_unlisted().await {
                let stream = LogStream::open(&source, self.id, session);
                return Ok(SearchResult::At(source, stream));
            }
            if let Reachability::Lost(why) = &*reachability.borrow_and_update() {
                return Ok(SearchResult::Lost(why.clone()));
            }
            tokio::select! {
                () = changed => continue,
                Ok(()) = reachability.changed() => continue,
                () = timer.wait_until_due() => {}
                Ok(()) = ended.changed(), if self.strangers.are_told_of_ends() => {}
            }
            self.siblings.scan();
            writing.write_all(NOT_FOUND).await?;
            timer.restart(self.strangers.least_interval());
        }
    }

    /// Asks the agent whether the log exists, once the task that writes it has ended. `None`: the task has not ended,
    /// or the agent does not answer. The index is not enough: logs and the ends of execs are reported on two streams,
    /// in no common order.
    async fn exists_after_task(&self) -> Option<(LogSource, bool)> {
        let writer = self.logs.writer(self.id).filter(|writer| writer.ended)?;
        let LogSource::Container(container) = &writer.source else {
            return None;
        };
        let exists = self.session.log_exists(container.as_deref(), self.id).await?;
        Some((writer.source, exists))
    }

    /// Asks the agents of the containers whose logs are too many to be known by name. `None` also if another connection asks now: this one
    /// asks after its next line. A log that a command writes is asked for at once.
    async fn exists_unlisted(&self) -> Option<LogSource> {
        let is_written = self.logs.writer(self.id).is_some();
        let turn = self.strangers.try_take_turn();
        if turn.is_err() && !is_written {
            return None;
        }
        for container in self.logs.incomplete_containers() {
            if self.session.log_exists(container.as_deref(), self.id).await == Some(true) {
                return Some(LogSource::Container(container));
            }
        }
        None
    }

    /// Sends the log while it grows. `None`: the log no longer exists at this source, and may exist at another.
    async fn stream_content(
        &self,
        mut stream: LogStream,
        writing: &mut WriteHalf<'_>,
    ) -> io::Result<Option<StreamEnd>> {
        let mut line = LastLine::default();
        let mut ended = self.logs.exec_ends();
        // Set while the file does not exist.
        let mut absent: Option<NotFoundTimer> = None;
        loop {
            let due = async {
                match &absent {
                    Some(timer) => timer.wait_until_due().await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                event = stream.next() => event,
                () = sleep(line.hold_timeout()), if line.is_holding() => {
                    write(writing, &mut stream, &line.flush(), self.session).await?;
                    continue;
                }
                () = due => None,
                Ok(()) = ended.changed(), if absent.is_some() => None,
            };
            match (event, &mut absent) {
                (Some(LogEvent::Begins(_)), _) => {
                    write(writing, &mut stream, &line.flush(), self.session).await?;
                    (line, absent) = (LastLine::default(), None);
                }
                (Some(LogEvent::Data(mut data)), _) => {
                    absent = None;
                    // Held until the client has it.
                    let (piece, _credit) = self.session.budget().reply(&mut data);
                    if !data.is_empty() {
                        stream.give_back(data.len());
                    }
                    write(writing, &mut stream, &line.push(piece), self.session).await?;
                }
                (Some(LogEvent::Absent), _) => {
                    write(writing, &mut stream, &line.flush(), self.session).await?;
                    absent = Some(NotFoundTimer::new());
                }
                (Some(LogEvent::Lost(why)), _) => {
                    write(writing, &mut stream, &line.flush(), self.session).await?;
                    let at_start = line.at_start();
                    return Ok(Some(StreamEnd::Lost { why, at_start }));
                }
                (None, Some(timer)) => {
                    if let Some((_, false)) = self.exists_after_task().await {
                        return Ok(Some(StreamEnd::Deleted));
                    }
                    writing.write_all(NOT_FOUND).await?;
                    timer.restart(Duration::ZERO);
                }
                (None, None) => {
                    write(writing, &mut stream, &line.flush(), self.session).await?;
                    return Ok(None);
                }
            }
        }
    }
}
