//! Moves a command's output from its descriptor into the spool, and knows when to stop once the command has ended.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::spool::{Channel, Spool};

const READ: usize = 64 * 1024;
/// After the command's end, this long without output while another process holds the pipe ends the reading.
const QUIET: Duration = Duration::from_millis(500);
/// And this long in all, if that process keeps writing: by then all that the command itself wrote (at most a pipe's
/// capacity) has been read.
const DRAIN: Duration = Duration::from_secs(5);
const PIPE_CAPACITY: usize = 1 << 20;

/// Reads until the end of the stream; `ended` turns true when the command has ended.
pub(crate) async fn pump(
    source: Arc<AsyncFd<OwnedFd>>,
    spool: Arc<Spool>,
    channel: Channel,
    ended: watch::Receiver<bool>,
) {
    let held_open = copy(&source, &spool, channel, ended).await;
    spool.close(channel, held_open);
}

/// True if somebody still holds the other end.
async fn copy(source: &AsyncFd<OwnedFd>, spool: &Spool, channel: Channel, mut ended: watch::Receiver<bool>) -> bool {
    let mut buffer = Vec::with_capacity(READ);
    let mut end: Option<Instant> = None;
    let mut since_end = 0;
    loop {
        spool.room(channel).await;
        let read = read(source, &mut buffer);
        let got = match end {
            None => tokio::select! {
                biased;
                got = read => got,
                _ = ended.wait_for(|ended| *ended) => {
                    end = Some(Instant::now());
                    continue;
                }
            },
            Some(at) if at.elapsed() > DRAIN && since_end > PIPE_CAPACITY => return true,
            Some(_) => match timeout(QUIET, read).await {
                Ok(got) => got,
                Err(_) => return true,
            },
        };
        match got {
            // A terminal whose last holder has closed it says EIO.
            Ok(0) | Err(_) => return false,
            Ok(count) => {
                since_end += if end.is_some() { count } else { 0 };
                spool.write(channel, chunk(&mut buffer));
            }
        }
    }
}

/// What was read, and an empty buffer again. Short pieces are copied, so that none of them holds a whole buffer.
fn chunk(buffer: &mut Vec<u8>) -> Bytes {
    if buffer.len() >= READ / 2 {
        return Bytes::from(std::mem::replace(buffer, Vec::with_capacity(READ)));
    }
    let chunk = Bytes::copy_from_slice(buffer);
    buffer.clear();
    chunk
}

async fn read(source: &AsyncFd<OwnedFd>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        let mut ready = source.readable().await?;
        if let Ok(result) = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), spare_capacity(buffer))?)) {
            return result;
        }
    }
}
