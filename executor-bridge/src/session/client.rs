//! The client of one operation: what it sends, where its replies go, and how much it may have in flight. `daemon` makes one per
//! request; the operations of `session` use it. Knows no connection and no frame layout.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::error::FailedKind;
use crate::protocol::frame::Frame;
use crate::protocol::result::Outcome;

/// What a client says after its request.
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
    /// Closed the connection: cancel.
    Disconnected,
    /// Broke the protocol: cancel, and say so.
    ProtocolError(String),
}

/// What an input weighs in its client's allowance, until it was dealt with.
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
    /// Bounded: a slow client slows its own operation down. Closed: it has gone.
    pub(crate) replies: mpsc::Sender<Frame>,
    pub(crate) descriptors: VecDeque<OwnedFd>,
    /// Ends when the client has its result, or nobody will tell it any more.
    pub(crate) result_delivered: oneshot::Receiver<()>,
}

/// Ends when the client gives up; for operations that take no input.
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

pub(crate) fn bad_request(why: impl Into<String>) -> Outcome {
    Outcome::failed(FailedKind::BadRequest, why)
}
