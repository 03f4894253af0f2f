//! The pod as Kubernetes knows it. Kubernetes types end here: callers get container references, fates and streams. It needs the rights
//! `get pods` and `pods/exec`, and `create selfsubjectreviews`, which Kubernetes gives to every user. `link` and `launch` call it.

mod authentication;
mod certificates;
mod connector;
mod container_ref;
mod credential_plugin;
mod failure;
mod flags;
mod go_url;
mod http_client;
mod identity;
mod kubeconfig;
mod overrides;
mod proxy;
mod resolution;
mod server_url;
mod settings;
mod storage;
mod tls;
mod view;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;

use crate::error::{Failure, Kind};
pub(crate) use crate::pod::container_ref::{ContainerRef, Fate};
pub(crate) use crate::pod::credential_plugin::PluginMessages;
use crate::pod::failure::{ApiCall, classify};
pub(crate) use crate::pod::identity::{Identity, identity};
pub(crate) use crate::pod::resolution::Resolution;
pub(crate) use crate::pod::storage::Storage;
use crate::pod::view::View;
use crate::protocol::target::Target;

/// Refuses options that podbridge can never use. Callers check them before they start a bridge.
pub(crate) fn check(target: &Target) -> Result<(), Failure> {
    flags::Flags::parse(&target.extra_args).map(drop)
}

/// Returns the paths of the kubeconfig that the target names, whether or not the files exist.
pub(crate) fn kubeconfig_files(target: &Target) -> Result<Vec<PathBuf>, Failure> {
    Ok(kubeconfig::files(target, &flags::Flags::parse(&target.extra_args)?))
}

/// Returns the messages of credential plugins, for a user who waits: those of a plugin that runs, and all later ones.
pub(crate) fn plugin_messages() -> PluginMessages {
    PluginMessages::subscribe()
}

/// All characters but the unreserved ones of RFC 3986.
const QUERY_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// WebSocket of one exec.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The streams of one exec, on one WebSocket.
#[derive(Debug)]
pub(crate) struct ExecSocket {
    pub(crate) socket: Socket,
    /// The server understands the end of standard input (v5.channel.k8s.io, Kubernetes 1.30).
    pub(crate) half_close: bool,
}

/// A user as the API server knows it: the subject of rights. Details that differ from token to token are left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApiUser {
    name: Option<String>,
    uid: Option<String>,
    groups: BTreeSet<String>,
}

/// One pod, through its API server.
pub(crate) struct Access {
    client: Client,
    namespace: String,
    pod: String,
    /// URL for messages, without a slash at its end.
    server: String,
    /// Limit of one call.
    timeout: Duration,
}

impl Access {
    /// Makes a client from the options. Asks no server, but may run a credential plugin.
    pub(crate) async fn open(target: &Target, resolution: &Resolution, limit: Duration) -> Result<Self, Failure> {
        let settings = settings::load(target, resolution)?;
        let client = http_client::make(&settings, limit).await?;
        Ok(Self {
            client,
            namespace: settings.namespace,
            pod: target.pod_name().to_owned(),
            server: settings.server.shown(),
            timeout: settings.request_timeout.map_or(limit, |wanted| wanted.min(limit)),
        })
    }

    /// Returns `namespace/name` for messages.
    pub(crate) fn pod(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    fn api_call(&self, verb: &'static str, resource: &'static str) -> ApiCall<'_> {
        ApiCall {
            verb,
            resource,
            pod: &self.pod,
            namespace: &self.namespace,
            server: &self.server,
        }
    }

    fn late(&self) -> Failure {
        Failure::new(
            Kind::Timeout,
            format!(
                "the API server {} did not answer within {} s; is it up, and reachable from here?",
                self.server,
                self.timeout.as_secs()
            ),
        )
    }

    async fn view(&self) -> Result<View, Failure> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        match timeout(self.timeout, pods.get(&self.pod)).await {
            Ok(Ok(pod)) => Ok(View::from(pod)),
            Ok(Err(error)) => Err(classify(&error, self.api_call("get", "pods"))),
            Err(_) => Err(self.late()),
        }
    }

    /// Returns the container that is meant, and its storage; an error if it is unknown or cannot be reached now.
    pub(crate) async fn container(&self, container: Option<&str>) -> Result<(ContainerRef, Storage), Failure> {
        let mut view = self.view().await?;
        let container = view.container(container)?;
        let storage = view.storage.remove(&container.container).unwrap_or_default();
        Ok((container, storage))
    }

    pub(crate) async fn fate(&self, container: &ContainerRef) -> Result<Fate, Failure> {
        match self.view().await {
            Ok(view) => Ok(view.fate(container)),
            Err(failure) if failure.kind == Kind::PodNotFound => {
                Ok(Fate::PodGone(format!("pod {} was deleted", self.pod())))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Asks the server whose credentials these are.
    pub(crate) async fn user(&self) -> Result<ApiUser, Failure> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = SelfSubjectReview::default();
        let answer = match timeout(self.timeout, reviews.create(&PostParams::default(), &review)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(classify(&error, self.api_call("create", "selfsubjectreviews"))),
            Err(_) => return Err(self.late()),
        };
        let info = answer.status.and_then(|status| status.user_info).unwrap_or_default();
        Ok(ApiUser {
            name: info.username,
            uid: info.uid,
            groups: info.groups.into_iter().flatten().collect(),
        })
    }

    /// Runs a program in the container and returns its streams. kube's `AttachedProcess` is not used: it deadlocks if both sides write.
    pub(crate) async fn exec(&self, container: &str, arguments: &[&str]) -> Result<ExecSocket, Failure> {
        let mut path = format!(
            "/api/v1/namespaces/{}/pods/{}/exec?stdin=true&stdout=true&stderr=true&container={}",
            encoded(&self.namespace),
            encoded(&self.pod),
            encoded(container)
        );
        for argument in arguments {
            path.push_str("&command=");
            path.extend(encoded(argument));
        }
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(|error| Failure::new(Kind::Internal, format!("the exec request cannot be built: {error}")))?;
        let connection = match timeout(self.timeout, self.client.connect(request)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(classify(&error, self.api_call("use", "pods/exec"))),
            Err(_) => return Err(self.late()),
        };
        Ok(ExecSocket {
            half_close: connection.supports_stream_close(),
            socket: connection.into_stream(),
        })
    }
}

/// Percent-encodes text for the query of a URL.
fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, QUERY_ESCAPES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_percent_encoded() {
        assert_eq!(encoded("a b&c=d/ż~").to_string(), "a%20b%26c%3Dd%2F%C5%BC~");
    }
}
