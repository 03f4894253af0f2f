//! The API server: a client with the socket options that latency needs, the pod's status, and raw exec streams.

use std::time::Duration;

use http::Request;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tokio_tungstenite::WebSocketStream;
use tower::{BoxError, ServiceBuilder};

use super::config;
use super::fault::{self, Asked};
use super::state::{self, Fate, Place};
use crate::error::{Failure, Kind};
use crate::protocol::target::Target;

/// The frames of one `pods/exec`: the first byte of each is its channel.
pub(crate) struct ExecSocket {
    pub(crate) stream: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    /// The server understands that stdin has ended.
    pub(crate) half_close: bool,
}

/// A dead peer is noticed after this, also below the pings.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// One pod of one cluster, by one user's credentials.
pub(crate) struct Cluster {
    client: Client,
    server: String,
    namespace: String,
    pod: String,
}

impl Cluster {
    pub(crate) async fn new(target: &Target, timeout: Duration) -> Result<Self, Failure> {
        let (config, namespace) = config::load(target, timeout).await?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = client(config).map_err(|error| {
            Failure::new(
                Kind::Kubeconfig,
                format!(
                    "the credentials for {server} cannot be used: {}",
                    crate::error::chain(&error)
                ),
            )
        })?;
        Ok(Self {
            client,
            server,
            namespace,
            pod: target.pod_name().to_owned(),
        })
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `namespace/pod`, for messages.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    fn failure(&self, error: &kube::Error, permission: &str) -> Failure {
        let asked = Asked {
            server: &self.server,
            pod: &self.name(),
            permission,
        };
        fault::api(error, &asked)
    }

    /// The container to use, if the pod can run anything.
    pub(crate) async fn place(&self, container: Option<&str>) -> Result<Place, Failure> {
        let pod = self
            .api()
            .get(&self.pod)
            .await
            .map_err(|error| self.failure(&error, "get pods"))?;
        state::usable(&pod, container)
    }

    pub(crate) async fn fate(&self, place: &Place) -> Result<Fate, Failure> {
        let pod = self
            .api()
            .get_opt(&self.pod)
            .await
            .map_err(|error| self.failure(&error, "get pods"))?;
        Ok(state::fate(pod.as_ref(), &self.name(), place))
    }

    /// Starts a command in the container; nothing has been read of it.
    pub(crate) async fn exec(&self, container: &str, argv: &[&str]) -> Result<ExecSocket, Failure> {
        let parameters = AttachParams::default()
            .container(container)
            .stdin(true)
            .stdout(true)
            .stderr(true);
        let request = kube::core::Request::new(
            Api::<Pod>::namespaced(self.client.clone(), &self.namespace).resource_url(),
        )
        .exec(&self.pod, argv.iter().copied(), &parameters);
        let request: Request<Vec<u8>> = request.map_err(|error| {
            Failure::new(
                Kind::Internal,
                format!("no exec request for pod {}: {error}", self.name()),
            )
        })?;
        let connected = self.client.connect(request).await;
        let connection = connected.map_err(|error| self.failure(&error, "create pods/exec"))?;
        Ok(ExecSocket {
            half_close: connection.supports_stream_close(),
            stream: connection.into_stream(),
        })
    }
}

/// kube's own client would leave Nagle's algorithm on: 40 ms per small message.
fn client(config: Config) -> Result<Client, kube::Error> {
    // Fails only if one is installed already, which is then the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
    match config.proxy_url.clone() {
        Some(proxy) => with_connector(Tunnel::new(proxy, connector), &config),
        None => with_connector(connector, &config),
    }
}

fn with_connector<C>(connector: C, config: &Config) -> Result<Client, kube::Error>
where
    C: tower::Service<http::Uri> + Clone + Send + Sync + 'static,
    C::Response: hyper::rt::Read + hyper::rt::Write + hyper_util::client::legacy::connect::Connection + Send + Unpin,
    C::Future: Send,
    C::Error: Into<BoxError>,
{
    let https = config.rustls_https_connector_with_connector(connector)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}
