//! A question to a bridge that runs, and its answer.

use std::path::Path;
use std::time::Duration;

use crate::client::connection::Message;
use crate::client::conversation::{Conversation, begin_existing};
use crate::error::{Failure, Kind};
use crate::protocol::request::Request;
use crate::protocol::result::Outcome;

/// A bridge that is well answers at once.
const ANSWER: Duration = Duration::from_secs(5);

/// What a bridge that runs answers to that: `None` if none runs. One that says nothing is not waited for long.
pub(crate) async fn ask(socket: &Path, request: &Request) -> Result<Option<Outcome>, Failure> {
    let asked = async {
        match begin_existing(socket, request).await? {
            Some(conversation) => Ok(Some(result(conversation).await)),
            None => Ok(None),
        }
    };
    tokio::time::timeout(ANSWER, asked).await.unwrap_or_else(|_| {
        let sentence = format!("the bridge at {} does not answer; end its process", socket.display());
        Err(Failure::new(Kind::Bridge, sentence))
    })
}

/// The result of an operation without output.
async fn result(mut conversation: Conversation) -> Outcome {
    loop {
        match conversation.incoming.next().await {
            Message::Result(outcome) | Message::Lost(outcome) => return outcome,
            Message::Started | Message::Stdout(_) | Message::Stderr(_) => {}
        }
    }
}
