//! The client of one operation: its input, the channel of its replies, and its flow control. `daemon` makes one per
//! request, and the operations of `session` use it. Knows no connection and no frame layout.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::error::FailedKind;
use crate::protocol::frame::Frame;
use crate::protocol::result::Outcome;

/// A message that the client sends after its request.
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

/// Part of the client's flow-control window. The window opens again when the input is consumed and this guard is
/// dropped.
#[derive(Debug)]
pub(crate) struct InputCredit(#[allow(dead_code)] OwnedSemaphorePermit);

impl InputCredit {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(permit)
    }
}

/// The client as an operation sees it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) inputs: mpsc::UnboundedReceiver<ClientInput>,
    /// Replies to the client. Bounded: a slow client slows only its own operation down. Closed: the client
    /// disconnected.
    pub(crate) replies: mpsc::Sender<Frame>,
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
pub(crate) fn bad_request(why: impl Into<String>) -> Outcome {
    Outcome::failed(FailedKind::BadRequest, why)
}
