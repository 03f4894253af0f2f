//! A proxy that cuts, of Unix sockets or TCP: every connection gets its own fate from a seeded generator. Its threads
//! end with the process.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
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
    /// The same, told by a reset where there is such a thing.
    Reset,
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

/// One end of a connection.
trait Wire: Read + Write + Send {
    fn another(&self) -> Box<dyn Wire>;
    fn shut(&self, how: Shutdown);
    fn reset(&self);
}

impl Wire for UnixStream {
    fn another(&self) -> Box<dyn Wire> {
        Box::new(self.try_clone().unwrap())
    }
    fn shut(&self, how: Shutdown) {
        // It may be down already.
        let _ = self.shutdown(how);
    }
    fn reset(&self) {
        self.shut(Shutdown::Both);
    }
}

impl Wire for TcpStream {
    fn another(&self) -> Box<dyn Wire> {
        Box::new(self.try_clone().unwrap())
    }
    fn shut(&self, how: Shutdown) {
        let _ = self.shutdown(how);
    }
    /// To an address of no family: the kernel resets the connection.
    fn reset(&self) {
        let _ = rustix::net::connect_unspec(self);
        self.shut(Shutdown::Both);
    }
}

#[derive(Debug)]
struct Shared {
    rng: Mutex<Rng>,
    cuts: AtomicU64,
    /// Cuts that are still to be made; then every connection lives.
    left: AtomicU64,
    /// Bytes in both directions, and where cuts are to be made whatever the generator says.
    passed: AtomicU64,
    marks: Mutex<VecDeque<u64>>,
}

impl Proxy {
    /// Listens on `path` and leads to the socket `agent`, with no cuts yet.
    pub fn unix(path: &Path, agent: &Path, seed: u64) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let agent = agent.to_owned();
        let accept = move || listener.accept().map(|(client, _)| Box::new(client) as Box<dyn Wire>);
        Self::start(accept, seed, move || Ok(Box::new(UnixStream::connect(&agent)?)))
    }

    /// The same between a port of its own on loopback, which it returns, and `server`.
    pub fn tcp(server: SocketAddr, seed: u64) -> (Self, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accept = move || listener.accept().map(|(client, _)| Box::new(client) as Box<dyn Wire>);
        let proxy = Self::start(accept, seed, move || Ok(Box::new(TcpStream::connect(server)?)));
        (proxy, port)
    }

    fn start(
        accept: impl Fn() -> io::Result<Box<dyn Wire>> + Send + 'static,
        seed: u64,
        connect: impl Fn() -> io::Result<Box<dyn Wire>> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            rng: Mutex::new(Rng::with_seed(seed)),
            cuts: AtomicU64::new(0),
            left: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            marks: Mutex::default(),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            loop {
                let client = accept().unwrap();
                // An agent that is gone is what a closed connection says.
                if let Ok(agent) = connect() {
                    serve(&serving, &*client, &*agent);
                }
            }
        });
        Self { shared }
    }

    /// So many more cuts.
    pub fn cut(&self, count: u64) {
        self.shared.left.fetch_add(count, Ordering::SeqCst);
    }

    /// Bytes that have passed in both directions, since the start.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Cuts the connection that moves when so many more bytes have passed, for each of these numbers.
    pub fn cut_after(&self, bytes: &[u64]) {
        let passed = self.passed();
        let marks = bytes.iter().map(|bytes| passed + bytes);
        self.shared.marks.lock().unwrap().extend(marks);
    }

    /// Takes back those that were not made; the number that were, since the start.
    pub fn calm(&self) -> u64 {
        self.shared.left.store(0, Ordering::SeqCst);
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Counts what has passed; whether a mark is behind it.
    fn is_due(&self, count: u64) -> bool {
        let passed = self.passed.fetch_add(count, Ordering::SeqCst) + count;
        let mut marks = self.marks.lock().unwrap();
        let due = marks.front().is_some_and(|mark| *mark <= passed);
        if due {
            marks.pop_front();
        }
        due
    }
}

fn serve(shared: &Arc<Shared>, client: &dyn Wire, agent: &dyn Wire) {
    for (from, to) in [(client, agent), (agent, client)] {
        let (mut from, mut to) = (from.another(), to.another());
        let shared = shared.clone();
        let cut = fate(&mut shared.rng.lock().unwrap());
        thread::spawn(move || copy(&shared, &mut *from, &mut *to, cut));
    }
}

fn fate(rng: &mut Rng) -> Cut {
    let how = match rng.u8(..10) {
        0..5 => How::Close,
        5 => How::Reset,
        6..9 => How::HalfClose,
        _ => How::Delay(Duration::from_millis(rng.u64(1..LONGEST_DELAY))),
    };
    Cut {
        after: 2f64.powf(rng.f64() * LARGEST) as u64,
        how,
    }
}

fn copy(shared: &Shared, from: &mut dyn Wire, to: &mut dyn Wire, cut: Cut) {
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
                How::Reset => {
                    from.reset();
                    to.reset();
                    return;
                }
                How::HalfClose => return to.shut(Shutdown::Write),
                How::Delay(pause) => thread::sleep(pause),
            }
            continue;
        }
        match from.read(&mut buffer[..room as usize]) {
            Ok(0) => return to.shut(Shutdown::Write),
            Ok(count) if to.write_all(&buffer[..count]).is_ok() => {
                passed += count as u64;
                if shared.is_due(count as u64) {
                    shared.cuts.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
            _ => break,
        }
    }
    from.shut(Shutdown::Both);
    to.shut(Shutdown::Both);
}
