//! The client protocol as a client of another language speaks it: frames, requests with descriptors, results. It shares no code with the
//! client under test. `build` and `hostile/` call it.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

pub const REQUEST: u8 = 0x01;
pub const STDIN: u8 = 0x02;
pub const STDIN_EOF: u8 = 0x03;
pub const SIGNAL: u8 = 0x04;
pub const RESIZE: u8 = 0x05;
pub const STARTED: u8 = 0x10;
pub const STDOUT: u8 = 0x11;
pub const RESULT: u8 = 0x1f;

/// Most descriptors that one test passes.
const MAX_DESCRIPTORS: usize = 64;
/// How long a read or a write of a connection waits for the bridge.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// One connection to a bridge.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self(stream))
    }

    /// Returns the socket, for bytes that are no frame.
    pub fn socket(&mut self) -> &mut UnixStream {
        &mut self.0
    }

    pub fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&frame(kind, payload))
    }

    /// Sends a request, with descriptors attached to its first byte.
    pub fn send_request(&mut self, request: &Value, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = frame(REQUEST, request.to_string().as_bytes());
        if descriptors.is_empty() {
            return self.0.write_all(&frame);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let sent = sendmsg(&self.0, &[IoSlice::new(&frame)], &mut control, SendFlags::empty())?;
        self.0.write_all(&frame[sent..])
    }

    /// Returns type and payload of the next frame.
    pub fn read_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        self.0.read_exact(&mut header)?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let mut payload = vec![0; length.saturating_sub(1)];
        self.0.read_exact(&mut payload)?;
        Ok((header[4], payload))
    }

    /// Reads frames up to the result, which it returns.
    pub fn read_result(&mut self) -> io::Result<Value> {
        loop {
            let (kind, payload) = self.read_frame()?;
            if kind == RESULT {
                return Ok(serde_json::from_slice(&payload)?);
            }
        }
    }
}

/// Returns a frame as it is sent.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[kind], payload].concat()
}

/// Sends a request and returns its result.
pub fn ask(socket: &Path, request: &Value) -> io::Result<Value> {
    let mut connection = Connection::open(socket)?;
    connection.send_request(request, &[])?;
    connection.read_result()
}

/// Returns a file in memory with this content, to be passed as a descriptor.
pub fn memory_file(content: &[u8]) -> OwnedFd {
    let memory = std::fs::File::from(memfd_create("content", MemfdFlags::CLOEXEC).unwrap());
    (&memory).write_all(content).unwrap();
    memory.into()
}

/// Runs a command through a bridge's socket as the Ansible plugin does, with a memfd as its standard input. Returns the result.
pub fn exec_with_payload(socket: &Path, argv: &[&str], payload: &[u8]) -> io::Result<Value> {
    let memory = memory_file(payload);
    let mut connection = Connection::open(socket)?;
    let request = json!({"v": 1, "op": "exec", "argv": argv, "stdin": "fd"});
    connection.send_request(&request, &[std::os::fd::AsFd::as_fd(&memory)])?;
    connection.read_result()
}
