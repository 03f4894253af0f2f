//! The process's own log, on stderr: one INFO line per operation when it ends. `PODBRIDGE_LOG` sets the level. In
//! Zuul's slot stderr is a pipe that no process reads, so the log goes to syslog, or to the file that `PODBRIDGE_LOG`
//! names; there only links and the bridge itself have lines. No event is more than one line, whatever words of a pod it quotes.
//! Libraries have no lines: kube logs whole answers of the API server, with the environment of pods.
//! `commands` and `daemon` start it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use podbridge_proto::words;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::env::{Environment as _, PODBRIDGE_LOG, Process};

/// Returns the level that `PODBRIDGE_LOG` names: `off`, `error`, `warn`, `info`, `debug` or `trace`. Returns `default`
/// if it is absent or unknown.
fn level(default: LevelFilter) -> LevelFilter {
    let wanted = Process.variable(PODBRIDGE_LOG).and_then(|name| name.into_string().ok());
    wanted.and_then(|name| name.parse().ok()).unwrap_or(default)
}

/// Admits the events of podbridge's own crates.
fn own_events() -> FilterFn {
    filter_fn(|event| event.target().starts_with("podbridge"))
}

fn start(default: LevelFilter) {
    // A second call, as in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level(default))
        .with_span_events(FmtSpan::NONE)
        .with_ansi(false)
        .with_writer(|| Lossy(io::stderr()))
        .finish()
        .with(own_events())
        .try_init();
}

/// Starts the log of a command line, which shows errors only.
pub(crate) fn start_for_command() {
    start(LevelFilter::ERROR);
}

/// Starts the log of a daemon, whose stderr is its log file.
pub(crate) fn start_for_daemon() {
    start(LevelFilter::INFO);
}

/// Starts the log of a daemon in Zuul's slot.
pub(crate) fn start_in_slot() {
    let file = Process
        .variable(PODBRIDGE_LOG)
        .filter(|value| Path::new(value).is_absolute());
    let builder = tracing_subscriber::fmt()
        .with_max_level(level(LevelFilter::INFO))
        .with_ansi(false);
    let _ = match (file.map(append), Syslog::connect()) {
        (Some(Ok(file)), _) => {
            let log = builder.with_writer(Mutex::new(Lossy(file))).finish();
            log.with(own_events()).try_init()
        }
        (_, Ok(syslog)) => {
            let log = builder.without_time().with_writer(Mutex::new(syslog)).finish();
            log.with(own_events()).try_init()
        }
        // The container has no syslog.
        (_, Err(_)) => return,
    };
}

/// Largest log file, bytes. All bridges of an executor may have the same one.
const MAX_LOG_FILE: u64 = 16 << 20;
/// Bytes that a bridge writes between two looks at the size of the file.
const SIZE_CHECK: u64 = 64 << 10;

/// A log file that is emptied when it is too large.
struct LogFile {
    file: File,
    /// Bytes since the last look at the size.
    written: u64,
}

/// Opens the log file. Accepts only a regular file of this user with one name: a pipe that no process reads would block the bridge, and a
/// link would let somebody else choose the file.
fn append(path: std::ffi::OsString) -> io::Result<LogFile> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let mut options = OpenOptions::new();
    let options = options.create(true).append(true).mode(0o600);
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.nlink() == 1;
    if !metadata.is_file() || !is_own {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The first event looks at the size.
    Ok(LogFile {
        file,
        written: SIZE_CHECK,
    })
}

impl Write for LogFile {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.written += event.len() as u64;
        if self.written >= SIZE_CHECK {
            self.written = 0;
            if self.file.metadata()?.len() > MAX_LOG_FILE {
                self.file.set_len(0)?;
                self.file
                    .write_all(b"earlier lines were removed: the log had reached its size limit\n")?;
            }
        }
        self.file.write(event)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Longest event, bytes: a few sentences, each of which has its own limit.
const MAX_EVENT: usize = 4 << 10;

/// Returns an event as one line, without what is beyond the longest event.
fn one_line(event: &[u8]) -> String {
    let kept = &event[..event.len().min(MAX_EVENT)];
    let text = String::from_utf8_lossy(kept);
    let mut line: String = text.trim_end_matches('\n').chars().map(words::visible).collect();
    line.push_str(if kept.len() < event.len() { "…\n" } else { "\n" });
    line
}

/// Writer that drops what cannot be written: the file system of the log may be full. An error would make the subscriber print to
/// stderr, which panics if that is the same file.
struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(one_line(event).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Writer to the host's syslog in the format of RFC 3164, one datagram per event. All bridges and the executor itself share what syslog
/// accepts in a time, so each bridge has a small part of it.
struct Syslog {
    socket: UnixDatagram,
    tag: String,
    /// Events that may be sent now.
    allowed: f64,
    last: Instant,
    left_out: u64,
}

impl Syslog {
    const SOCKET: &str = "/dev/log";
    /// Facility "daemon", severity "info".
    const PRIORITY: u8 = 3 * 8 + 6;
    /// Events at once, and then in a second.
    const BURST: f64 = 60.0;
    const RATE: f64 = 1.0;

    fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(Self::SOCKET)?;
        // A full syslog must not delay a job.
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            tag: format!("<{}>podbridge[{}]: ", Self::PRIORITY, std::process::id()),
            allowed: Self::BURST,
            last: Instant::now(),
            left_out: 0,
        })
    }

    /// Takes one event from what is allowed; returns how many were left out before it, or `None` if it is left out too.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let passed = now.duration_since(self.last).as_secs_f64();
        self.last = now;
        self.allowed = (self.allowed + passed * Self::RATE).min(Self::BURST);
        if self.allowed < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.allowed -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }

    fn send(&self, line: &str) {
        let datagram = [self.tag.as_bytes(), line.trim_end().as_bytes()].concat();
        // Events that do not fit are lost, as syslog's own are.
        let _ = self.socket.send(&datagram);
    }
}

impl Write for Syslog {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if let Some(left_out) = self.admit(Instant::now()) {
            if left_out > 0 {
                self.send(&format!("{left_out} events were left out"));
            }
            self.send(&one_line(event));
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_event_is_one_line_without_control_characters() {
        let event = "12:00 INFO a=1\nforged \x1b]0;x\x07\u{9b}31m\u{202e}\n";
        let line = one_line(event.as_bytes());
        assert_eq!(line, "12:00 INFO a=1 forged \u{fffd}]0;x\u{fffd}\u{fffd}31m\u{fffd}\n");
    }

    #[test]
    fn a_long_event_is_cut() {
        let line = one_line("ä".repeat(MAX_EVENT).as_bytes());
        assert_eq!(line, format!("{}…\n", "ä".repeat(MAX_EVENT / 2)));
        let longest = "x".repeat(MAX_EVENT);
        assert_eq!(one_line(longest.as_bytes()), format!("{longest}\n"));
    }

    /// What kube does with an answer that is no pod.
    #[test]
    fn libraries_have_no_lines() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let file = written.reopen().unwrap();
        let log = tracing_subscriber::fmt().with_writer(Mutex::new(Lossy(file))).finish();
        tracing::subscriber::with_default(log.with(own_events()), || {
            tracing::warn!(target: "kube_client::client", "{{\"env\": \"secret\"}}");
            tracing::info!("an own event");
        });
        let lines = fs::read_to_string(written.path()).unwrap();
        assert!(lines.contains("an own event") && !lines.contains("secret"), "{lines}");
        assert_eq!(lines.lines().count(), 1);
    }

    #[test]
    fn a_log_file_is_no_link_and_has_a_size_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("other"), "kept").unwrap();
        symlink(path("other"), path("link")).unwrap();
        fs::hard_link(path("other"), path("second")).unwrap();
        for refused in ["link", "second", "."] {
            assert!(append(path(refused).into()).is_err(), "{refused}");
        }
        assert_eq!(fs::read(path("other")).unwrap(), b"kept");
        let mut log = Lossy(append(path("log").into()).unwrap());
        let line = [b'x'; MAX_EVENT];
        for _ in 0..2 * MAX_LOG_FILE / MAX_EVENT as u64 {
            log.write_all(&line).unwrap();
        }
        let length = fs::metadata(path("log")).unwrap().len();
        assert!(length <= MAX_LOG_FILE + 2 * SIZE_CHECK, "{length}");
    }

    #[test]
    fn syslog_gets_some_events_at_once_and_then_a_few() {
        let (_other, socket) = UnixDatagram::pair().unwrap();
        let begun = Instant::now();
        let mut syslog = Syslog {
            socket,
            tag: String::new(),
            allowed: Syslog::BURST,
            last: begun,
            left_out: 0,
        };
        let sent = (0..1000).filter(|_| syslog.admit(begun).is_some()).count();
        assert_eq!((sent, syslog.left_out), (60, 940));
        let later = begun + Duration::from_secs(10);
        assert_eq!(syslog.admit(later), Some(940));
        assert_eq!((0..100).filter(|_| syslog.admit(later).is_some()).count(), 9);
    }
}
