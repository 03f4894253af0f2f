//! Watches the resident memory of processes while an attack runs. A process that is far above its ceiling is killed, so that a failing
//! case does not take the machine along. `scene` starts one watch for each case.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use podbridge_tests::pair::{is_alive, send_signal};
use rustix::process::Signal;

use crate::frame::footprint::{forget_peak, peak_memory};

/// Pause between two looks at a process. The kernel keeps the peak, so this only has to see processes that end.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// A process with this many times its ceiling is killed.
const KILL_FACTOR: u64 = 4;

/// The most memory that one process has had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peak {
    pub(crate) name: &'static str,
    pub(crate) ceiling: u64,
    pub(crate) bytes: u64,
    pid: u32,
}

/// The watched processes of one case. The drop ends the watch.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    peaks: Mutex<Vec<Peak>>,
}

impl MemoryWatch {
    pub(crate) fn start() -> Arc<Self> {
        let watch = Arc::new(Self {
            peaks: Mutex::new(Vec::new()),
        });
        let weak: Weak<Self> = Arc::downgrade(&watch);
        thread::spawn(move || {
            while let Some(watch) = weak.upgrade() {
                watch.look();
                drop(watch);
                // A sample is taken from time to time.
                thread::sleep(LOOK_INTERVAL);
            }
        });
        watch
    }

    pub(crate) fn add(&self, name: &'static str, pid: u32, ceiling: u64) {
        self.lock().push(Peak {
            name,
            ceiling,
            bytes: 0,
            pid,
        });
    }

    /// Tells whether a process is above its ceiling.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().iter().any(|peak| peak.bytes > peak.ceiling)
    }

    /// Returns the peak of each process. The next peaks are those from now on.
    pub(crate) fn take_peaks(&self) -> Vec<Peak> {
        self.look();
        let mut peaks = self.lock();
        let taken = peaks.clone();
        for peak in peaks.iter_mut() {
            peak.bytes = 0;
            forget_peak(peak.pid);
        }
        // Clients that have ended have been counted.
        peaks.retain(|peak| is_alive(peak.pid));
        taken
    }

    fn look(&self) {
        for peak in self.lock().iter_mut() {
            let now = peak_memory(peak.pid).unwrap_or(0);
            peak.bytes = peak.bytes.max(now);
            if now > KILL_FACTOR * peak.ceiling {
                send_signal(peak.pid, Signal::KILL);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Peak>> {
        self.peaks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
