//! The streams of one exec that the stock kubectl carries: pipes of the process. Keeps the beginning and the end of its standard error for
//! messages. The process is killed when its reader is dropped. `exec_stream` uses it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::{sleep, timeout};

use crate::pod::{ExecProcess, KubectlEnd, parse_kubectl_end};

/// Bytes of one read of standard output.
const CHUNK: usize = 32 << 10;
/// Bytes of stderr that are kept from its beginning and from its end. A program names its error in its first lines, kubectl in its last.
const STDERR_KEPT: usize = 2048;
/// Most bytes of stderr in the life of an exec. A proxy prints no more than a few lines.
pub(super) const STDERR_MAX: usize = 1 << 20;
/// Wait for the end of kubectl after the end of its output.
const END_WAIT: Duration = Duration::from_secs(10);
const END_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct ProcessReader {
    process: ExecProcess,
    stdout: Receiver,
    stderr: Arc<Mutex<KeptText>>,
}

/// The beginning and the end of a text.
#[derive(Debug, Default)]
struct KeptText {
    head: Vec<u8>,
    tail: Vec<u8>,
    has_ended: bool,
}

impl KeptText {
    fn push(&mut self, data: &[u8]) {
        let free = STDERR_KEPT.saturating_sub(self.head.len()).min(data.len());
        let (head, tail) = data.split_at(free);
        self.head.extend_from_slice(head);
        self.tail.extend_from_slice(tail);
        let surplus = self.tail.len().saturating_sub(STDERR_KEPT);
        self.tail.drain(..surplus);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&[&self.head[..], &self.tail[..]].concat())
            .trim()
            .to_owned()
    }
}

/// Takes the pipes of a running kubectl.
pub(super) fn open(mut process: ExecProcess) -> io::Result<(ProcessReader, Sender)> {
    let child = &mut process.child;
    let missing = || io::Error::other("kubectl has no pipes");
    let stdin = Sender::from_owned_fd(OwnedFd::from(child.stdin.take().ok_or_else(missing)?))?;
    let stdout = Receiver::from_owned_fd(OwnedFd::from(child.stdout.take().ok_or_else(missing)?))?;
    let mut errors = Receiver::from_owned_fd(OwnedFd::from(child.stderr.take().ok_or_else(missing)?))?;
    let stderr = Arc::new(Mutex::new(KeptText::default()));
    let kept = stderr.clone();
    // It ends with the process, which has the other end of the pipe.
    tokio::spawn(async move {
        let (mut buffer, mut length) = (vec![0; STDERR_KEPT], 0);
        loop {
            let read = errors.read(&mut buffer).await.unwrap_or(0);
            length += read;
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push(&buffer[..read]);
            // kubectl ends when nobody reads its standard error.
            if read == 0 || length > STDERR_MAX {
                kept.has_ended = true;
                return;
            }
        }
    });
    let reader = ProcessReader {
        process,
        stdout,
        stderr,
    };
    Ok((reader, stdin))
}

impl ProcessReader {
    /// Returns the next bytes of stdout; `None` at its end. Cancel-safe.
    pub(super) async fn stdout(&mut self) -> Option<Bytes> {
        let mut data = BytesMut::with_capacity(CHUNK);
        match self.stdout.read_buf(&mut data).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(data.freeze()),
        }
    }

    /// Waits for the end of the process after the end of its output; `None`: kubectl was killed, or does not end. Cancel-safe.
    pub(super) async fn end(&mut self) -> Option<KubectlEnd> {
        let ended = async {
            loop {
                let has_text = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).has_ended;
                match self.process.child.try_wait() {
                    Ok(Some(status)) if has_text => return status.code(),
                    Ok(_) => sleep(END_PAUSE).await,
                    Err(_) => return None,
                }
            }
        };
        let code = timeout(END_WAIT, ended).await.ok().flatten();
        parse_kubectl_end(code, &self.stderr())
    }

    pub(super) fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_and_the_end_of_a_long_text_are_kept() {
        let mut kept = KeptText::default();
        kept.push(b"first ");
        for _ in 0..1000 {
            kept.push(b"0123456789");
        }
        kept.push(b" last");
        let text = kept.text();
        assert!(text.starts_with("first ") && text.ends_with(" last"), "{text}");
        assert!(text.len() <= 2 * STDERR_KEPT);
    }
}
