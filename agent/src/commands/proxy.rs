//! `proxy`: connects standard input and output to a serving agent. It hands both descriptors over to the agent if it can (ADR 11), else
//! it copies between them and the agent's socket, one thread for each direction. Descriptors 1 and 2 stay open until the process ends:
//! containerd closes stdin as soon as one of them closes, and data is lost with exit code 0.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use podbridge_proto::limits::PROXY_MAGIC;
use rustix::stdio;

use super::serve;
use crate::config::Proxy;
use crate::transport::{handover, socket};

/// Size of the buffer of one direction, in bytes.
const COPY_BUFFER_BYTES: usize = 256 * 1024;

pub(super) fn run(options: Proxy) -> Result<ExitCode, String> {
    let path = socket::path_to_connect(options.socket.path.clone());
    let stream = match socket::connect(&path) {
        Err(_) if options.start => {
            serve::start_detached(&path, options.socket.idle_when_detached(), &[])?;
            socket::connect(&path)
        }
        other => other,
    };
    let stream = stream.map_err(|error| {
        format!(
            "no agent answers on {}: {error}; start one with `podbridge-agent serve`, or use --start",
            path.display()
        )
    })?;
    let served = join_streams(stream, || socket::connect(&path));
    served.map_err(|error| format!("the connection to the agent failed: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Joins standard input and output with `stream` until the agent closes it. `connect` opens another connection to the agent.
fn join_streams(mut stream: UnixStream, connect: impl FnOnce() -> io::Result<UnixStream>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(PROXY_MAGIC.as_bytes())?;
    stdout.flush()?;
    drop(stdout);
    let (input, output) = (stdio::stdin(), stdio::stdout());
    if handover::are_pipes(input, output) {
        if let Ok(true) = handover::offer(&stream, input, output) {
            return wait_for_close(stream);
        }
        // This agent is too old to take descriptors: it has closed the connection.
        stream = connect()?;
    }
    copy(stream)
}

/// Waits until the agent has closed the streams that it took.
fn wait_for_close(mut stream: UnixStream) -> io::Result<()> {
    let mut buffer = [0];
    loop {
        match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// Copies both directions until the agent closes its direction.
fn copy(stream: UnixStream) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let upward = stream.try_clone()?;
    // This thread is not joined: when the agent has closed its direction, nothing reads the rest of the input.
    thread::spawn(move || {
        // The other direction sees a failed write as the end of the stream.
        let _ = copy_one_way(&mut io::stdin().lock(), &mut &upward);
        let _ = upward.shutdown(Shutdown::Write);
    });
    copy_one_way(&mut &stream, &mut stdout)
}

/// Copies until the end of `from`. `io::copy` would use a smaller buffer, and `Stdout` would wait for a newline.
fn copy_one_way(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
