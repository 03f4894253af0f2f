//! Frames of the client protocol: `u32` big-endian length, `u8` type, payload. Owns their limits and does no I/O: `client` and `daemon` read
//! from sockets and pass the bytes to `Frame::decode`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Highest number of bytes after the length field; the type is one of them.
pub(crate) const MAX_LENGTH: usize = 1 << 20;
/// Number of bytes of the length field and the type.
pub(crate) const HEADER: usize = 5;

/// One frame; docs/client-protocol.md says who sends which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Request(Bytes),
    Stdin(Bytes),
    StdinEof,
    Signal(u8),
    Resize {
        rows: u16,
        cols: u16,
    },
    Started(Bytes),
    Stdout(Bytes),
    Stderr(Bytes),
    StdinAck {
        offset: u64,
        closed: bool,
    },
    Agent(Bytes),
    /// A sentence for the user while the operation waits; only for clients that ask for it.
    Notice(Bytes),
    Result(Bytes),
}

/// Reason why bytes are no frame; the connection cannot be used after it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("a frame of {0} bytes is longer than the allowed {MAX_LENGTH}")]
    TooLong(usize),
    #[error("a frame has no type")]
    Empty,
    #[error("frame type {0:#04x} is unknown")]
    UnknownType(u8),
    #[error("frame type {0:#04x} has a payload of the wrong length")]
    BadPayload(u8),
}

mod kind {
    pub(super) const REQUEST: u8 = 0x01;
    pub(super) const STDIN: u8 = 0x02;
    pub(super) const STDIN_EOF: u8 = 0x03;
    pub(super) const SIGNAL: u8 = 0x04;
    pub(super) const RESIZE: u8 = 0x05;
    pub(super) const STARTED: u8 = 0x10;
    pub(super) const STDOUT: u8 = 0x11;
    pub(super) const STDERR: u8 = 0x12;
    pub(super) const STDIN_ACK: u8 = 0x13;
    pub(super) const AGENT: u8 = 0x14;
    pub(super) const NOTICE: u8 = 0x15;
    pub(super) const RESULT: u8 = 0x1f;
}

impl Frame {
    /// Returns header and payload apart, so that large payloads are not copied.
    pub(crate) fn encode(self) -> ([u8; HEADER], Bytes) {
        let (kind, payload) = match self {
            Frame::Request(json) => (kind::REQUEST, json),
            Frame::Stdin(data) => (kind::STDIN, data),
            Frame::StdinEof => (kind::STDIN_EOF, Bytes::new()),
            Frame::Signal(number) => (kind::SIGNAL, Bytes::copy_from_slice(&[number])),
            Frame::Resize { rows, cols } => {
                let mut payload = BytesMut::with_capacity(4);
                payload.put_u16(rows);
                payload.put_u16(cols);
                (kind::RESIZE, payload.freeze())
            }
            Frame::Started(json) => (kind::STARTED, json),
            Frame::Stdout(data) => (kind::STDOUT, data),
            Frame::Stderr(data) => (kind::STDERR, data),
            Frame::StdinAck { offset, closed } => {
                let mut payload = BytesMut::with_capacity(9);
                payload.put_u64(offset);
                payload.put_u8(closed.into());
                (kind::STDIN_ACK, payload.freeze())
            }
            Frame::Agent(json) => (kind::AGENT, json),
            Frame::Notice(text) => (kind::NOTICE, text),
            Frame::Result(json) => (kind::RESULT, json),
        };
        let length = (payload.len() + 1) as u32;
        let [a, b, c, d] = length.to_be_bytes();
        ([a, b, c, d, kind], payload)
    }

    /// Tells from a header whether a frame of standard input begins, and how many bytes follow the header. The length is checked here.
    pub(crate) fn header(header: [u8; HEADER]) -> Result<(bool, usize), FrameError> {
        let [a, b, c, d, kind] = header;
        match u32::from_be_bytes([a, b, c, d]) as usize {
            0 => Err(FrameError::Empty),
            length if length > MAX_LENGTH => Err(FrameError::TooLong(length)),
            length => Ok((kind == kind::STDIN, length - 1)),
        }
    }

    /// Takes one frame from the front of the bytes that were read; `None` until the frame is complete.
    pub(crate) fn decode(read: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(prefix) = read.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        // The length is checked before the frame is complete: nobody waits for a hostile length.
        if length > MAX_LENGTH {
            return Err(FrameError::TooLong(length));
        }
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if read.len() < 4 + length {
            read.reserve(4 + length - read.len());
            return Ok(None);
        }
        read.advance(4);
        let mut payload = read.split_to(length).freeze();
        let kind = payload.get_u8();
        let wrong = Err(FrameError::BadPayload(kind));
        let frame = match kind {
            kind::REQUEST => Frame::Request(payload),
            kind::STDIN => Frame::Stdin(payload),
            kind::STDIN_EOF if payload.is_empty() => Frame::StdinEof,
            kind::SIGNAL if payload.len() == 1 => Frame::Signal(payload[0]),
            kind::RESIZE if payload.len() == 4 => Frame::Resize {
                rows: payload.get_u16(),
                cols: payload.get_u16(),
            },
            kind::STARTED => Frame::Started(payload),
            kind::STDOUT => Frame::Stdout(payload),
            kind::STDERR => Frame::Stderr(payload),
            kind::STDIN_ACK if payload.len() == 9 => Frame::StdinAck {
                offset: payload.get_u64(),
                closed: payload[0] != 0,
            },
            kind::AGENT => Frame::Agent(payload),
            kind::NOTICE => Frame::Notice(payload),
            kind::RESULT => Frame::Result(payload),
            kind::STDIN_EOF | kind::SIGNAL | kind::RESIZE | kind::STDIN_ACK => return wrong,
            other => return Err(FrameError::UnknownType(other)),
        };
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(frame: Frame) -> BytesMut {
        let (header, payload) = frame.encode();
        BytesMut::from([&header[..], &payload].concat().as_slice())
    }

    #[test]
    fn an_encoded_frame_decodes_to_itself() {
        let frames = [
            Frame::Request("{}".into()),
            Frame::Stdin("x".into()),
            Frame::StdinEof,
            Frame::Signal(15),
            Frame::Resize { rows: 50, cols: 132 },
            Frame::Started("{}".into()),
            Frame::Stdout(Bytes::new()),
            Frame::Stderr("e".into()),
            Frame::StdinAck {
                offset: 1 << 40,
                closed: true,
            },
            Frame::Notice("code".into()),
            Frame::Result("{}".into()),
        ];
        for frame in frames {
            let mut wire = bytes(frame.clone());
            assert_eq!(Frame::decode(&mut wire), Ok(Some(frame)));
            assert!(wire.is_empty());
        }
    }

    #[test]
    fn bytes_on_the_wire_are_as_documented() {
        assert_eq!(bytes(Frame::Stdin("ab".into()))[..], *b"\0\0\0\x03\x02ab");
        assert_eq!(
            bytes(Frame::Resize { rows: 1, cols: 2 })[..],
            *b"\0\0\0\x05\x05\0\x01\0\x02"
        );
    }

    #[test]
    fn a_frame_that_arrives_byte_by_byte_is_decoded_when_it_is_complete() {
        let complete = bytes(Frame::Stdin("hello".into()));
        let mut read = BytesMut::new();
        for (index, byte) in complete.iter().enumerate() {
            assert_eq!(Frame::decode(&mut read), Ok(None), "after {index} bytes");
            read.put_u8(*byte);
        }
        assert_eq!(Frame::decode(&mut read), Ok(Some(Frame::Stdin("hello".into()))));
    }

    #[test]
    fn invalid_bytes_are_refused_without_waiting_for_more() {
        let decode = |bytes: &[u8]| Frame::decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(b"GET / HTTP/1.1"), Err(FrameError::TooLong(0x4745_5420)));
        assert_eq!(decode(b"\0\x10\0\x01"), Err(FrameError::TooLong(MAX_LENGTH + 1)));
        assert_eq!(decode(b"\0\0\0\0"), Err(FrameError::Empty));
        assert_eq!(decode(b"\0\0\0\x01\x77"), Err(FrameError::UnknownType(0x77)));
        assert_eq!(decode(b"\0\0\0\x01\x04"), Err(FrameError::BadPayload(0x04)));
    }
}
