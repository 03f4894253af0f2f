//! The HTTP client below `Access`: kube's types on our own connections (`connector`) and credentials (`authentication`). kube's own builder
//! leaves Nagle's algorithm on, which costs 44 ms per call, and does not take all that client-go takes.

use std::sync::Arc;
use std::time::Duration;

use http::header::PROXY_AUTHORIZATION;
use http::{HeaderValue, Request};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::Body;
use tower::{BoxError, ServiceBuilder};

use crate::error::Failure;
use crate::pod::authentication::{Authenticated, Credentials, impersonation_headers};
use crate::pod::connector::{Connector, basic};
use crate::pod::proxy::ProxyScheme;
use crate::pod::settings::Settings;

/// Makes a client. Speaks to no server, but may run a credential plugin: TLS needs the certificate that it prints.
pub(super) async fn make(settings: &Settings, limit: Duration) -> Result<Client, Failure> {
    let credentials = Arc::new(Credentials::new(&settings.login)?);
    let plugin = match &*credentials {
        Credentials::Plugin(plugin) => {
            plugin.credential(limit).await?;
            Some(plugin.clone())
        }
        Credentials::None | Credentials::Fixed(_) | Credentials::TokenFile(_) => None,
    };
    let client_config = settings.tls.client_config(plugin.map(|plugin| plugin as _))?;
    let connector = Connector::new(settings, client_config, limit);
    let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let impersonation = impersonation_headers(&settings.impersonation)?;
    let authenticated = Authenticated::new(http, credentials, impersonation, limit);
    let server = settings.server.clone();
    let proxy_login = proxy_login(settings);
    let service = ServiceBuilder::new()
        .map_request(move |mut request: Request<Body>| {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            // The URL was checked when the settings were made, and the paths are ours.
            if let Ok(uri) = server.uri(path) {
                *request.uri_mut() = uri;
            }
            if let Some(login) = &proxy_login {
                request.headers_mut().insert(PROXY_AUTHORIZATION, login.clone());
            }
            request
        })
        .map_err(BoxError::from)
        .service(authenticated);
    Ok(Client::new(service, settings.namespace.clone()))
}

/// Returns the proxy's login for requests that the proxy forwards: those to plain HTTP servers.
fn proxy_login(settings: &Settings) -> Option<HeaderValue> {
    let proxy = settings.proxy.as_ref()?;
    if settings.server.is_https || proxy.scheme == ProxyScheme::Socks5 {
        return None;
    }
    HeaderValue::from_str(&basic(proxy)?).ok()
}
