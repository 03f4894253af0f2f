//! Messages on a byte stream, each after its length as a varint. Owns the limits of what the other side may send.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use bytes::Bytes;
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Error;

/// Of this protocol, told by the caller.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes that a pipe with this stream in it had better hold, so that a message is passed on in few steps; Linux grants as many.
pub const PIPE_CAPACITY: usize = 1 << 20;
/// Longest message, bytes.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// A message is sent when it has so many bytes: each wakes everybody on its way, and compressed it is a small part of this.
pub(crate) const BATCH_SIZE: usize = 512 << 10;
/// Largest piece of content in one record.
pub(crate) const MAX_DATA: usize = 128 << 10;
/// Longest name of an entry, as Linux has it.
pub(crate) const MAX_NAME: usize = 255;
/// Deepest directory: so many descriptors are opened one after the other on the way to it.
pub(crate) const MAX_DEPTH: usize = 4096;
/// Entries that are announced and not yet compared. The sender stops there, so that it holds few names.
pub(crate) const ENTRY_WINDOW: usize = 8192;
/// Bytes of a file's extended attributes together: an entry is in one message.
pub(crate) const MAX_ATTRIBUTES: usize = 512 << 10;

#[derive(Debug)]
pub struct MessageReader<R> {
    stream: BufReader<R>,
}

impl<R: Read> MessageReader<R> {
    pub fn new(stream: R) -> Self {
        Self {
            stream: BufReader::with_capacity(BATCH_SIZE, stream),
        }
    }

    /// The next message; `Truncated` at the end of the stream.
    pub fn receive<M: Message + Default>(&mut self) -> Result<M, Error> {
        let length = self.read_length()?;
        let mut message = vec![0; length];
        self.read_bytes(&mut message)?;
        decode(message.into())
    }

    /// Something has come already: to receive it is not to wait for what the other side does next.
    pub(crate) fn can_receive_now(&mut self) -> bool
    where
        R: AsFd,
    {
        let at_once = Timespec::default();
        let stream = &mut [PollFd::new(self.stream.get_ref(), PollFlags::IN)];
        // Its end can be read, too, and is nothing more. If it cannot be asked, nothing is said to have come.
        !self.stream.buffer().is_empty()
            || poll(stream, Some(&at_once)).is_ok_and(|ready| ready > 0)
                && self.stream.fill_buf().is_ok_and(|more| !more.is_empty())
    }

    fn read_length(&mut self) -> Result<usize, Error> {
        let mut length = 0;
        // Three bytes hold 21 bits: more than the limit.
        for shift in [0, 7, 14] {
            let mut byte = [0];
            self.read_bytes(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 && length <= MAX_MESSAGE {
                return Ok(length);
            }
        }
        Err(Error::Protocol("a message is too long"))
    }

    fn read_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.stream.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::Truncated,
            _ => Error::Stream(error),
        })
    }
}

pub(crate) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Error> {
    M::decode(message).map_err(|_| Error::Protocol("a message cannot be decoded"))
}

#[derive(Debug)]
pub struct MessageWriter<W> {
    stream: W,
    buffer: Vec<u8>,
}

impl<W: Write> MessageWriter<W> {
    pub fn new(stream: W) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub fn send(&mut self, message: &impl Message) -> Result<(), Error> {
        self.buffer.clear();
        message
            .encode_length_delimited(&mut self.buffer)
            .map_err(|_| Error::Protocol("a message cannot be encoded"))?;
        self.stream.write_all(&self.buffer)?;
        self.stream.flush()?;
        Ok(())
    }
}
