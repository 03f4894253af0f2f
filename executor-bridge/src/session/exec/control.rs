//! Signals and terminal sizes of one exec, sent to the agent in order. `run` starts `send` as a task.

use std::sync::Arc;

use bytes::Bytes;
use podbridge_proto::v1::{ResizeRequest, SignalRequest};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::connections::{Connection, provably_not_sent, status};
use crate::protocol::request::Size;
use crate::session::budget::InputCredit;
use crate::session::exec::prepare::pty_size;

/// A signal, or a new size of the terminal.
pub(crate) enum ControlMessage {
    Signal(u8),
    Resize(Size),
}

/// Sends the queued messages, each at most once. A message that may have arrived before the link broke is not repeated;
/// one that provably was not sent waits for the next link.
pub(crate) async fn send(
    id: [u8; 16],
    mut links: watch::Receiver<Option<Arc<Connection>>>,
    mut controls: mpsc::UnboundedReceiver<(ControlMessage, InputCredit)>,
) {
    while let Some((control, _credit)) = controls.recv().await {
        loop {
            let Some(connection) = links.borrow_and_update().clone() else {
                match links.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            match call(&connection, id, &control).await {
                Ok(()) => break,
                Err(status) if provably_not_sent(&status) => {
                    if links.changed().await.is_err() {
                        return;
                    }
                }
                Err(status) => {
                    // Most likely the command has ended meanwhile. Its exit record then comes with the events.
                    tracing::debug!(error = status::message(&status), "signal or size not delivered");
                    break;
                }
            }
        }
    }
}

/// Sends one message over one connection.
async fn call(connection: &Connection, id: [u8; 16], control: &ControlMessage) -> Result<(), Status> {
    let mut exec = connection.exec();
    let exec_id = Bytes::copy_from_slice(&id);
    match control {
        ControlMessage::Signal(number) => {
            let request = SignalRequest {
                exec_id,
                signal: (*number).into(),
                ..SignalRequest::default()
            };
            exec.signal(request).await.map(drop)
        }
        ControlMessage::Resize(wanted) => {
            let size = Some(pty_size(*wanted));
            exec.resize(ResizeRequest { exec_id, size }).await.map(drop)
        }
    }
}
