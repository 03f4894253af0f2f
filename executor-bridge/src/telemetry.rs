//! Logs, on stderr: one INFO line per operation when it ends. `PODBRIDGE_LOG` sets the level; in Zuul's slot, where stderr
//! is a pipe that nobody drains, they go to syslog, or to the file that `PODBRIDGE_LOG` names.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::env::{Environment as _, PODBRIDGE_LOG, Process};

/// `off`, `error`, `warn`, `info`, `debug` or `trace`; `default` when absent or unknown.
fn level(default: LevelFilter) -> LevelFilter {
    let wanted = Process.variable(PODBRIDGE_LOG).and_then(|name| name.into_string().ok());
    wanted.and_then(|name| name.parse().ok()).unwrap_or(default)
}

fn start(default: LevelFilter) {
    // A second call, in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level(default))
        .with_span_events(FmtSpan::NONE)
        .with_ansi(false)
        .with_writer(io::stderr)
        .try_init();
}

/// For a command line: silent unless something is worth a sentence.
pub(crate) fn start_for_command() {
    start(LevelFilter::ERROR);
}

/// For a daemon, whose stderr is its log file.
pub(crate) fn start_for_daemon() {
    start(LevelFilter::INFO);
}

/// For a daemon in Zuul's slot.
pub(crate) fn start_in_slot() {
    let file = Process
        .variable(PODBRIDGE_LOG)
        .filter(|value| Path::new(value).is_absolute());
    let builder = tracing_subscriber::fmt()
        .with_max_level(level(LevelFilter::INFO))
        .with_ansi(false);
    let _ = match (file.map(append), Syslog::connect()) {
        (Some(Ok(file)), _) => builder.with_writer(Mutex::new(file)).try_init(),
        (_, Ok(syslog)) => builder.without_time().with_writer(Mutex::new(syslog)).try_init(),
        // A container without syslog.
        (_, Err(_)) => return,
    };
}

/// A regular file only: a pipe that nobody drains would stop the bridge.
fn append(path: std::ffi::OsString) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    let options = options.create(true).append(true).mode(0o600).custom_flags(nonblocking);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(file)
}

/// The host's syslog, as RFC 3164 has it; one datagram per event.
struct Syslog {
    socket: UnixDatagram,
    tag: String,
}

impl Syslog {
    const SOCKET: &str = "/dev/log";
    /// Facility daemon, severity info.
    const PRIORITY: u8 = 3 * 8 + 6;

    fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(Self::SOCKET)?;
        // A full log must not hold up a job.
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            tag: format!("<{}>podbridge[{}]: ", Self::PRIORITY, std::process::id()),
        })
    }
}

impl Write for Syslog {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut datagram = self.tag.clone().into_bytes();
        datagram.extend_from_slice(event.trim_ascii_end());
        // Events that it has no room for are lost, as syslog's own are.
        let _ = self.socket.send(&datagram);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
