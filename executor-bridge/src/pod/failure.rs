//! What a Kubernetes client's error means: its kind, and a sentence with the next step.

use kube::client::AuthError;

use crate::error::{Failure, Kind, Retry, chain};

/// A call of the API, as messages name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ApiCall<'a> {
    pub(super) verb: &'static str,
    pub(super) resource: &'static str,
    pub(super) pod: &'a str,
    pub(super) namespace: &'a str,
    pub(super) server: &'a str,
}

pub(super) fn classify(error: &kube::Error, call: ApiCall<'_>) -> Failure {
    let ApiCall { server, .. } = call;
    match error {
        kube::Error::Api(status) => answered(status.code, &status.message, call),
        kube::Error::Auth(cause) => credentials(cause),
        kube::Error::InferKubeconfig(cause) => super::kubeconfig::unusable("the kubeconfig", cause),
        kube::Error::RustlsTls(cause) => Failure::new(
            Kind::Kubeconfig,
            format!("the certificates for {server} cannot be used: {}", chain(cause)),
        ),
        kube::Error::UpgradeConnection(cause) => Failure::new(
            Kind::ApiUnreachable,
            format!(
                "{server} opens no WebSocket for exec: {}; if a proxy stands between, it must pass upgrades on",
                chain(cause)
            ),
        ),
        kube::Error::Service(cause) => transport(&**cause, server),
        other => transport(other, server),
    }
}

fn answered(code: u16, message: &str, call: ApiCall<'_>) -> Failure {
    let ApiCall {
        verb,
        resource,
        pod,
        namespace,
        server,
    } = call;
    match code {
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
    }
}

fn credentials(error: &AuthError) -> Failure {
    let why = match error {
        // Its text holds the output of the plugin, which is a credential.
        AuthError::AuthExecRun { cmd, out } => format!("the credential plugin {cmd} failed with {}", out.status),
        AuthError::AuthExecParse(_) => "the credential plugin printed something else than a credential".into(),
        other => chain(other),
    };
    Failure::new(
        Kind::Unauthorized,
        format!("the credentials of the kubeconfig cannot be used: {why}; log in again or correct them"),
    )
}

fn transport(error: &(dyn std::error::Error + 'static), server: &str) -> Failure {
    let mut source = Some(error);
    let mut cut = false;
    while let Some(cause) = source {
        if let Some(auth) = cause.downcast_ref::<AuthError>() {
            return credentials(auth);
        }
        if let Some(kube::Error::Auth(auth)) = cause.downcast_ref::<kube::Error>() {
            return credentials(auth);
        }
        if let Some(rustls::Error::AlertReceived(alert)) = tls(cause) {
            return Failure::new(
                Kind::Unauthorized,
                format!("{server} refuses the client certificate ({alert:?}); renew it"),
            );
        }
        if let Some(rustls::Error::InvalidCertificate(why)) = tls(cause) {
            return Failure::new(
                Kind::ApiUnreachable,
                format!(
                    "the certificate of {server} is not trusted ({why:?}); correct certificate-authority or the server's name"
                ),
            );
        }
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
            return Failure::new(
                Kind::Timeout,
                format!("no connection to the API server {server} in time; is it up, and reachable from here?"),
            );
        }
        cut |= io.is_some_and(was_cut) || cause.downcast_ref().is_some_and(hyper::Error::is_incomplete_message);
        source = cause.source();
    }
    let failure = Failure::new(
        Kind::ApiUnreachable,
        format!(
            "the API server {server} does not answer: {}; is it up, and reachable from here?",
            innermost(error)
        ),
    );
    if cut {
        failure.with_retry(Retry::LinkCut)
    } else {
        failure
    }
}

/// There was a server, and a restart or the network between cut it off: it may be there again in a moment.
fn was_cut(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as E;
    // Wrapped, as for `tls`.
    let within = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        error.kind(),
        E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe | E::UnexpectedEof
    ) || within.is_some_and(was_cut)
}

fn tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    // Wrapped in one or several of the errors that I/O carries, which hide them as causes.
    error.downcast_ref::<rustls::Error>().or_else(|| {
        let io = error.downcast_ref::<std::io::Error>()?;
        tls(io.get_ref()?)
    })
}

/// The outer layers say "connection error" in turns.
fn innermost(error: &dyn std::error::Error) -> String {
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
        assert!(!wrapped(ErrorKind::ConnectionRefused));
    }

    #[test]
    fn a_plugin_s_output_is_not_shown() {
        use std::os::unix::process::ExitStatusExt as _;
        let out = std::process::Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: b"SECRET".to_vec(),
            stderr: b"SECRET".to_vec(),
        };
        let error = AuthError::AuthExecRun {
            cmd: "login".into(),
            out: Box::new(out),
        };
        let failure = classify(&kube::Error::Service(Box::new(kube::Error::Auth(error))), CALL);
        assert_eq!(failure.kind, Kind::Unauthorized);
        assert!(
            failure.message.contains("login") && !failure.message.contains("SECRET"),
            "{failure}"
        );
    }
}
