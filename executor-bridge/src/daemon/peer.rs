//! The bridge's end of one client's connection: frames in both directions, file descriptors with the first byte, end of
//! file and hangup. Reads no more of a client than its part of the bridge's budget allows. `dispatch` makes one per connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use podbridge_proto::limits::MAX_PUTS;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::daemon::arrivals::has_gone;
use crate::daemon::hangup::Hangup;
use crate::protocol::frame::{Frame, FrameError, HEADER};
use crate::session::{Budget, ClientInput, Credit, InputShare};

/// Most bytes that are read of a request before its length is known.
const FIRST_READ: usize = 4 * 1024;
/// Most bytes of a frame that is not standard input: a signal or a size.
const MAX_CONTROL: usize = 16;
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
    #[error("no whole request came while too many clients waited; try again")]
    Late,
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

/// A request as it came.
#[derive(Debug)]
pub(super) struct ReceivedRequest {
    pub(super) json: Bytes,
    pub(super) descriptors: VecDeque<OwnedFd>,
    /// Held as long as the operation runs, which keeps the request.
    pub(super) credit: Option<Credit>,
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

    /// Returns whether the client has closed the connection.
    pub(super) fn has_gone(&self) -> bool {
        has_gone(&self.stream)
    }

    /// Reads the request and the descriptors that came with it. `late` ends when the client has to have sent it.
    pub(super) async fn request(
        &mut self,
        budget: &Budget,
        late: impl Future<Output = ()>,
    ) -> Result<ReceivedRequest, ClientError> {
        tokio::pin!(late);
        let mut descriptors = VecDeque::new();
        let mut credit = None;
        loop {
            if let Some(frame) = Frame::decode(&mut self.read)? {
                return match frame {
                    Frame::Request(json) => Ok(ReceivedRequest {
                        json,
                        descriptors,
                        credit,
                    }),
                    _ => Err(ClientError::NoRequest),
                };
            }
            if let Some(header) = self.read.first_chunk::<HEADER>()
                && credit.is_none()
            {
                let (_, length) = Frame::header(*header)?;
                credit = budget.request(length).await;
            }
            let stream = &self.stream;
            let mut buffer = [0u8; FIRST_READ];
            let received = stream.async_io(Interest::READABLE, || receive(stream, &mut buffer, &mut descriptors));
            let count = tokio::select! {
                biased;
                count = received => count?,
                () = &mut late => return Err(ClientError::Late),
            };
            if count == 0 {
                return Err(ClientError::Gone);
            }
            self.read.extend_from_slice(&buffer[..count]);
        }
    }

    /// Reads the frames after the request and queues them, until the client disconnects.
    pub(super) async fn forward(mut self, inputs: mpsc::UnboundedSender<ClientInput>, share: InputShare) {
        let last = match Hangup::new(&self.stream) {
            Ok(hangup) => tokio::select! {
                ended = self.forward_frames(&inputs, &share) => match ended {
                    // The client has closed its sending side only.
                    Ok(()) => {
                        hangup.wait().await;
                        ClientInput::Disconnected
                    }
                    Err(ClientError::Frame(error)) => ClientInput::ProtocolError(error.to_string()),
                    Err(error @ ClientError::NoRequest) => ClientInput::ProtocolError(error.to_string()),
                    Err(ClientError::Io(_) | ClientError::Gone | ClientError::Late) => ClientInput::Disconnected,
                },
                // A client that fills its share and then dies must still be noticed.
                () = hangup.wait() => ClientInput::Disconnected,
            },
            Err(_) => ClientInput::Disconnected,
        };
        // The receiver is gone if the operation has ended.
        let _ = inputs.send(last);
    }

    /// Queues the frames until the client has closed its sending side.
    async fn forward_frames(
        &mut self,
        inputs: &mpsc::UnboundedSender<ClientInput>,
        share: &InputShare,
    ) -> Result<(), ClientError> {
        let send = |input| inputs.send(input).map_err(|_| ClientError::Gone);
        let mut header = BytesMut::with_capacity(HEADER);
        loop {
            if !self.fill(&mut header, HEADER).await? {
                return Ok(());
            }
            let Some(first) = header.first_chunk::<HEADER>() else {
                return Ok(());
            };
            let (is_stdin, mut left) = Frame::header(*first)?;
            if is_stdin {
                loop {
                    // Before the bytes are read: what the bridge may not hold stays in the client's socket.
                    let credit = share.charge(left).await;
                    let length = credit.bytes().min(left);
                    let mut data = BytesMut::with_capacity(length);
                    if length > 0 && !self.fill(&mut data, length).await? {
                        return Ok(());
                    }
                    left -= length;
                    send(ClientInput::Stdin(data.freeze(), credit))?;
                    if left == 0 {
                        break;
                    }
                }
                header.clear();
                continue;
            }
            if left > MAX_CONTROL {
                return Err(ClientError::NoRequest);
            }
            let credit = share.charge(left).await;
            if left > 0 && !self.fill(&mut header, HEADER + left).await? {
                return Ok(());
            }
            send(match Frame::decode(&mut header)? {
                Some(Frame::StdinEof) => ClientInput::StdinEof(credit),
                Some(Frame::Signal(number)) => ClientInput::Signal(number, credit),
                Some(Frame::Resize { rows, cols }) => ClientInput::Resize { rows, cols, credit },
                _ => return Err(ClientError::NoRequest),
            })?;
            header.clear();
        }
    }

    /// Reads until `buffer` has `length` bytes, and no more. `false`: the client has closed its sending side.
    async fn fill(&mut self, buffer: &mut BytesMut, length: usize) -> Result<bool, ClientError> {
        // Bytes that came together with the request.
        let early = self.read.len().min(length - buffer.len());
        buffer.extend_from_slice(&self.read.split_to(early));
        while buffer.len() < length {
            let missing = length - buffer.len();
            match self.stream.try_read_buf(&mut (&mut *buffer).limit(missing)) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
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
