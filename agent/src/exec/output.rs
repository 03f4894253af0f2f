//! Moves a command's output from its descriptor into the spool, and stops when the command has ended and its output is read, although
//! another process may still hold the descriptor. `supervisor` calls it, once for each stream.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::spool::{CHUNK_LIMIT, Channel, Spool};

/// Time without output after the command's end, while another process holds the pipe; then reading ends.
const QUIET_AFTER_EXIT: Duration = Duration::from_millis(500);
/// Longest time of reading after the command's end, if that process keeps writing. Output that the command itself had written is
/// read even later.
const DRAIN_AFTER_EXIT: Duration = Duration::from_secs(5);
/// Pause between two reads of output that is discarded: a process that floods its pipe then costs little CPU time.
const DISCARD_PAUSE: Duration = Duration::from_millis(10);

/// Reads until the end of the stream, then closes it in the spool. `ended` turns true when the command has ended. Returns true if
/// another process still holds the other end.
pub(crate) async fn pump(
    source: Arc<AsyncFd<OwnedFd>>,
    spool: Arc<Spool>,
    channel: Channel,
    ended: watch::Receiver<bool>,
) -> bool {
    let held_open = copy(&source, &spool, channel, ended).await;
    spool.close(channel, held_open);
    held_open
}

/// Reads and discards until the end of the stream. A process that inherited the pipe of an ended command lives on; without a reader,
/// SIGPIPE would end it at its next write.
pub(crate) async fn discard(source: Arc<AsyncFd<OwnedFd>>) {
    while read(&source).await.is_ok_and(|chunk| !chunk.is_empty()) {
        sleep(DISCARD_PAUSE).await;
    }
}

/// Copies into the spool. Returns true if another process still holds the other end.
async fn copy(source: &AsyncFd<OwnedFd>, spool: &Spool, channel: Channel, mut ended: watch::Receiver<bool>) -> bool {
    // The moment when the command's end was noticed.
    let mut end: Option<Instant> = None;
    // Bytes that were in the pipe at that moment and are not read yet.
    let mut unread = 0;
    loop {
        if !spool.wait_for_space(channel).await {
            return true;
        }
        let read = read(source);
        let got = match end {
            None => tokio::select! {
                biased;
                got = read => got,
                _ = ended.wait_for(|ended| *ended) => {
                    end = Some(Instant::now());
                    unread = rustix::io::ioctl_fionread(source.get_ref()).unwrap_or_default();
                    continue;
                }
            },
            Some(at) if at.elapsed() > DRAIN_AFTER_EXIT && unread == 0 => return true,
            Some(_) => match timeout(QUIET_AFTER_EXIT, read).await {
                Ok(got) => got,
                Err(_) => return true,
            },
        };
        match got {
            // A terminal that no process holds any more returns EIO.
            Err(_) => return false,
            Ok(chunk) if chunk.is_empty() => return false,
            Ok(chunk) => {
                unread = unread.saturating_sub(chunk.len() as u64);
                spool.write(channel, chunk);
            }
        }
    }
}

/// Waits for output and reads what is available, into a buffer of exactly that size: thousands of idle commands hold no buffer.
/// Returns an empty chunk at the end of the stream.
async fn read(source: &AsyncFd<OwnedFd>) -> io::Result<Bytes> {
    loop {
        let mut ready = source.readable().await?;
        let chunk = ready.try_io(|fd| {
            let waiting = rustix::io::ioctl_fionread(fd.get_ref())?;
            let mut chunk = Vec::with_capacity(waiting.clamp(1, CHUNK_LIMIT as u64) as usize);
            rustix::io::read(fd.get_ref(), spare_capacity(&mut chunk))?;
            Ok(Bytes::from(chunk))
        });
        if let Ok(chunk) = chunk {
            return chunk;
        }
    }
}
