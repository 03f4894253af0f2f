//! The HTTP client below `Access`: TCP without Nagle's delay and with a limit on unanswered data, through a proxy if there is
//! one, TLS by kube's settings.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::middleware::AuthLayer;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config, Error};
use tower::{BoxError, Service, ServiceBuilder};

/// The kernel gives a connection up whose data is not acknowledged for so long.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// kube's own builder would leave Nagle's algorithm on: 44 ms per call.
pub(super) async fn make(config: Config, connect_timeout: Duration) -> Result<Client, Error> {
    // It may run a credential plugin, and wait for it.
    let config = tokio::task::spawn_blocking(move || {
        let auth = config.auth_layer();
        auth.map(|auth| (config, auth))
    });
    let (config, auth) = config.await.map_err(|error| Error::Service(error.into()))??;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
    tcp.set_connect_timeout(Some(connect_timeout));
    match config.proxy_url.clone() {
        None => finish(&config, auth, tcp),
        Some(proxy) => match proxy.scheme_str() {
            Some("http") => finish(&config, auth, tunnel(&proxy, tcp)),
            Some("https") => {
                let tls = config.rustls_https_connector_with_connector(tcp)?;
                finish(&config, auth, tunnel(&proxy, tls))
            }
            Some("socks5" | "socks5h") => finish(&config, auth, SocksV5::new(proxy, tcp)),
            _ => Err(Error::ProxyProtocolUnsupported {
                proxy_url: Box::new(proxy),
            }),
        },
    }
}

fn tunnel<C>(proxy: &Uri, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.clone(), connector);
    let user = proxy
        .authority()
        .and_then(|authority| authority.as_str().rsplit_once('@'));
    let Some((user, _)) = user else { return tunnel };
    match HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(unescaped(user)))) {
        Ok(header) => tunnel.with_auth(header),
        Err(_) => tunnel,
    }
}

/// Percent-escapes of a URL's user part, decoded.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn finish<C>(config: &Config, auth: Option<AuthLayer>, connector: C) -> Result<Client, Error>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Connection + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let tls = config.rustls_https_connector_with_connector(connector)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(auth)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}
