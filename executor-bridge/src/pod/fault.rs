//! kube's errors as kinds and sentences that name the thing and the next step. `access` and `config` fail with these.

use kube::config::KubeconfigError;

use crate::error::{Failure, Kind, chain};

/// What was being asked of the API, for messages.
pub(super) struct Asked<'a> {
    pub(super) server: &'a str,
    pub(super) pod: &'a str,
    /// As RBAC names it: "get pods".
    pub(super) permission: &'a str,
}

pub(super) fn api(error: &kube::Error, asked: &Asked<'_>) -> Failure {
    let Asked {
        server,
        pod,
        permission,
    } = asked;
    let text = chain(error);
    match error {
        kube::Error::Api(status) => match status.code {
            401 => unauthorized(server, &status.message),
            403 => Failure::new(
                Kind::Forbidden,
                format!(
                    "the API server does not allow to {permission} for pod {pod}: {}; ask for a role that does",
                    status.message
                ),
            ),
            404 => Failure::new(
                Kind::PodNotFound,
                format!("there is no pod {pod} on {server}; look at the names of pod and namespace"),
            ),
            code => Failure::new(
                Kind::Agent,
                format!(
                    "the API server refused an exec in pod {pod} with {code}: {}",
                    status.message
                ),
            ),
        },
        kube::Error::Auth(_) => unauthorized(server, &text),
        kube::Error::UpgradeConnection(_) => Failure::new(
            Kind::ApiUnreachable,
            format!("{server} did not open a stream to pod {pod}: {text}; is there a proxy that refuses WebSockets?"),
        ),
        _ => Failure::new(
            Kind::ApiUnreachable,
            format!("the API server {server} cannot be reached: {text}; check its address, certificate and network"),
        ),
    }
}

fn unauthorized(server: &str, why: &str) -> Failure {
    Failure::new(
        Kind::Unauthorized,
        format!("{server} refused the credentials: {why}; the token or certificate may have expired, get a new one"),
    )
}

pub(super) fn kubeconfig(error: &KubeconfigError, source: &str) -> Failure {
    match error {
        KubeconfigError::LoadContext(name) => Failure::new(
            Kind::Context,
            format!("{source} has no context {name:?}; `kubectl config get-contexts` lists them"),
        ),
        KubeconfigError::CurrentContextNotSet => Failure::new(
            Kind::Context,
            format!("{source} sets no current context; name one with --context"),
        ),
        error => Failure::new(Kind::Kubeconfig, format!("{source} cannot be used: {}", chain(error))),
    }
}
