//! A proxy of Unix sockets that cuts: every connection gets its own fate from a seeded generator. Its threads end
//! with the process.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

/// Cuts are at byte 2^0 to 2^20 of a direction: in the first bytes, in the greeting, in the middle of the data.
const LARGEST: f64 = 20.0;
const LONGEST_DELAY: u64 = 30;

#[derive(Debug, Clone, Copy)]
enum How {
    /// Both directions at once; what the kernel holds of them is lost.
    Close,
    /// One direction ends, the other goes on.
    HalfClose,
    /// It goes on after a while.
    Delay(Duration),
}

/// What happens in one direction of one connection.
#[derive(Debug, Clone, Copy)]
struct Cut {
    after: u64,
    how: How,
}

#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    agent: PathBuf,
    rng: Mutex<Rng>,
    cuts: AtomicU64,
    /// Cuts that are still to be made; then every connection lives.
    left: AtomicU64,
}

impl Proxy {
    /// Listens on `path` and leads to `agent`, with no cuts yet.
    pub fn start(path: &Path, agent: &Path, seed: u64) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let shared = Arc::new(Shared {
            agent: agent.to_owned(),
            rng: Mutex::new(Rng::with_seed(seed)),
            cuts: AtomicU64::new(0),
            left: AtomicU64::new(0),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                // An agent that is gone is what a closed connection says.
                if let Ok(agent) = UnixStream::connect(&serving.agent) {
                    serve(&serving, client, agent);
                }
            }
        });
        Self { shared }
    }

    /// So many more cuts.
    pub fn cut(&self, count: u64) {
        self.shared.left.fetch_add(count, Ordering::SeqCst);
    }

    /// Takes back those that were not made; the number that were, since the start.
    pub fn calm(&self) -> u64 {
        self.shared.left.store(0, Ordering::SeqCst);
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

fn serve(shared: &Arc<Shared>, client: UnixStream, agent: UnixStream) {
    for (from, to) in [(&client, &agent), (&agent, &client)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let shared = shared.clone();
        let cut = fate(&mut shared.rng.lock().unwrap());
        thread::spawn(move || copy(&shared, from, to, cut));
    }
}

fn fate(rng: &mut Rng) -> Cut {
    let how = match rng.u8(..10) {
        0..6 => How::Close,
        6..9 => How::HalfClose,
        _ => How::Delay(Duration::from_millis(rng.u64(1..LONGEST_DELAY))),
    };
    Cut {
        after: 2f64.powf(rng.f64() * LARGEST) as u64,
        how,
    }
}

fn copy(shared: &Shared, mut from: UnixStream, mut to: UnixStream, cut: Cut) {
    let mut cut = Some(cut);
    let mut passed = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let due = cut.filter(|_| shared.left.load(Ordering::SeqCst) > 0);
        let room = due.map_or(buffer.len() as u64, |cut| {
            cut.after.saturating_sub(passed).min(buffer.len() as u64)
        });
        if let (Some(Cut { how, .. }), 0) = (due, room) {
            cut = None;
            let counted = shared
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if counted.is_err() {
                continue;
            }
            shared.cuts.fetch_add(1, Ordering::SeqCst);
            match how {
                How::Close => break,
                How::HalfClose => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                How::Delay(pause) => thread::sleep(pause),
            }
            continue;
        }
        match from.read(&mut buffer[..room as usize]) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) if to.write_all(&buffer[..count]).is_ok() => passed += count as u64,
            _ => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
