//! A client of HTTP/2 written by hand, so that it can break every rule of the protocol (RFC 9113). The tables of rows use it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use prost::Message;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// Flags of frames.
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// Numbers of settings.
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Largest payload that a receiver takes before it says otherwise.
pub(super) const MAX_PAYLOAD: usize = 16 << 10;
/// An attacker does not wait for a server that reads nothing.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection to an agent. The drop closes it.
#[derive(Debug)]
pub(super) struct Http2(UnixStream);

impl Http2 {
    /// Connects and sends the preface, and settings that the server acknowledges.
    pub(super) fn open(socket: &Path) -> io::Result<Self> {
        Self::open_with(socket, &[])
    }

    /// Does what [`Http2::open`] does, with these settings.
    pub(super) fn open_with(socket: &Path, settings: &[(u16, u32)]) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Self(stream);
        connection.write(PREFACE)?;
        connection.settings(settings)?;
        Ok(connection)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.write(&frame(kind, flags, stream, payload))
    }

    pub(super) fn settings(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        let payload = settings.iter().flat_map(|(name, value)| {
            let (name, value) = (name.to_be_bytes(), value.to_be_bytes());
            name.into_iter().chain(value)
        });
        self.frame(SETTINGS, 0, 0, &payload.collect::<Vec<_>>())
    }

    /// Begins a call on a stream.
    pub(super) fn begin_call(&mut self, stream: u32, path: &str) -> io::Result<()> {
        self.frame(HEADERS, END_HEADERS, stream, &call_headers(path))
    }

    /// Calls with one message.
    pub(super) fn call(&mut self, stream: u32, path: &str, message: &impl Message) -> io::Result<()> {
        self.begin_call(stream, path)?;
        self.frame(DATA, END_STREAM, stream, &grpc(message))
    }

    /// Calls with one message, on a connection that has had no call; returns the answer.
    pub(super) fn ask<A: Message + Default>(mut self, path: &str, message: &impl Message) -> io::Result<A> {
        self.call(1, path, message)?;
        let mut answer = Vec::new();
        loop {
            let mut header = [0; 9];
            self.0.read_exact(&mut header)?;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload)?;
            if header[3] == DATA {
                answer.extend(payload);
            }
            if matches!(header[3], DATA | HEADERS) && header[4] & END_STREAM != 0 {
                let message = answer.get(5..).ok_or(io::ErrorKind::UnexpectedEof)?;
                return A::decode(message).map_err(io::Error::other);
            }
        }
    }

    /// Reads and forgets what comes, on a thread that ends with the connection.
    pub(super) fn drain(&self) {
        let mut incoming = self.0.try_clone().unwrap();
        incoming.set_read_timeout(None).unwrap();
        thread::spawn(move || io::copy(&mut incoming, &mut io::sink()));
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        // Also for the thread that drains it. The server may have closed.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns a message as gRPC frames it.
pub(super) fn grpc(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message].concat()
}

/// Returns the header block of a gRPC call.
pub(super) fn call_headers(path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "agent"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers
        .iter()
        .flat_map(|(name, value)| literal(0, name.as_bytes(), value.as_bytes()))
        .collect()
}

/// Returns a header as a literal (RFC 7541, section 6.2). `form` is 0x40 for one that the receiver keeps in its table, 0 for others.
pub(super) fn literal(form: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![form];
    for text in [name, value] {
        length(&mut field, text.len());
        field.extend(text);
    }
    field
}

/// Appends a length with a prefix of seven bits (RFC 7541, section 5.1).
fn length(field: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        field.push(length as u8);
        return;
    }
    field.push(127);
    length -= 127;
    while length >= 128 {
        field.push((length % 128 + 128) as u8);
        length /= 128;
    }
    field.push(length as u8);
}
