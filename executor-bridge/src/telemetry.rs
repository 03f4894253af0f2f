//! The process's own log, on stderr: one INFO line per operation when it ends. `PODBRIDGE_LOG` sets the level. In
//! Zuul's slot stderr is a pipe that no process reads, so the log goes to syslog, or to the file that `PODBRIDGE_LOG`
//! names. `commands` and `daemon` start it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::env::{Environment as _, PODBRIDGE_LOG, Process};

/// Returns the level that `PODBRIDGE_LOG` names: `off`, `error`, `warn`, `info`, `debug` or `trace`. Returns `default`
/// if it is absent or unknown.
fn level(default: LevelFilter) -> LevelFilter {
    let wanted = Process.variable(PODBRIDGE_LOG).and_then(|name| name.into_string().ok());
    wanted.and_then(|name| name.parse().ok()).unwrap_or(default)
}

fn start(default: LevelFilter) {
    // A second call, as in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level(default))
        .with_span_events(FmtSpan::NONE)
        .with_ansi(false)
        .with_writer(|| Lossy(io::stderr()))
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
        (Some(Ok(file)), _) => builder.with_writer(Mutex::new(Lossy(file))).try_init(),
        (_, Ok(syslog)) => builder.without_time().with_writer(Mutex::new(syslog)).try_init(),
        // The container has no syslog.
        (_, Err(_)) => return,
    };
}

/// Opens the log file. Accepts a regular file only: a pipe that no process reads would block the bridge.
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

/// Writer that drops what cannot be written: the file system of the log may be full. An error would make the subscriber print to
/// stderr, which panics if that is the same file.
struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Writer to the host's syslog in the format of RFC 3164, one datagram per event.
struct Syslog {
    socket: UnixDatagram,
    tag: String,
}

impl Syslog {
    const SOCKET: &str = "/dev/log";
    /// Facility "daemon", severity "info".
    const PRIORITY: u8 = 3 * 8 + 6;

    fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(Self::SOCKET)?;
        // A full syslog must not delay a job.
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
        // Events that do not fit are lost, as syslog's own are.
        let _ = self.socket.send(&datagram);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
