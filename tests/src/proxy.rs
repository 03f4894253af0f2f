//! A proxy between two Unix sockets, or two TCP ports, that cuts connections. A seeded generator chooses how and where each connection is
//! cut. The threads of a proxy end with the process. `pair` and `machine` start proxies.

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

/// Cuts are at byte 2^0 to 2^20 of a direction: in the first bytes, in the first messages, in the middle of the data.
const LARGEST_EXPONENT: f64 = 20.0;
/// Longest pause of [`CutKind::Delay`], in milliseconds.
const MAX_DELAY_MS: u64 = 30;

#[derive(Debug, Clone, Copy)]
enum CutKind {
    /// Both directions end at once. Bytes that the kernel holds of them are lost.
    Close,
    /// Both directions end at once; the ends of a TCP connection see a reset.
    Reset,
    /// One direction ends, the other goes on.
    HalfClose,
    /// The direction pauses, then goes on.
    Delay(Duration),
}

/// A cut in one direction of one connection.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Bytes of this direction before the cut.
    after: u64,
    kind: CutKind,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
}

/// The socket of one side: the client's or the agent's.
trait Socket: Read + Write + Send {
    /// Returns another handle of the same socket.
    fn duplicate(&self) -> Box<dyn Socket>;
    fn shut_down(&self, directions: Shutdown);
    /// Ends the connection with a reset, where the protocol has one.
    fn reset(&self);
}

impl Socket for UnixStream {
    fn duplicate(&self) -> Box<dyn Socket> {
        Box::new(self.try_clone().unwrap())
    }
    fn shut_down(&self, directions: Shutdown) {
        // The peer may have ended the connection.
        let _ = self.shutdown(directions);
    }
    fn reset(&self) {
        self.shut_down(Shutdown::Both);
    }
}

impl Socket for TcpStream {
    fn duplicate(&self) -> Box<dyn Socket> {
        Box::new(self.try_clone().unwrap())
    }
    fn shut_down(&self, directions: Shutdown) {
        // The peer may have ended the connection.
        let _ = self.shutdown(directions);
    }
    /// Connects the socket to an address without a family, which makes the kernel send a reset.
    fn reset(&self) {
        let _ = rustix::net::connect_unspec(self);
        self.shut_down(Shutdown::Both);
    }
}

/// What the threads of a proxy share.
#[derive(Debug)]
struct Shared {
    rng: Mutex<Rng>,
    /// Cuts made since the start.
    cuts: AtomicU64,
    /// Random cuts that the proxy may still make; at 0 every connection lives.
    left: AtomicU64,
    /// Bytes passed in both directions since the start.
    passed: AtomicU64,
    /// Values of `passed` at which the proxy cuts whatever the generator says.
    marks: Mutex<VecDeque<u64>>,
}

impl Proxy {
    /// Starts a proxy that listens on `path` and connects to the socket `agent`. It makes no cuts yet.
    pub fn unix(path: &Path, agent: &Path, seed: u64) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let agent = agent.to_owned();
        let accept = move || listener.accept().map(|(client, _)| Box::new(client) as Box<dyn Socket>);
        Self::start(accept, seed, move || Ok(Box::new(UnixStream::connect(&agent)?)))
    }

    /// Starts a proxy that listens on a port of loopback, which it returns, and connects to `server`. It makes no cuts yet.
    pub fn tcp(server: SocketAddr, seed: u64) -> (Self, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accept = move || listener.accept().map(|(client, _)| Box::new(client) as Box<dyn Socket>);
        let proxy = Self::start(accept, seed, move || Ok(Box::new(TcpStream::connect(server)?)));
        (proxy, port)
    }

    fn start(
        accept: impl Fn() -> io::Result<Box<dyn Socket>> + Send + 'static,
        seed: u64,
        connect: impl Fn() -> io::Result<Box<dyn Socket>> + Send + 'static,
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
                // If the agent is gone, the client's connection is closed here.
                if let Ok(agent) = connect() {
                    serve(&serving, &*client, &*agent);
                }
            }
        });
        Self { shared }
    }

    /// Allows `count` more random cuts.
    pub fn allow_cuts(&self, count: u64) {
        self.shared.left.fetch_add(count, Ordering::SeqCst);
    }

    /// Returns the bytes that have passed in both directions since the start.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// For each number: cuts the connection that moves a byte when so many more bytes have passed.
    pub fn cut_after(&self, bytes: &[u64]) {
        let passed = self.passed();
        let marks = bytes.iter().map(|bytes| passed + bytes);
        self.shared.marks.lock().unwrap().extend(marks);
    }

    /// Allows no more random cuts; returns the number of cuts made since the start.
    pub fn stop_cutting(&self) -> u64 {
        self.shared.left.store(0, Ordering::SeqCst);
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Counts passed bytes; tells whether a mark was reached.
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

fn serve(shared: &Arc<Shared>, client: &dyn Socket, agent: &dyn Socket) {
    for (from, to) in [(client, agent), (agent, client)] {
        let (mut from, mut to) = (from.duplicate(), to.duplicate());
        let shared = shared.clone();
        let cut = random_cut(&mut shared.rng.lock().unwrap());
        thread::spawn(move || copy(&shared, &mut *from, &mut *to, cut));
    }
}

fn random_cut(rng: &mut Rng) -> Cut {
    let kind = match rng.u8(..10) {
        0..5 => CutKind::Close,
        5 => CutKind::Reset,
        6..9 => CutKind::HalfClose,
        _ => CutKind::Delay(Duration::from_millis(rng.u64(1..MAX_DELAY_MS))),
    };
    Cut {
        after: 2f64.powf(rng.f64() * LARGEST_EXPONENT) as u64,
        kind,
    }
}

fn copy(shared: &Shared, from: &mut dyn Socket, to: &mut dyn Socket, cut: Cut) {
    let mut cut = Some(cut);
    let mut passed = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let due = cut.filter(|_| shared.left.load(Ordering::SeqCst) > 0);
        let length = due.map_or(buffer.len() as u64, |cut| {
            cut.after.saturating_sub(passed).min(buffer.len() as u64)
        });
        if let (Some(Cut { kind, .. }), 0) = (due, length) {
            cut = None;
            let counted = shared
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if counted.is_err() {
                continue;
            }
            shared.cuts.fetch_add(1, Ordering::SeqCst);
            match kind {
                CutKind::Close => break,
                CutKind::Reset => {
                    from.reset();
                    to.reset();
                    return;
                }
                CutKind::HalfClose => return to.shut_down(Shutdown::Write),
                // The pause is what the test wants.
                CutKind::Delay(pause) => thread::sleep(pause),
            }
            continue;
        }
        match from.read(&mut buffer[..length as usize]) {
            Ok(0) => return to.shut_down(Shutdown::Write),
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
    from.shut_down(Shutdown::Both);
    to.shut_down(Shutdown::Both);
}
