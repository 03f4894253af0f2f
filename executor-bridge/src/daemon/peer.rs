//! The bridge's end of one client's connection: frames in both directions, file descriptors with the first byte, end of
//! file and hangup. Limits the input that a client can make the bridge hold. `dispatch` makes one per connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use podbridge_proto::limits::MAX_PUTS;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};

use crate::daemon::hangup::Hangup;
use crate::protocol::STDIN_WINDOW;
use crate::protocol::frame::{Frame, FrameError};
use crate::session::{ClientInput, InputCredit};

/// Most input that is held per client, bytes. A client that respects its window never reaches it; another one is not
/// read until its input is consumed.
const MAX_PENDING: usize = 2 * STDIN_WINDOW;
/// Least size that a frame counts as, bytes: empty frames must not pile up either.
const FRAME_COST: usize = 256;
/// Most descriptors of one request: stdin, stdout, stderr, and the files that a command brings along.
const MAX_DESCRIPTORS: usize = 3 + MAX_PUTS;

/// Why a client cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the client's connection failed")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the first frame must be a request")]
    NoRequest,
    #[error("the client went away")]
    Gone,
}

/// The sending side. One task owns it.
#[derive(Debug)]
pub(super) struct Writer(Arc<UnixStream>);

impl Writer {
    /// Sends one frame.
    pub(super) async fn send(&mut self, frame: Frame) -> io::Result<()> {
        let (header, mut payload) = frame.encode();
        let mut header = &header[..];
        while header.has_remaining() || payload.has_remaining() {
            self.0.writable().await?;
            let parts = [IoSlice::new(header), IoSlice::new(&payload)];
            match self.0.try_write_vectored(&parts) {
                Ok(written) => {
                    let of_header = written.min(header.len());
                    header.advance(of_header);
                    payload.advance(written - of_header);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Arc<UnixStream>,
    read: BytesMut,
}

/// Splits a connection into its two sides.
pub(super) fn split(stream: UnixStream) -> (Reader, Writer) {
    let stream = Arc::new(stream);
    let reader = Reader {
        stream: stream.clone(),
        read: BytesMut::new(),
    };
    (reader, Writer(stream))
}

impl Reader {
    /// Returns whether nothing was read from the socket yet.
    pub(super) fn is_unread(&self) -> bool {
        self.read.is_empty()
    }

    /// Reads the request and the descriptors that came with it.
    pub(super) async fn request(&mut self) -> Result<(Bytes, VecDeque<OwnedFd>), ClientError> {
        let mut descriptors = VecDeque::new();
        loop {
            if let Some(frame) = Frame::decode(&mut self.read)? {
                return match frame {
                    Frame::Request(json) => Ok((json, descriptors)),
                    _ => Err(ClientError::NoRequest),
                };
            }
            let stream = &self.stream;
            let mut buffer = [0u8; 16 * 1024];
            let count = stream
                .async_io(Interest::READABLE, || receive(stream, &mut buffer, &mut descriptors))
                .await?;
            if count == 0 {
                return Err(ClientError::Gone);
            }
            self.read.extend_from_slice(&buffer[..count]);
        }
    }

    /// Reads the frames after the request and queues them, until the client disconnects.
    pub(super) async fn forward(mut self, inputs: mpsc::UnboundedSender<ClientInput>) {
        let last = match self.forward_frames(&inputs).await {
            Ok(()) => ClientInput::Disconnected,
            Err(ClientError::Frame(error)) => ClientInput::ProtocolError(error.to_string()),
            Err(error @ ClientError::NoRequest) => ClientInput::ProtocolError(error.to_string()),
            Err(ClientError::Io(_) | ClientError::Gone) => ClientInput::Disconnected,
        };
        // The receiver is gone if the operation has ended.
        let _ = inputs.send(last);
    }

    async fn forward_frames(&mut self, inputs: &mpsc::UnboundedSender<ClientInput>) -> Result<(), ClientError> {
        let pending = Arc::new(Semaphore::new(MAX_PENDING));
        let hangup = Hangup::new(&self.stream)?;
        let mut at_eof = false;
        loop {
            while let Some(frame) = Frame::decode(&mut self.read)? {
                let cost = match &frame {
                    Frame::Stdin(data) => data.len().max(FRAME_COST),
                    _ => FRAME_COST,
                };
                let credit = tokio::select! {
                    biased;
                    credit = pending.clone().acquire_many_owned(cost as u32) => credit.map_err(|_| ClientError::Gone)?,
                    // A client that fills its window and then dies must still be noticed.
                    () = hangup.wait() => return Ok(()),
                };
                let credit = InputCredit::new(credit);
                let input = match frame {
                    Frame::Stdin(data) => ClientInput::Stdin(data, credit),
                    Frame::StdinEof => ClientInput::StdinEof(credit),
                    Frame::Signal(number) => ClientInput::Signal(number, credit),
                    Frame::Resize { rows, cols } => ClientInput::Resize { rows, cols, credit },
                    _ => return Err(ClientError::NoRequest),
                };
                if inputs.send(input).is_err() {
                    return Ok(());
                }
            }
            if at_eof {
                hangup.wait().await;
                return Ok(());
            }
            self.stream.readable().await?;
            self.read.reserve(64 * 1024);
            match self.stream.try_read_buf(&mut self.read) {
                Ok(0) => at_eof = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads bytes and the descriptors that come with them.
fn receive(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    // The descriptors beyond the limit are closed here.
    descriptors.truncate(MAX_DESCRIPTORS);
    Ok(received.bytes)
}
