//! Reads what inotify has to tell and wakes those whom it concerns. One task for the whole agent; it sleeps as long as
//! nothing happens to what is watched.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::inotify::Reader;
use tokio::io::unix::AsyncFd;

use super::watches::Watches;

/// A few hundred events.
const BUFFER: usize = 8 << 10;

pub(super) async fn forward(instance: Arc<AsyncFd<OwnedFd>>, watches: Arc<Watches>) {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    // An error says that the runtime ends.
    while let Ok(mut ready) = instance.readable().await {
        // One buffer, then others have their turn. That there is nothing more is the only way in which this read fails.
        let _ = ready.try_io(|instance| batch(instance.get_ref(), &mut buffer, &watches));
    }
}

fn batch(instance: &OwnedFd, buffer: &mut [MaybeUninit<u8>], watches: &Watches) -> io::Result<()> {
    let mut events = Reader::new(instance, buffer);
    loop {
        watches.wake(&events.next()?);
        if events.is_buffer_empty() {
            return Ok(());
        }
    }
}
