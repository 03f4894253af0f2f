//! Asks a running bridge one question without output. The subcommands `status` and `stop` use it.

use std::path::Path;
use std::time::Duration;

use crate::client::connection::Message;
use crate::client::conversation::{Conversation, begin_existing};
use crate::error::{Failure, Kind};
use crate::protocol::request::Request;
use crate::protocol::result::Outcome;

/// Time limit for the answer; a healthy bridge answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the bridge's answer; `None` if no bridge listens on the socket. `Err` also if the bridge does not answer within the time limit.
pub(crate) async fn ask(socket: &Path, request: &Request) -> Result<Option<Outcome>, Failure> {
    let answer = async {
        match begin_existing(socket, request).await? {
            Some(conversation) => Ok(receive_result(conversation).await),
            None => Ok(None),
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| {
        let sentence = format!("the bridge on {} does not answer; kill its process", socket.display());
        Err(Failure::new(Kind::Bridge, sentence))
    })
}

/// Waits for the result of an operation that has no output; `None` if the bridge ended without taking the request.
async fn receive_result(mut conversation: Conversation) -> Option<Outcome> {
    loop {
        match conversation.incoming.next().await {
            Message::Lost(Outcome::Unreachable(_)) => return None,
            Message::Result(outcome) | Message::Lost(outcome) => return Some(outcome),
            Message::Started | Message::Stdout(_) | Message::Stderr(_) => {}
        }
    }
}
