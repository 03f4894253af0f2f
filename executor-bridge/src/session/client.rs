//! The client as an operation sees it: its input, the replies to it, its file descriptors, and its part of the bridge's budget. `daemon`
//! makes one for each request.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{mpsc, oneshot};

use crate::error::FailedKind;
use crate::protocol::frame::Frame;
use crate::protocol::result::Outcome;
use crate::session::budget::{Budget, Credit, InputCredit, InputShare};

/// One input of the client.
#[derive(Debug)]
pub(crate) enum ClientInput {
    Stdin(Bytes, InputCredit),
    StdinEof(#[expect(dead_code, reason = "counts until it is dropped")] InputCredit),
    Signal(u8, InputCredit),
    Resize {
        rows: u16,
        cols: u16,
        credit: InputCredit,
    },
    /// The client closed its connection: the operation is cancelled.
    Disconnected,
    /// The client broke the protocol: the operation is cancelled with this message.
    ProtocolError(String),
}

/// A frame for the client, with the budget that it holds until it is written.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) frame: Frame,
    pub(crate) credit: Option<Credit>,
}

impl From<Frame> for Reply {
    fn from(frame: Frame) -> Self {
        Self { frame, credit: None }
    }
}

/// Replies to the client. Bounded: a slow client slows only its own operation down. Closed: the client disconnected.
#[derive(Debug, Clone)]
pub(crate) struct Replies {
    pub(crate) queue: mpsc::Sender<Reply>,
    pub(crate) budget: Budget,
}

impl Replies {
    /// Sends a short frame; an error means that the client disconnected.
    pub(crate) async fn send(&self, frame: Frame) -> Result<(), SendError<Reply>> {
        self.queue.send(frame.into()).await
    }

    /// Waits for space in the queue.
    pub(crate) async fn reserve(&self) -> Result<mpsc::Permit<'_, Reply>, SendError<()>> {
        self.queue.reserve().await
    }

    /// Takes the next piece of data from its front, and makes a frame of it.
    pub(crate) fn piece(&self, data: &mut Bytes, frame: fn(Bytes) -> Frame) -> Reply {
        let (piece, credit) = self.budget.reply(data);
        Reply {
            frame: frame(piece),
            credit,
        }
    }
}

/// The client as an operation sees it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) inputs: mpsc::UnboundedReceiver<ClientInput>,
    pub(crate) replies: Replies,
    /// What the bridge may hold of the client's input, in frames and from its descriptors.
    pub(crate) share: InputShare,
    /// File descriptors that came with the request, in order.
    pub(crate) descriptors: VecDeque<OwnedFd>,
    /// Completes when the client has its result, or when the result can no longer be delivered.
    pub(crate) result_delivered: oneshot::Receiver<()>,
}

/// Waits until the client disconnects or breaks the protocol; returns the outcome. For operations that take no input.
pub(crate) async fn wait_for_cancel(inputs: &mut mpsc::UnboundedReceiver<ClientInput>) -> Outcome {
    loop {
        match inputs.recv().await {
            Some(ClientInput::Disconnected) | None => return Outcome::Cancelled(Default::default()),
            Some(ClientInput::ProtocolError(why)) => return bad_request(why),
            Some(
                ClientInput::Stdin(..)
                | ClientInput::StdinEof(_)
                | ClientInput::Signal(..)
                | ClientInput::Resize { .. },
            ) => {}
        }
    }
}

/// Makes the outcome of a request that the bridge cannot accept.
pub(crate) fn bad_request(why: impl AsRef<str>) -> Outcome {
    Outcome::failed(FailedKind::BadRequest, why)
}
