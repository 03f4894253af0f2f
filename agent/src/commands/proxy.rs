//! `proxy`: standard input and output for the agent, given to it, or copied to its socket, each direction on its own. Descriptors
//! 1 and 2 stay open to the very end: containerd closes stdin as soon as one of them closes, and data is lost with exit 0.

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
    let stream = stream.map_err(|error| format!("no agent answers on {}: {error}", path.display()))?;
    let served = join_streams(stream, || socket::connect(&path));
    served.map_err(|error| format!("the connection to the agent broke: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

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
        // It is an older one.
        stream = connect()?;
    }
    copy(stream)
}

/// When the agent has let go of the streams.
fn wait_for_close(mut stream: UnixStream) -> io::Result<()> {
    let mut nothing = [0];
    loop {
        match stream.read(&mut nothing) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended.map(drop),
        }
    }
}

fn copy(stream: UnixStream) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let upward = stream.try_clone()?;
    // Not joined: when the agent has said its last word, what is still to be read concerns nobody.
    thread::spawn(move || {
        // A failed write is seen by the other direction as the end of the stream.
        let _ = copy_one_way(&mut io::stdin().lock(), &mut &upward);
        let _ = upward.shutdown(Shutdown::Write);
    });
    copy_one_way(&mut &stream, &mut stdout)
}

/// `io::copy` would buffer too little, and `Stdout` would wait for a newline.
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
