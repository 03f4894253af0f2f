//! Moves a command's output from its descriptor into the spool, and knows when to stop once the command has ended.

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

/// After the command's end, this long without output while another process holds the pipe ends the reading.
const QUIET_AFTER_EXIT: Duration = Duration::from_millis(500);
/// And this long in all, if that process keeps writing, and until all was read that the command itself had written.
const DRAIN_AFTER_EXIT: Duration = Duration::from_secs(5);
/// Between two looks at what is read for nobody: a process that floods its pipe then costs little.
const DISCARD_PAUSE: Duration = Duration::from_millis(10);

/// Reads until the end of the stream; `ended` turns true when the command has ended. True if somebody still holds the other end.
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

/// Reads for nobody until the end of the stream: who has a pipe of a command that ended lives on, and a pipe without a reader would
/// end him with his next word.
pub(crate) async fn discard(source: Arc<AsyncFd<OwnedFd>>) {
    while read(&source).await.is_ok_and(|chunk| !chunk.is_empty()) {
        sleep(DISCARD_PAUSE).await;
    }
}

/// True if somebody still holds the other end.
async fn copy(source: &AsyncFd<OwnedFd>, spool: &Spool, channel: Channel, mut ended: watch::Receiver<bool>) -> bool {
    let mut end: Option<Instant> = None;
    // Bytes that had been written by then and are not read yet.
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
            // A terminal whose last holder has closed it says EIO.
            Err(_) => return false,
            Ok(chunk) if chunk.is_empty() => return false,
            Ok(chunk) => {
                unread = unread.saturating_sub(chunk.len() as u64);
                spool.write(channel, chunk);
            }
        }
    }
}

/// What is there, in a buffer of that size: thousands of quiet commands hold none. Empty at the end.
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
