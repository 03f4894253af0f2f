//! How a lying agent answers one call: never, with an error, or with messages that end, stay open, or drip. `server` sends answers; the
//! tables of cases name them.

use std::pin::Pin;
use std::time::Duration;

use fastrand::Rng;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Response, Status};

/// Pause between two messages that drip.
const DRIP_INTERVAL: Duration = Duration::from_millis(100);

/// How late a late answer is: other operations end meanwhile.
const LATE: Duration = Duration::from_millis(100);

/// Messages of one call. An endless iterator sends as much as flow control lets through.
pub(crate) type Messages<M> = Box<dyn Iterator<Item = M> + Send>;
/// Stream of a call's answer.
pub(crate) type AnswerStream<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Answer to a call. The functions make the messages anew for each call.
#[derive(Debug)]
pub(crate) enum Answer<M> {
    /// The call stays open without a message.
    Never,
    Fails(Code, &'static str),
    /// The call ends in good order after the messages.
    Closes(fn(&mut Rng) -> Messages<M>),
    /// The call stays open after the messages.
    Stays(fn(&mut Rng) -> Messages<M>),
    Drips(fn(&mut Rng) -> Messages<M>),
    /// The call is answered after a while, and ends in good order.
    Late(fn(&mut Rng) -> Messages<M>),
}

// Derived, they would ask the same of the messages.
impl<M> Clone for Answer<M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M> Copy for Answer<M> {}

impl<M: Send + 'static> Answer<M> {
    /// Returns the answer to a call with many messages.
    pub(crate) async fn stream(self, rng: &mut Rng) -> Result<Response<AnswerStream<M>>, Status> {
        let stream: AnswerStream<M> = match self {
            Answer::Never => Box::pin(tokio_stream::pending()),
            Answer::Fails(code, message) => return Err(Status::new(code, message)),
            Answer::Closes(messages) => Box::pin(tokio_stream::iter(messages(rng)).map(Ok)),
            Answer::Stays(messages) => {
                Box::pin(tokio_stream::iter(messages(rng)).map(Ok).chain(tokio_stream::pending()))
            }
            Answer::Drips(messages) => {
                let messages = tokio_stream::iter(messages(rng)).map(Ok);
                Box::pin(messages.throttle(DRIP_INTERVAL))
            }
            Answer::Late(messages) => {
                tokio::time::sleep(LATE).await; // the lie is to be late
                Box::pin(tokio_stream::iter(messages(rng)).map(Ok))
            }
        };
        Ok(Response::new(stream))
    }

    /// Returns the answer to a call with one message: the first one.
    pub(crate) async fn message(self, rng: &mut Rng) -> Result<Response<M>, Status> {
        match self {
            Answer::Fails(code, message) => Err(Status::new(code, message)),
            Answer::Closes(messages) | Answer::Stays(messages) | Answer::Drips(messages) | Answer::Late(messages) => {
                let first = messages(rng).next();
                first.map(Response::new).ok_or_else(|| Status::internal("no answer"))
            }
            Answer::Never => std::future::pending().await,
        }
    }
}
