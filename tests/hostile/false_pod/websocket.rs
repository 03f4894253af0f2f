//! The server's end of a WebSocket with the subprotocol v5.channel.k8s.io, written by hand so that it can break every rule. `api_server`
//! makes one for each exec; the rows use it.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use data_encoding::BASE64;
use sha1::{Digest as _, Sha1};

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

/// One open WebSocket. What comes from the bridge is read and forgotten.
#[derive(Debug)]
pub(super) struct WebSocket(TcpStream);

impl WebSocket {
    /// Answers the request that asked for a WebSocket.
    pub(super) fn accept(mut stream: TcpStream, key: &str) -> io::Result<Self> {
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
             Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
            accept_key(key)
        );
        stream.write_all(answer.as_bytes())?;
        let mut incoming = stream.try_clone()?;
        thread::spawn(move || io::copy(&mut incoming, &mut io::sink()));
        Ok(Self(stream))
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
