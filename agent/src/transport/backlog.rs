//! A budget for what a connection has been given to send and has not sent. HTTP/2 takes up to 400 KiB of each stream, whatever the others
//! have; a hundred commands that print faster than the link carries would fill as many buffers. `app` puts the layer around the services.
//!
//! A body is asked for its next frame when there is room for the largest one. The frame keeps its part of the room until it is written, or
//! its stream is reset. Bodies wait for room in the order in which they came; short answers have room of their own, so that they do not wait
//! for long ones.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_layer::Layer;
use tower_service::Service;

use super::read_pace::CallCount;

/// Unit of the budget, in bytes.
const UNIT: usize = 1 << 10;
/// Most bytes of one connection that wait to be sent. The streams that a bridge lets stand still have less than half of it.
const BUDGET: usize = 8 << 20;
/// The same, of bodies that have sent little.
const SHORT_BUDGET: usize = 1 << 20;
/// Bytes up to which a body has sent little.
const SHORT: usize = 64 << 10;
/// Largest frame, in bytes: one chunk and its envelope.
const LARGEST: usize = podbridge_proto::limits::MAX_ANSWER;

/// Room for what one connection is about to send.
#[derive(Debug, Clone)]
pub(crate) struct Backlog {
    long: Arc<Semaphore>,
    short: Arc<Semaphore>,
    calls: CallCount,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            long: Arc::new(Semaphore::new(BUDGET / UNIT)),
            short: Arc::new(Semaphore::new(SHORT_BUDGET / UNIT)),
            calls: CallCount::default(),
        }
    }
}

impl Backlog {
    /// Returns the number of calls that the connection has begun.
    pub(super) fn calls(&self) -> CallCount {
        self.calls.clone()
    }

    /// Waits for room for the largest frame of a body that has sent so much.
    fn room(&self, sent: usize) -> impl Future<Output = OwnedSemaphorePermit> + use<> {
        let semaphore = if sent < SHORT { &self.short } else { &self.long };
        let room = semaphore.clone().acquire_many_owned((LARGEST / UNIT) as u32);
        async { room.await.expect("the semaphore is never closed") }
    }
}

/// Bytes that have not been sent, and their room.
struct Unsent {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the bytes, which keep the room that they need until the last copy of them is dropped.
fn unsent(bytes: Bytes, mut room: OwnedSemaphorePermit) -> Bytes {
    let needed = bytes.len().div_ceil(UNIT).min(room.num_permits());
    drop(room.split(room.num_permits() - needed));
    Bytes::from_owner(Unsent { bytes, _room: room })
}

/// A body whose frames have room in the backlog of its connection.
pub(crate) struct Paced<B> {
    body: B,
    backlog: Backlog,
    /// Bytes that the body has had to send.
    sent: usize,
    /// Is there while the body waits for room.
    waiting: Option<Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>>,
}

impl<B> Paced<B> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<OwnedSemaphorePermit> {
        let (backlog, sent) = (&self.backlog, self.sent);
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(backlog.room(sent)));
        let room = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(room)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let room = ready!(self.poll_room(cx));
        // A body that has nothing to send keeps no room.
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.sent = self.sent.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| unsent(bytes, room)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Makes the answers of a service wait for room in the backlog of their connection.
#[derive(Debug, Clone)]
pub(crate) struct BacklogLayer;

impl<S> Layer<S> for BacklogLayer {
    type Service = PacedService<S>;

    fn layer(&self, inner: S) -> PacedService<S> {
        PacedService(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct PacedService<S>(S);

impl<S, R, B> Service<Request<R>> for PacedService<S>
where
    S: Service<Request<R>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Paced<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        // Every connection of the server has one.
        let backlog: Backlog = request.extensions().get().cloned().unwrap_or_default();
        backlog.calls.add();
        let answer = self.0.call(request);
        Box::pin(async move {
            Ok(answer.await?.map(|body| Paced {
                body,
                backlog,
                sent: 0,
                waiting: None,
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use tokio::task::unconstrained;

    use super::*;

    /// A body of these frames.
    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.0.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                // It has nothing to send, and never will.
                None => Poll::Pending,
            }
        }
    }

    fn paced(backlog: &Backlog, count: usize, length: usize) -> Paced<Frames> {
        Paced {
            body: Frames(vec![Bytes::from(vec![7; length]); count].into()),
            backlog: backlog.clone(),
            sent: 0,
            waiting: None,
        }
    }

    /// Returns the next frame's bytes; `None` if the body waits. The runtime would make a body wait that asks too often.
    async fn next(body: &mut Paced<Frames>) -> Option<Bytes> {
        let asked = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.unwrap().into_data().unwrap())),
            Poll::Pending => Poll::Ready(None),
        });
        unconstrained(asked).await
    }

    #[tokio::test]
    async fn what_is_not_sent_has_a_budget_and_comes_back_when_it_is() {
        const FRAME: usize = 64 << 10;
        let backlog = Backlog::default();
        let mut unsent = VecDeque::new();
        let mut long: Vec<_> = (0..100).map(|_| paced(&backlog, 1000, FRAME)).collect();
        for body in &mut long {
            while let Some(bytes) = next(body).await {
                unsent.push_back(bytes);
            }
        }
        let total = unsent.len() * FRAME;
        assert!(total <= BUDGET + SHORT_BUDGET, "{total}");
        assert!(total > BUDGET - LARGEST - FRAME, "{total}");
        // As frames are sent, everybody's turn comes.
        let mut short = paced(&backlog, 1, 100);
        while next(&mut short).await.is_none() {
            drop(unsent.pop_front().unwrap());
            for body in &mut long {
                unsent.extend(next(body).await);
            }
            assert!(unsent.len() * FRAME <= BUDGET + SHORT_BUDGET);
        }
        // Idle bodies, and bodies that are gone, keep nothing.
        assert_eq!(next(&mut short).await, None);
        drop((long, short, unsent));
        assert_eq!(backlog.long.available_permits(), BUDGET / UNIT);
        assert_eq!(backlog.short.available_permits(), SHORT_BUDGET / UNIT);
    }

    #[tokio::test]
    async fn a_short_answer_does_not_wait_for_a_long_one() {
        let backlog = Backlog::default();
        let mut long = paced(&backlog, 1000, SHORT);
        let mut unsent = Vec::new();
        while let Some(bytes) = next(&mut long).await {
            unsent.push(bytes);
        }
        assert!(next(&mut paced(&backlog, 1, 100)).await.is_some());
    }
}
