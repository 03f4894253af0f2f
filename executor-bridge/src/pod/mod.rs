//! The pod as Kubernetes knows it. Kubernetes types end here: callers get container references, fates and streams. It needs the rights
//! `get pods` and `pods/exec`, and `create selfsubjectreviews`, which Kubernetes gives to every user; for `TYPE/NAME` also `get` of that
//! object and `list pods`, as kubectl. `link`, `launch` and
//! `commands` call it.

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
mod kubectl;
mod listing;
mod overrides;
mod passing_faults;
mod proxy;
mod resolution;
mod selection;
mod server_url;
mod settings;
mod storage;
mod tls;
mod view;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::List;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::error::{Failure, Kind, Retry};
pub(crate) use crate::pod::container_ref::{ContainerRef, Fate};
pub(crate) use crate::pod::credential_plugin::PluginMessages;
use crate::pod::failure::{ApiCall, classify};
pub(crate) use crate::pod::identity::{Identity, identity};
use crate::pod::kubectl::Kubectl;
pub(crate) use crate::pod::kubectl::{ExecProcess, KubectlEnd, parse_end as parse_kubectl_end};
pub(crate) use crate::pod::listing::{ListedPod, PodSelection};
use crate::pod::passing_faults::RetryAfter;
pub(crate) use crate::pod::passing_faults::is_passing_fault;
pub(crate) use crate::pod::resolution::Resolution;
pub(crate) use crate::pod::storage::Storage;
use crate::pod::view::View;
use crate::protocol::json_fault::json_fault;
use crate::protocol::object_name::{ObjectKind, ObjectName};
use crate::protocol::target::Target;

/// Refuses options that podbridge can never use. Callers check them before they start a bridge.
pub(crate) fn check(target: &Target) -> Result<(), Failure> {
    flags::Flags::parse(&target.extra_args).map(drop)
}

/// Returns the value of `--pod-running-timeout`.
pub(crate) fn running_timeout(target: &Target) -> Option<Duration> {
    flags::Flags::parse(&target.extra_args).ok()?.pod_running_timeout
}

/// Returns the paths of the kubeconfig that the target names, whether or not the files exist.
pub(crate) fn kubeconfig_files(target: &Target) -> Result<Vec<PathBuf>, Failure> {
    Ok(kubeconfig::files(target, &flags::Flags::parse(&target.extra_args)?))
}

/// Returns the messages of credential plugins, for a user who waits: those of a plugin that runs, and all later ones.
pub(crate) fn plugin_messages() -> PluginMessages {
    PluginMessages::subscribe()
}

/// Checks a kubeconfig for `fuzzing`.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_kubeconfig(content: &[u8]) -> Result<(), Failure> {
    identity::resolve(kubeconfig::parse_content(content)?, "the kubeconfig", None, None).map(drop)
}

/// All characters but the unreserved ones of RFC 3986.
const QUERY_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longest message of a WebSocket, bytes. The API server's have 32 KiB; a proxy in front of it may join some.
const MAX_MESSAGE: usize = 1 << 20;

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

/// The streams of one exec.
#[derive(Debug)]
pub(crate) enum ExecStreams {
    Socket(ExecSocket),
    Process(ExecProcess),
}

/// Client of the API server.
enum ApiClient {
    Own(Client),
    Kubectl(Arc<Kubectl>),
}

/// One pod, through its API server.
pub(crate) struct Access {
    client: ApiClient,
    namespace: String,
    /// Name of the pod, or `TYPE/NAME` of an object that has pods.
    pod: String,
    /// URL for messages, without a slash at its end.
    server: String,
    /// Limit of one call.
    timeout: Duration,
    retry_after: RetryAfter,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("pod", &self.pod())
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Makes a client from the options. Asks no server, but may run a credential plugin.
    pub(crate) async fn open(target: &Target, resolution: &Resolution, limit: Duration) -> Result<Self, Failure> {
        let settings = settings::load(target, resolution)?;
        let client = http_client::make(&settings, limit).await?;
        let retry_after = RetryAfter::default();
        Ok(Self {
            client: ApiClient::Own(retry_after.watch(client)),
            retry_after,
            namespace: settings.namespace,
            pod: target.pod_name().to_owned(),
            server: settings.server.shown(),
            timeout: settings.request_timeout.map_or(limit, |wanted| wanted.min(limit)),
        })
    }

    /// Makes the stock kubectl the client. Asks no server.
    pub(crate) fn open_kubectl(target: &Target, resolution: &Resolution, limit: Duration) -> Result<Self, Failure> {
        let context = settings::context(target, resolution)?;
        let timeout = flags::Flags::parse(&target.extra_args)?.request_timeout;
        Ok(Self {
            client: ApiClient::Kubectl(Arc::new(Kubectl::new(&context, &target.env)?)),
            retry_after: RetryAfter::default(),
            server: context.cluster.server.trim_end_matches('/').to_owned(),
            namespace: context.namespace,
            pod: target.pod_name().to_owned(),
            timeout: timeout.map_or(limit, |wanted| wanted.min(limit)),
        })
    }

    /// Returns this access to another pod of the namespace.
    pub(crate) fn with_pod(self, pod: &str) -> Self {
        Self {
            pod: pod.to_owned(),
            ..self
        }
    }

    /// Tells whether the stock kubectl is the client.
    pub(crate) fn is_kubectl(&self) -> bool {
        matches!(self.client, ApiClient::Kubectl(_))
    }

    /// Returns `namespace/name` for messages.
    pub(crate) fn pod(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    /// Gets an object of the API.
    async fn get<T: DeserializeOwned>(&self, path: &str, call: ApiCall<'_>) -> Result<T, Failure> {
        match &self.client {
            ApiClient::Own(client) => {
                let request = http::Request::get(path)
                    .body(Vec::new())
                    .map_err(|error| Failure::new(Kind::Internal, format!("the request cannot be built: {error}")))?;
                match timeout(self.timeout, client.request(request)).await {
                    Ok(Ok(object)) => Ok(object),
                    // The noted wait is that of this answer.
                    Ok(Err(error)) => Err(classify(
                        &error,
                        ApiCall {
                            retry_after: self.retry_after.last(),
                            ..call
                        },
                    )),
                    Err(_) => Err(self.late()),
                }
            }
            ApiClient::Kubectl(kubectl) => {
                let limit = passing_faults::max_answer(path);
                // The drop of the future ends kubectl.
                let output = match timeout(self.timeout, kubectl::output(kubectl.get(path), limit)).await {
                    Ok(output) => output.map_err(|error| kubectl.cannot_run(&error))?,
                    Err(_) => return Err(self.late()),
                };
                let output = output.ok_or_else(|| passing_faults::too_long(limit))?;
                if output.status.success() {
                    return serde_json::from_slice(&output.stdout).map_err(|error| {
                        let fault = json_fault(&error);
                        let why = format!("kubectl printed something other than an object of the API: {fault}");
                        Failure::new(Kind::ApiUnreachable, why)
                    });
                }
                Err(kubectl::failure(&String::from_utf8_lossy(&output.stderr), call))
            }
        }
    }

    /// Returns the name of the pod that `TYPE/NAME` means now; `None` if the target names a pod.
    pub(crate) async fn resolve(&self) -> Result<Option<String>, Failure> {
        let object = ObjectName::parse(&self.pod)?;
        let (kind, name) = (object.kind, object.name);
        if kind == ObjectKind::Pod {
            return Ok(None);
        }
        let call = ApiCall {
            pod: name,
            ..self.api_call("get", kind.resource())
        };
        let found: serde_json::Value = self.get(&kind.path(&self.namespace, name), call).await?;
        let selector = selection::selector(kind, &found).map_err(|why| {
            let what = format!(
                "{} {name} in namespace {} leads to no pod: {why}",
                kind.resource(),
                self.namespace
            );
            Failure::new(Kind::PodNotFound, what)
        })?;
        let path = format!(
            "/api/v1/namespaces/{}/pods?labelSelector={}",
            self.namespace,
            encoded(&selector)
        );
        let pods: List<Pod> = self.get(&path, self.api_call("list", "pods")).await?;
        let best = selection::best(pods.items).and_then(|pod| pod.metadata.name);
        best.map(Some).ok_or_else(|| {
            let what = format!(
                "{} {name} in namespace {} has no pod ({selector}); see `kubectl describe {} {name}`",
                kind.resource(),
                self.namespace,
                kind.resource()
            );
            // kubectl waits for one, too.
            Failure::new(Kind::PodNotRunning, what).with_retry(Retry::NoPodYet)
        })
    }

    fn api_call(&self, verb: &'static str, resource: &'static str) -> ApiCall<'_> {
        ApiCall {
            verb,
            resource,
            pod: &self.pod,
            namespace: &self.namespace,
            server: &self.server,
            retry_after: self.retry_after.last(),
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
        let path = ObjectKind::Pod.path(&self.namespace, &self.pod);
        let pod: Pod = self.get(&path, self.api_call("get", "pods")).await?;
        Ok(View::from(pod))
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
        let ApiClient::Own(client) = &self.client else {
            let why = "kubectl does not tell whose credentials these are";
            return Err(Failure::new(Kind::ApiUnreachable, why));
        };
        let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
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
    pub(crate) async fn exec(&self, container: &str, arguments: &[&str]) -> Result<ExecStreams, Failure> {
        let client = match &self.client {
            ApiClient::Own(client) => client,
            ApiClient::Kubectl(kubectl) => {
                let process = kubectl.exec(&self.namespace, &self.pod, container, arguments)?;
                return Ok(ExecStreams::Process(process));
            }
        };
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
        let connection = match timeout(self.timeout, client.connect(request)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                let failure = classify(&error, self.api_call("use", "pods/exec"));
                let other_client = matches!(&error, kube::Error::Api(status) if failure::may_be_websocket(status.code));
                return Err(if other_client {
                    failure.with_retry(Retry::OtherClient)
                } else {
                    failure
                });
            }
            Err(_) => return Err(self.late()),
        };
        let half_close = connection.supports_stream_close();
        // Nothing was read from the socket yet, so no message is lost.
        let socket = connection.into_stream().into_inner();
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        Ok(ExecStreams::Socket(ExecSocket {
            half_close,
            socket: WebSocketStream::from_raw_socket(socket, Role::Client, Some(limits)).await,
        }))
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
