//! The pod as Kubernetes knows it. Kubernetes types end here: callers get containers, fates and streams. It needs the rights `get pods` and
//! `pods/exec`, and `create selfsubjectreviews`, which Kubernetes gives to every user.

mod container_ref;
mod failure;
mod flags;
mod http_client;
mod identity;
mod kubeconfig;
mod overrides;
mod resolution;
mod settings;
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
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;

use crate::error::{Failure, Kind};
pub(crate) use crate::pod::container_ref::{ContainerRef, Fate};
use crate::pod::failure::{ApiCall, classify};
pub(crate) use crate::pod::identity::{Identity, identity};
pub(crate) use crate::pod::resolution::Resolution;
use crate::pod::view::View;
use crate::protocol::target::Target;

/// Refuses options that could never be used, before anything is started for them.
pub(crate) fn check(target: &Target) -> Result<(), Failure> {
    flags::Flags::parse(&target.extra_args).map(drop)
}

/// Returns the paths of the kubeconfig that the target names, whether or not the files exist.
pub(crate) fn kubeconfig_files(target: &Target) -> Result<Vec<PathBuf>, Failure> {
    Ok(kubeconfig::files(target, &flags::Flags::parse(&target.extra_args)?))
}

pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The streams of one exec, on one WebSocket.
#[derive(Debug)]
pub(crate) struct ExecSocket {
    pub(crate) socket: Socket,
    /// The server can be told that standard input has ended (v5.channel.k8s.io, Kubernetes 1.30).
    pub(crate) half_close: bool,
}

/// A user as the API server knows it: what rights are granted to. Details that differ from token to token are left out.
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
    /// For messages.
    server: String,
    timeout: Duration,
}

impl Access {
    /// Reads the options and makes a client; asks no server, but may run a credential plugin.
    pub(crate) async fn open(target: &Target, resolution: &Resolution, limit: Duration) -> Result<Self, Failure> {
        let settings = settings::load(target, resolution).await?;
        let server = settings.config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        let namespace = settings.namespace;
        let pod = target.pod_name().to_owned();
        let call = ApiCall {
            verb: "reach",
            resource: "pods",
            pod: &pod,
            namespace: &namespace,
            server: &server,
        };
        let made = timeout(limit, http_client::make(settings.config, limit)).await;
        let client = match made {
            Ok(made) => made.map_err(|error| classify(&error, call))?,
            Err(_) => {
                return Err(Failure::new(
                    Kind::Timeout,
                    format!("the credential plugin gave nothing within {} s", limit.as_secs()),
                ));
            }
        };
        Ok(Self {
            client,
            namespace,
            pod,
            server,
            timeout: settings.request_timeout.map_or(limit, |wanted| wanted.min(limit)),
        })
    }

    /// For messages.
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

    /// The container that is meant, if it can be reached.
    pub(crate) async fn place(&self, container: Option<&str>) -> Result<ContainerRef, Failure> {
        self.view().await?.place(container)
    }

    pub(crate) async fn fate(&self, place: &ContainerRef) -> Result<Fate, Failure> {
        match self.view().await {
            Ok(view) => Ok(view.fate(place)),
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

    /// Runs a program in the container; its streams. Never `AttachedProcess`: it deadlocks when both sides write.
    pub(crate) async fn exec(&self, container: &str, arguments: &[&str]) -> Result<ExecSocket, Failure> {
        let mut path = format!(
            "/api/v1/namespaces/{}/pods/{}/exec?stdin=true&stdout=true&stderr=true&container={}",
            escaped(&self.namespace),
            escaped(&self.pod),
            escaped(container)
        );
        for argument in arguments {
            path.push_str("&command=");
            path.push_str(&escaped(argument));
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

/// For the query of a URL: all but unreserved characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_a_url() {
        assert_eq!(escaped("a b&c=d/ż"), "a%20b%26c%3Dd%2F%C5%BC");
    }
}
