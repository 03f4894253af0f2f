//! Faults of an API server that pass: an overloaded or restarting server, a node that is not reachable at this moment. Nothing has run when
//! one is reported, so that the dial may be repeated within the connect timeout. Everything else is final. Pure functions; `failure` and the
//! exec-proxy link use them. Owns also how long an answer of the API server may be.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube::Client;
use tower::{BoxError, service_fn};

use crate::error::{Failure, Kind, Retry};

/// Parts of messages that come from the API server, the kubelet or a proxy between them: the exec did not begin.
const PASSING_TEXTS: &[&str] = &[
    "error dialing backend",
    "unable to upgrade connection",
    "error sending request",
    "dial tcp",
    "connection refused",
    "connection reset by peer",
    "broken pipe",
    "i/o timeout",
    "TLS handshake timeout",
    "client connection lost",
    "unexpected EOF",
    "server closed idle connection",
    "Too many requests",
    "too many requests",
    "currently unable to handle the request",
    "apiserver is shutting down",
    "etcdserver: ",
    "No agent available",
    // The container ended between the look at the pod and the exec; the next look tells more.
    "container not running",
    "container is not created or running",
    "is in CONTAINER_EXITED state",
];

/// Tells whether an error of the API server or the kubelet passes. `message` must not come from a program that ran.
pub(crate) fn is_passing_fault(message: &str) -> bool {
    PASSING_TEXTS.iter().any(|text| message.contains(text))
}

/// Tells whether a request that was refused with this status may be repeated.
pub(super) fn retry_after_status(code: u16, retry_after: Option<Duration>) -> Retry {
    match code {
        // 501 and 505 are properties of the server.
        408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=530 => Retry::ServerBusy(retry_after),
        _ => Retry::Never,
    }
}

/// Tells whether an I/O error may be followed by a success a moment later.
pub(super) fn retry_after_io(error: &io::Error) -> Retry {
    // I/O errors wrap others and do not report them as their source.
    let within = error.get_ref().and_then(|inner| inner.downcast_ref());
    match error.kind() {
        // An established connection was cut.
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => Retry::LinkCut,
        // The server is being restarted. An unknown name or no network here is final.
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => Retry::ServerBusy(None),
        _ => within.map_or(Retry::Never, retry_after_io),
    }
}

/// Returns the most bytes of an answer to a request for this path. One object has at most 1.5 MiB in etcd; a list has several hundred.
pub(super) fn max_answer(path: &str) -> usize {
    if path.contains("/pods?") { 32 << 20 } else { 8 << 20 }
}

/// Makes the failure of an answer that is longer than its limit.
pub(super) fn too_long(limit: usize) -> Failure {
    let why = format!(
        "the answer of the API server has more than {} MiB, which no answer to this request has; is another program at its address?",
        limit >> 20
    );
    Failure::new(Kind::ApiUnreachable, why)
}

/// The header Retry-After of the last response of one client that had it. `kube` drops the headers of a refusal.
#[derive(Debug, Clone, Default)]
pub(super) struct RetryAfter(Arc<AtomicU64>);

impl RetryAfter {
    /// Returns a client that notes the header here, and that reads no answer without end: `kube` would keep it whole.
    pub(super) fn watch(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let noted = self.0.clone();
        let send = move |request: http::Request<kube::client::Body>| {
            let limit = request
                .uri()
                .path_and_query()
                .map_or(0, |path| max_answer(path.as_str()));
            let (client, noted) = (client.clone(), noted.clone());
            async move {
                let response = client.send(request).await?;
                let status = response.status();
                if status.is_client_error() || status.is_server_error() {
                    noted.store(seconds(response.headers()), Ordering::Relaxed);
                }
                let shorten = move |error: BoxError| {
                    if error.is::<LengthLimitError>() {
                        BoxError::from(too_long(limit))
                    } else {
                        error
                    }
                };
                Ok::<_, kube::Error>(response.map(|body| Limited::new(body, limit).map_err(shorten)))
            }
        };
        Client::new(service_fn(send), namespace)
    }

    /// Returns the wait that the last refusal asked for.
    pub(super) fn last(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        }
    }
}

/// Returns the seconds of the header; 0 if there are none. client-go reads no dates there either.
fn seconds(headers: &HeaderMap) -> u64 {
    let value = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answer of the server, and whether the dial is repeated. One row for each answer that was ever met.
    #[test]
    fn a_status_is_final_or_passes() {
        let pause = Some(Duration::from_secs(1));
        let retried = [408, 429, 500, 502, 503, 504];
        let last = [400, 401, 403, 404, 405, 407, 409, 410, 422, 501, 505];
        for code in retried {
            assert_eq!(retry_after_status(code, pause), Retry::ServerBusy(pause), "{code}");
        }
        for code in last {
            assert_eq!(retry_after_status(code, pause), Retry::Never, "{code}");
        }
    }

    #[test]
    fn a_message_is_final_or_passes() {
        for (message, passes) in [
            (
                "error dialing backend: dial tcp 10.0.0.1:10250: connect: connection refused",
                true,
            ),
            ("error dialing backend: No agent available", true),
            ("Internal error occurred: dial tcp 10.0.0.1:10250: i/o timeout", true),
            (
                "Internal error occurred: error sending request: Post \"https://n:10250/exec\": EOF",
                true,
            ),
            ("unable to upgrade connection: container not found (\"main\")", true),
            ("Too many requests, please try again later.", true),
            ("the server is currently unable to handle the request", true),
            ("etcdserver: leader changed", true),
            (
                "Internal error occurred: OCI runtime exec failed: exec: \"sh\": executable file not found in $PATH",
                false,
            ),
            ("command terminated with non-zero exit code", false),
            ("pods \"web\" not found", false),
            ("container main is not valid for pod web", false),
        ] {
            assert_eq!(is_passing_fault(message), passes, "{message}");
        }
    }

    #[test]
    fn an_io_error_is_final_or_passes_however_it_is_wrapped() {
        for (kind, retry) in [
            (ErrorKind::ConnectionReset, Retry::LinkCut),
            (ErrorKind::UnexpectedEof, Retry::LinkCut),
            (ErrorKind::BrokenPipe, Retry::LinkCut),
            (ErrorKind::ConnectionRefused, Retry::ServerBusy(None)),
            (ErrorKind::HostUnreachable, Retry::ServerBusy(None)),
            (ErrorKind::NetworkUnreachable, Retry::Never),
            (ErrorKind::NotFound, Retry::Never),
            (ErrorKind::PermissionDenied, Retry::Never),
        ] {
            let error = io::Error::other(io::Error::other(io::Error::new(kind, "inside")));
            assert_eq!(retry_after_io(&error), retry, "{kind:?}");
        }
    }

    #[test]
    fn the_header_retry_after_is_read_in_seconds() {
        for (value, read) in [
            ("1", 1),
            (" 30 ", 30),
            ("", 0),
            ("soon", 0),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            assert_eq!(seconds(&headers), read, "{value}");
        }
        assert_eq!(seconds(&HeaderMap::new()), 0);
    }
}
