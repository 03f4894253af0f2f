//! The server's end of a WebSocket with the subprotocol v5.channel.k8s.io, written by hand so that it can break every rule. `api_server`
//! makes one for each exec; the rows use it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use data_encoding::BASE64;
use sha1::{Digest as _, Sha1};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

/// Operations of RFC 6455.
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// The header's `Sec-WebSocket-Accept` for the client's key.
fn accept_key(key: &str) -> String {
    BASE64.encode(&Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
}

/// Returns the answer to a request that asks for a WebSocket with this key.
fn answer(key: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
        accept_key(key)
    )
}

/// Reads a frame of a client; returns its operation and its payload.
fn read_frame(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 2];
    stream.read_exact(&mut header)?;
    let length = match header[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            usize::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length)?;
            u64::from_be_bytes(length) as usize
        }
        length => usize::from(length),
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((header[0] & 0x0f, payload))
}

/// One open WebSocket. What comes from the bridge is read and forgotten.
#[derive(Debug)]
pub(super) struct WebSocket(TcpStream);

impl WebSocket {
    /// Answers the request that asked for a WebSocket.
    pub(super) fn accept(mut stream: TcpStream, key: &str) -> io::Result<Self> {
        stream.write_all(answer(key).as_bytes())?;
        let mut incoming = stream.try_clone()?;
        thread::spawn(move || io::copy(&mut incoming, &mut io::sink()));
        Ok(Self(stream))
    }

    /// Answers the request that asked for a WebSocket, prints `magic`, and then is a pipe to the agent on this socket until one of both
    /// ends. Unlike the others it reads what the bridge sends.
    pub(super) fn relay(mut stream: TcpStream, key: &str, magic: &[u8], agent: &Path) -> io::Result<()> {
        stream.write_all(answer(key).as_bytes())?;
        let mut to_agent = UnixStream::connect(agent)?;
        let mut from_agent = to_agent.try_clone()?;
        let mut socket = Self(stream.try_clone()?);
        socket.stdout(magic)?;
        thread::spawn(move || {
            let mut buffer = vec![0; 60_000];
            while let Ok(count @ 1..) = from_agent.read(&mut buffer) {
                if socket.stdout(&buffer[..count]).is_err() {
                    break;
                }
            }
            // The bridge may have closed.
            let _ = socket.0.shutdown(Shutdown::Both);
        });
        let sent = (|| -> io::Result<()> {
            loop {
                let (operation, payload) = read_frame(&mut stream)?;
                match (operation, payload.split_first()) {
                    (BINARY, Some((&STDIN, data))) => to_agent.write_all(data)?,
                    (CLOSE, _) => return Ok(()),
                    _ => {}
                }
            }
        })();
        to_agent.shutdown(Shutdown::Both)?;
        sent
    }

    /// Sends a frame. `first` is its first byte: flags and operation.
    pub(super) fn frame(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        self.header(first, payload.len() as u64)?;
        self.0.write_all(payload)
    }

    /// Sends the header of a frame of this length.
    pub(super) fn header(&mut self, first: u8, length: u64) -> io::Result<()> {
        let mut header = vec![first];
        match length {
            0..126 => header.push(length as u8),
            126..0x1_0000 => {
                header.push(126);
                header.extend((length as u16).to_be_bytes());
            }
            _ => {
                header.push(127);
                header.extend(length.to_be_bytes());
            }
        }
        self.0.write_all(&header)
    }

    fn channel(&mut self, channel: u8, data: &[u8]) -> io::Result<()> {
        self.frame(0x80 | BINARY, &[&[channel], data].concat())
    }

    pub(super) fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        self.channel(STDOUT, data)
    }

    pub(super) fn stderr(&mut self, data: &[u8]) -> io::Result<()> {
        self.channel(STDERR, data)
    }

    pub(super) fn text(&mut self, data: &[u8]) -> io::Result<()> {
        self.frame(0x80 | TEXT, data)
    }

    /// Sends the status and ends the WebSocket.
    pub(super) fn end(&mut self, status: &str) -> io::Result<()> {
        self.channel(STATUS, status.as_bytes())?;
        self.close(1000)
    }

    pub(super) fn close(&mut self, code: u16) -> io::Result<()> {
        self.frame(0x80 | CLOSE, &code.to_be_bytes())
    }

    /// Sends nothing more, until the bridge closes.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        // Only one of two readers gets the end, so this looks whether it is over.
        while self.0.take_error()?.is_none() && self.0.peer_addr().is_ok() && !self.is_closed() {
            thread::sleep(Duration::from_millis(20)); // nothing announces it here
        }
        Ok(())
    }

    /// Tells whether the bridge has closed its end.
    fn is_closed(&self) -> bool {
        // An empty ping, which the bridge answers; the write fails after a reset.
        (&self.0).write_all(&[0x89, 0]).is_err()
    }
}
