//! One connection of the console stream, from its first request until its client closes it: that client never comes back, so
//! it is kept whatever becomes of the links to the pod.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{sleep, timeout};

use crate::connections::Reachability;
use crate::console::last_line::LastLine;
use crate::console::log_stream::Stream;
use crate::console::not_found_timer::Rhythm;
use crate::console::request::{self, Parsed, Request};
use crate::console::siblings::Siblings;
use crate::session::{Interest, LogEvent, LogId, Logs, STALL, Session, Source};

/// For one request to arrive (zuul_console's REQUEST_TIMEOUT).
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// A client that has only stopped to speak gets what there is (zuul_console looks for its end as seldom).
const HALF_CLOSED: Duration = Duration::from_millis(500);

const VERSION: &[u8] = b"1\n";
const NOT_FOUND: &[u8] = b"[Zuul] Log not found\n";

pub(super) async fn hold(mut stream: TcpStream, session: &Session, siblings: &Siblings) -> io::Result<()> {
    let mut received = BytesMut::new();
    loop {
        let next = timeout(REQUEST_PATIENCE, next_request(&mut stream, &mut received)).await;
        match next.ok().transpose()?.flatten() {
            Some(Request::Version) => stream.write_all(VERSION).await?,
            Some(Request::Finish(id)) => finish(session, siblings, &id).await,
            Some(Request::Stream(id)) => {
                let (reading, writing) = stream.split();
                return tokio::select! {
                    sent = send(writing, session, siblings, &id) => sent,
                    () = closed(reading) => Ok(()),
                };
            }
            // Gone, silent, or not one of Zuul's.
            None => return Ok(()),
        }
    }
}

async fn next_request(stream: &mut TcpStream, received: &mut BytesMut) -> io::Result<Option<Request>> {
    loop {
        match request::parse(received) {
            Parsed::Request(request, length) => {
                let _ = received.split_to(length);
                return Ok(Some(request));
            }
            Parsed::Bad => return Ok(None),
            Parsed::Incomplete => {}
        }
        received.reserve(request::MAX_LENGTH);
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}

/// Waits until the client closes. What else it says is not listened to.
async fn closed(mut reading: ReadHalf<'_>) {
    let mut buffer = [0; 256];
    loop {
        match reading.read(&mut buffer).await {
            Ok(0) => return sleep(HALF_CLOSED).await,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Writes, and lets the log's source rest while the client does not read.
async fn write(writing: &mut WriteHalf<'_>, stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    let mut writing = pin!(writing.write_all(bytes));
    match timeout(STALL, &mut writing).await {
        Ok(written) => written,
        Err(_) => {
            stream.pause();
            writing.await
        }
    }
}

async fn finish(session: &Session, siblings: &Siblings, id: &LogId) {
    let elsewhere = async {
        let source = session.logs().and_then(|logs| logs.source(id));
        if let Some(Source::Sibling(socket)) = source {
            siblings.delete(&socket, id).await;
        }
    };
    // Neither waits for the other's link.
    tokio::join!(session.remove_log(id), elsewhere);
}

async fn send(mut writing: WriteHalf<'_>, session: &Session, siblings: &Siblings, id: &LogId) -> io::Result<()> {
    let Some(logs) = session.logs() else {
        return Ok(());
    };
    let interest = logs.interest(id);
    let mut sought = Sought {
        session,
        siblings,
        logs,
        id,
        interest,
    };
    loop {
        let (source, stream) = match sought.found(&mut writing).await? {
            Found::At(source, stream) => (source, stream),
            Found::Never => return Ok(()),
            Found::Lost(why) => return say_lost(&mut writing, &why, true).await,
        };
        if let Some(why) = sought.carry(stream, &mut writing).await? {
            return match why {
                Over::Lost { why, at_start } => say_lost(&mut writing, &why, at_start).await,
                Over::Ended => Ok(()),
            };
        }
        logs.forget(&source, id);
    }
}

/// As Zuul's own lines, so that it stands in the job's log like them.
async fn say_lost(writing: &mut WriteHalf<'_>, why: &str, at_start: bool) -> io::Result<()> {
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S.%6f");
    let newline = if at_start { "" } else { "\n" };
    let line = format!("{newline}{now} | [Zuul] {why}\n");
    writing.write_all(line.as_bytes()).await
}

enum Found {
    At(Source, Stream),
    /// Its task has ended without one.
    Never,
    Lost(String),
}

enum Over {
    Lost {
        why: String,
        /// No line is unfinished.
        at_start: bool,
    },
    /// Its task has ended, and the log was deleted.
    Ended,
}

/// One log that somebody wants.
struct Sought<'a> {
    session: &'a Session,
    siblings: &'a Siblings,
    logs: &'a Logs,
    id: &'a LogId,
    interest: Interest,
}

impl Sought<'_> {
    /// Waits for the log to be somewhere, and says meanwhile that it is not.
    async fn found(&mut self, writing: &mut WriteHalf<'_>) -> io::Result<Found> {
        let session = self.session;
        let (mut rhythm, mut ended, mut reach) = (Rhythm::begin(), self.logs.ended(), session.reach(None));
        loop {
            let changed = self.interest.changed();
            if let Some(source) = self.logs.source(self.id) {
                let stream = Stream::open(&source, self.id, session);
                return Ok(Found::At(source, stream));
            }
            match self.after_its_task().await {
                Some((_, false)) => return Ok(Found::Never),
                Some((source, true)) => {
                    let stream = Stream::open(&source, self.id, session);
                    return Ok(Found::At(source, stream));
                }
                None => {}
            }
            if let Reachability::Lost(why) = &*reach.borrow_and_update() {
                return Ok(Found::Lost(why.clone()));
            }
            tokio::select! {
                () = changed => continue,
                Ok(()) = reach.changed() => continue,
                () = rhythm.due() => {}
                Ok(()) = ended.changed() => {}
            }
            self.siblings.look();
            writing.write_all(NOT_FOUND).await?;
            rhythm.said();
        }
    }

    /// Whether it is there, once the task that writes it has ended; `None` before. Asked, as what the agent tells of logs and
    /// what it tells of an exec's end come on two streams.
    async fn after_its_task(&self) -> Option<(Source, bool)> {
        let run = self.logs.run(self.id).filter(|run| run.ended)?;
        let Source::Container(container) = &run.source else {
            return None;
        };
        let exists = self.session.log_exists(container.as_deref(), self.id).await?;
        Some((run.source, exists))
    }

    /// Sends the log as it is written. `None`: it is there no longer, and may be elsewhere.
    async fn carry(&self, mut stream: Stream, writing: &mut WriteHalf<'_>) -> io::Result<Option<Over>> {
        let mut line = LastLine::default();
        let mut ended = self.logs.ended();
        // While the file is away.
        let mut absent: Option<Rhythm> = None;
        loop {
            let due = async {
                match &absent {
                    Some(rhythm) => rhythm.due().await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                event = stream.next() => event,
                () = sleep(line.patience()), if line.holds() => {
                    write(writing, &mut stream, &line.flush()).await?;
                    continue;
                }
                () = due => None,
                Ok(()) = ended.changed(), if absent.is_some() => None,
            };
            match (event, &mut absent) {
                (Some(LogEvent::Begins(_)), _) => {
                    write(writing, &mut stream, &line.flush()).await?;
                    (line, absent) = (LastLine::default(), None);
                }
                (Some(LogEvent::Data(data)), _) => {
                    absent = None;
                    write(writing, &mut stream, &line.push(data)).await?;
                }
                (Some(LogEvent::Absent), _) => {
                    write(writing, &mut stream, &line.flush()).await?;
                    absent = Some(Rhythm::begin());
                }
                (Some(LogEvent::Lost(why)), _) => {
                    write(writing, &mut stream, &line.flush()).await?;
                    let at_start = line.at_start();
                    return Ok(Some(Over::Lost { why, at_start }));
                }
                (None, Some(rhythm)) => {
                    if let Some((_, false)) = self.after_its_task().await {
                        return Ok(Some(Over::Ended));
                    }
                    writing.write_all(NOT_FOUND).await?;
                    rhythm.said();
                }
                (None, None) => {
                    write(writing, &mut stream, &line.flush()).await?;
                    return Ok(None);
                }
            }
        }
    }
}
