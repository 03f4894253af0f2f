//! Something that an attacker does again and again on a thread of its own, until it is dropped. The roles start floods.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A running flood. The drop ends it.
#[derive(Debug)]
pub(crate) struct Flood {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Calls `act` again and again. It has to return when the other side stalls, or the drop would wait for ever.
    pub(crate) fn start(mut act: impl FnMut() + Send + 'static) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ends = ends.clone();
            move || {
                while !ends.load(Ordering::Relaxed) {
                    act();
                }
            }
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}
