//! Translates errors of the Kubernetes client into failures: the kind, and a sentence with the next step. Only `pod` uses it.

use std::time::Duration;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use crate::error::{Failure, Kind, Retry, chain};
use crate::pod::passing_faults::{retry_after_io, retry_after_status};
use crate::protocol::json_fault::json_fault;

/// Call to the API server that failed; for the message.
#[derive(Debug, Clone, Copy)]
pub(super) struct ApiCall<'a> {
    pub(super) verb: &'static str,
    pub(super) resource: &'static str,
    pub(super) pod: &'a str,
    pub(super) namespace: &'a str,
    pub(super) server: &'a str,
    /// Wait that the refusal asked for.
    pub(super) retry_after: Option<Duration>,
}

pub(super) fn classify(error: &kube::Error, call: ApiCall<'_>) -> Failure {
    let ApiCall { server, .. } = call;
    match error {
        kube::Error::Api(status) => answered(status.code, &status.message, call),
        kube::Error::UpgradeConnection(cause) => Failure::new(
            Kind::ApiUnreachable,
            format!(
                "{server} does not open a WebSocket for exec: {}; a proxy on the way must allow connection upgrades",
                chain(cause)
            ),
        )
        .with_retry(Retry::OtherClient),
        kube::Error::Service(cause) => transport(&**cause, server),
        // Its own words quote values of the answer.
        kube::Error::SerdeError(error) => Failure::new(
            Kind::ApiUnreachable,
            format!(
                "the API server {server} answered something other than an object of the API: {}; is another program at its address?",
                json_fault(error)
            ),
        ),
        other => transport(other, server),
    }
}

/// Tells whether a refusal of an exec may concern WebSocket alone. kubectl falls back to SPDY by POST, which needs another right (`create`,
/// not `get`), and passes gateways that know no WebSocket.
pub(super) fn may_be_websocket(code: u16) -> bool {
    matches!(code, 400 | 403 | 405 | 426 | 501)
}

pub(super) fn answered(code: u16, message: &str, call: ApiCall<'_>) -> Failure {
    let ApiCall {
        verb,
        resource,
        pod,
        namespace,
        server,
        retry_after,
    } = call;
    let retry = retry_after_status(code, retry_after);
    let failure = match code {
        401 => Failure::new(
            Kind::Unauthorized,
            format!("the API server {server} refuses the credentials ({message}): renew the token or certificate"),
        ),
        403 => Failure::new(
            Kind::Forbidden,
            format!(
                "not allowed to {verb} {resource} in namespace {namespace}: {message}; ask for a role that allows it"
            ),
        ),
        404 if !resource.starts_with("pods") => Failure::new(
            Kind::PodNotFound,
            format!("there is no {resource} {pod:?} in namespace {namespace} on {server} ({message})"),
        ),
        404 => Failure::new(
            Kind::PodNotFound,
            format!("there is no pod {pod} in namespace {namespace} on {server} ({message})"),
        ),
        429 | 500..=599 => Failure::new(
            Kind::ApiUnreachable,
            format!("the API server {server} cannot {verb} {resource} now: {message}"),
        ),
        _ => Failure::new(
            Kind::ApiUnreachable,
            format!("the API server {server} refuses to {verb} {resource} of {pod}: {message} (status {code})"),
        ),
    };
    failure.with_retry(retry)
}

fn transport(error: &(dyn std::error::Error + 'static), server: &str) -> Failure {
    let mut source = Some(error);
    let mut retry = Retry::Never;
    while let Some(cause) = source {
        // Our own layers below kube (`connector`, `authentication`) say themselves what failed.
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.clone();
        }
        if let Some(failure) = tls(cause).and_then(|error| tls_failure(error, server)) {
            return failure;
        }
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
            return Failure::new(
                Kind::Timeout,
                format!("no connection to the API server {server} in time; is it up, and reachable from here?"),
            );
        }
        if retry == Retry::Never {
            retry = io.map_or(Retry::Never, retry_after_io);
        }
        if cause.downcast_ref().is_some_and(hyper::Error::is_incomplete_message) {
            retry = Retry::LinkCut;
        }
        source = cause.source();
    }
    let failure = Failure::new(
        Kind::ApiUnreachable,
        format!(
            "the API server {server} does not answer: {}; is it up, and reachable from here?",
            innermost(error)
        ),
    );
    failure.with_retry(retry)
}

/// Translates an error of TLS; `None` if it is no verdict on a certificate or protocol.
fn tls_failure(error: &rustls::Error, server: &str) -> Option<Failure> {
    match error {
        // These alerts say that the server looked for a client certificate.
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity
            | AlertDescription::UnrecognisedName
            | AlertDescription::InternalError),
        ) => Some(Failure::new(
            Kind::ApiUnreachable,
            format!("{server} ends the TLS handshake ({alert:?}); is the server's URL right?"),
        )),
        rustls::Error::AlertReceived(alert) => Some(Failure::new(
            Kind::Unauthorized,
            format!("{server} refuses the client certificate ({alert:?}); renew it"),
        )),
        rustls::Error::InvalidCertificate(why) => {
            let why = match why {
                CertificateError::UnknownIssuer => "its issuer is not the certificate-authority".into(),
                CertificateError::NotValidForName => "it was made for another name".into(),
                CertificateError::Expired => "it has expired".into(),
                other => other.to_string(),
            };
            Some(Failure::new(
                Kind::ApiUnreachable,
                format!(
                    "the certificate of {server} is not trusted: {why}; correct certificate-authority, or the server's name (tls-server-name)"
                ),
            ))
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Some(Failure::new(
            Kind::ApiUnreachable,
            format!("{server} does not speak TLS; is it an http:// server?"),
        )),
        _ => None,
    }
}

fn tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    // I/O errors may wrap the TLS error, several times, and do not report it as their source.
    error.downcast_ref::<rustls::Error>().or_else(|| {
        let io = error.downcast_ref::<std::io::Error>()?;
        tls(io.get_ref()?)
    })
}

/// Returns the text of the innermost cause: the outer layers only repeat "connection error".
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: ApiCall<'static> = ApiCall {
        verb: "get",
        resource: "pods",
        pod: "web",
        namespace: "ci",
        server: "https://x",
        retry_after: None,
    };

    #[test]
    fn answers_of_the_server_have_their_kinds() {
        let kind = |code| answered(code, "because", CALL).kind;
        assert_eq!(kind(401), Kind::Unauthorized);
        assert_eq!(kind(403), Kind::Forbidden);
        assert_eq!(kind(404), Kind::PodNotFound);
        assert_eq!(kind(503), Kind::ApiUnreachable);
        let forbidden = answered(403, "because", CALL).message;
        assert!(
            forbidden.contains("get pods") && forbidden.contains("ci"),
            "{forbidden}"
        );
    }

    #[test]
    fn a_cut_link_may_be_retried_however_the_error_is_wrapped_and_a_refusal_may_not() {
        use std::io::{Error, ErrorKind};
        let wrapped = |kind| {
            let error = Error::other(Error::other(Error::new(kind, "inside")));
            classify(&kube::Error::Service(Box::new(error)), CALL).retry == Retry::LinkCut
        };
        assert!(wrapped(ErrorKind::UnexpectedEof) && wrapped(ErrorKind::ConnectionReset));
        assert!(!wrapped(ErrorKind::PermissionDenied));
    }

    #[test]
    fn a_failure_of_a_layer_below_is_passed_on() {
        let below = Failure::new(Kind::Unauthorized, "the proxy refuses");
        #[derive(Debug, thiserror::Error)]
        #[error("outside")]
        struct Outer(#[source] Failure);
        let failure = classify(&kube::Error::Service(Box::new(Outer(below.clone()))), CALL);
        assert_eq!(failure, below);
    }
}
