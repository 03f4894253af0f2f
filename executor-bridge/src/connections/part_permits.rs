//! Keeps the permit for each part of a call's request until HTTP/2 has sent the part. The send buffer of a stream has a limit of its own,
//! and hundreds of streams to an agent that reads nothing would fill as many buffers. `Connection` puts the layer around its channel;
//! calls that send files pass permits along with their parts. Knows nothing of what the permits count.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

type Permit = Box<dyn Any + Send>;

/// Permits of the parts that a call's encoder has taken and not yet put into a frame.
#[derive(Clone, Default)]
struct EncodedPermits(Arc<Mutex<Vec<Permit>>>);

impl EncodedPermits {
    fn add(&self, permit: Permit) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
    }

    fn take(&self) -> Vec<Permit> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the request of a call that sends these parts. The permit of each part is dropped when the part is sent, or the call has ended.
pub(crate) fn permitted<M: Send + 'static, P: Send + 'static>(
    parts: mpsc::Receiver<(M, P)>,
) -> tonic::Request<impl Stream<Item = M> + Send + 'static> {
    let permits = EncodedPermits::default();
    let encoded = permits.clone();
    let messages = ReceiverStream::new(parts).map(move |(message, permit)| {
        encoded.add(Box::new(permit));
        message
    });
    let mut request = tonic::Request::new(messages);
    request.extensions_mut().insert(permits);
    request
}

/// A channel whose calls keep the permits of [`permitted`].
#[derive(Debug, Clone)]
pub(crate) struct PermitChannel(Channel);

impl PermitChannel {
    pub(super) fn new(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Service<http::Request<Body>> for PermitChannel {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let permits = request.extensions_mut().remove::<EncodedPermits>();
        self.0.call(match permits {
            Some(permits) => request.map(|body| Body::new(PermittedBody { body, permits })),
            None => request,
        })
    }
}

/// A body whose frames hold the permits of the parts in them.
struct PermittedBody<B> {
    body: B,
    permits: EncodedPermits,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for PermittedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // The encoder takes parts only in this poll, and puts all that it has taken into this frame.
        let permits = self.permits.take();
        let hold = |bytes| {
            Bytes::from_owner(UnsentBytes {
                bytes,
                _permits: permits,
            })
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(hold))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of a frame with the permits of its parts. HTTP/2 drops the last copy of them when they are sent, or the stream is reset.
struct UnsentBytes {
    bytes: Bytes,
    _permits: Vec<Permit>,
}

impl AsRef<[u8]> for UnsentBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio_stream::StreamExt as _;

    use super::*;

    /// A body of one frame for each message of a stream.
    struct Messages<S>(S);

    impl<S: Stream<Item = Bytes> + Unpin> HttpBody for Messages<S> {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let next = ready!(Pin::new(&mut self.0).poll_next(cx));
            Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    #[tokio::test]
    async fn a_permit_lasts_until_its_part_is_sent() {
        let (parts, receiver) = mpsc::channel(4);
        let mut permits = Vec::new();
        for number in 0..3 {
            let permit = Arc::new(());
            permits.push(permit.clone());
            parts.send((Bytes::from(vec![number; 9]), permit)).await.unwrap();
        }
        let held = |number: usize| Arc::strong_count(&permits[number]) > 1;
        let (_, mut extensions, messages) = permitted(receiver).into_parts();
        let mut body = PermittedBody {
            body: Messages(Box::pin(messages.map(|message| message))),
            permits: extensions.remove().unwrap(),
        };
        let mut next = async || {
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            frame.unwrap().unwrap().into_data().unwrap()
        };
        let (mut first, second) = (next().await, next().await);
        assert_eq!((&first[..], &second[..]), (&[0; 9][..], &[1; 9][..]));
        // A part of a frame keeps the whole frame in memory.
        let rest = first.split_off(4);
        drop(first);
        assert!(held(0) && held(1) && held(2));
        drop(rest);
        assert!(!held(0) && held(1));
        drop(second);
        assert!(!held(1) && held(2));
        // The call ends with a part that was not taken.
        drop(body);
        assert!(!held(2));
    }
}
