//! Messages on a byte stream, each preceded by its length as a varint. Owns the limits of what the other side may send. Sender and
//! receiver read and write only through it.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use bytes::Bytes;
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Error;

/// Version of the tree protocol; the caller sends it in TreeOpen.
pub const PROTOCOL_VERSION: u32 = 1;
/// Recommended capacity of a pipe that carries the stream, bytes: a message then passes in few steps. Linux grants it to any user
/// (pipe(7), pipe-max-size).
pub const PIPE_CAPACITY: usize = 1 << 20;
/// Longest message, bytes.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// Size from which a message is sent, bytes. Each message wakes every process on its way, and compression leaves a small part of it.
pub(crate) const BATCH_SIZE: usize = 512 << 10;
/// Most content in one record, bytes.
pub(crate) const MAX_DATA: usize = 128 << 10;
/// Longest name of an entry, bytes: NAME_MAX of Linux.
pub(crate) const MAX_NAME: usize = 255;
/// Deepest directory. To open it, one file descriptor after the other is opened for each level above it.
pub(crate) const MAX_DEPTH: usize = 4096;
/// Most files that the sender announced and the receiver has not compared. The sender then waits, so that it holds few names.
pub(crate) const ENTRY_WINDOW: usize = 8192;
/// Most bytes of extended attributes of the files that the sender announced and the receiver has not compared. The sender then waits, too.
pub(crate) const ATTRIBUTE_WINDOW: usize = 4 << 20;
/// Most bytes of one file's extended attributes together, because an entry must fit into one message.
pub(crate) const MAX_ATTRIBUTES: usize = 512 << 10;
/// Bytes that an extended attribute counts beside its name and value.
pub(crate) const ATTRIBUTE_COST: usize = 16;

/// Reads messages from a stream.
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

    /// Waits for the next message. `Err` is `Truncated` at the end of the stream.
    pub fn receive<M: Message + Default>(&mut self) -> Result<M, Error> {
        decode(self.receive_bytes()?)
    }

    /// Waits for the next message, which is not decoded.
    pub(crate) fn receive_bytes(&mut self) -> Result<Bytes, Error> {
        let length = self.read_length()?;
        let mut message = vec![0; length];
        self.read_bytes(&mut message)?;
        Ok(message.into())
    }

    /// Returns whether input is readable now, so that `receive` starts on data that the other side has already sent.
    pub(crate) fn can_receive_now(&mut self) -> bool
    where
        R: AsFd,
    {
        let at_once = Timespec::default();
        let stream = &mut [PollFd::new(self.stream.get_ref(), PollFlags::IN)];
        // The end of the stream is readable as well, but is no input. An error counts as no input.
        !self.stream.buffer().is_empty()
            || poll(stream, Some(&at_once)).is_ok_and(|ready| ready > 0)
                && self.stream.fill_buf().is_ok_and(|more| !more.is_empty())
    }

    /// Reads the length of the next message. `Err` if it exceeds the largest message.
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

/// Writes messages to a stream, each flushed.
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
