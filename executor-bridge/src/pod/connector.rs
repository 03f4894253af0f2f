//! Connections to an API server: TCP without Nagle's delay and with a limit on unanswered data, through a proxy if there is one, then TLS.
//! Each error names the hop that failed: a proxy that refuses is not the API server. `http_client` uses it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service};

use crate::error::{Failure, Kind};
use crate::pod::failure::innermost;
use crate::pod::proxy::{Proxy, ProxyScheme};
use crate::pod::server_url::ServerUrl;
use crate::pod::settings::Settings;
use crate::pod::tls::TlsSettings;

/// The kernel gives a connection up whose data is not acknowledged for this time.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Highest number of bytes in a proxy's answer to CONNECT.
const MAX_CONNECT_ANSWER: usize = 16 * 1024;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The way to one API server.
#[derive(Clone)]
pub(super) struct Connector {
    route: Arc<Route>,
}

struct Route {
    server: ServerUrl,
    proxy: Option<Proxy>,
    tls: TlsSettings,
    client_config: Arc<ClientConfig>,
    tcp: HttpConnector,
    limit: Duration,
}

impl Connector {
    pub(super) fn new(settings: &Settings, client_config: ClientConfig, limit: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
        tcp.set_connect_timeout(Some(limit));
        let route = Route {
            server: settings.server.clone(),
            proxy: settings.proxy.clone(),
            tls: settings.tls.clone(),
            client_config: Arc::new(client_config),
            tcp,
            limit,
        };
        Self { route: Arc::new(route) }
    }
}

impl Service<Uri> for Connector {
    type Response = ServerConnection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<ServerConnection, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let route = self.route.clone();
        Box::pin(async move {
            let connected = tokio::time::timeout(route.limit, route.connect()).await;
            connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }
}

impl Route {
    async fn connect(&self) -> Result<ServerConnection, BoxError> {
        let stream: Box<dyn Io> = match &self.proxy {
            None => Box::new(self.tcp(&self.server.address()).await?),
            Some(proxy) => self
                .through(proxy)
                .await
                .map_err(|error| self.proxy_failure(proxy, &error))?,
        };
        // A proxy takes requests to plain HTTP servers itself; it needs the whole URL.
        let is_forwarded = self.proxy.as_ref().is_some_and(|proxy| self.forwards(proxy));
        let stream = if self.server.is_https {
            let name = self.tls.name_of(&self.server.url.host)?;
            Box::new(
                TlsConnector::from(self.client_config.clone())
                    .connect(name, stream)
                    .await?,
            )
        } else {
            stream
        };
        Ok(ServerConnection {
            io: TokioIo::new(stream),
            is_forwarded,
        })
    }

    fn forwards(&self, proxy: &Proxy) -> bool {
        !self.server.is_https && proxy.scheme != ProxyScheme::Socks5
    }

    async fn tcp(&self, address: &str) -> Result<TcpStream, BoxError> {
        let uri = format!("http://{address}").parse::<Uri>()?;
        let stream = self.tcp.clone().call(uri).await?;
        Ok(stream.into_inner())
    }

    async fn through(&self, proxy: &Proxy) -> Result<Box<dyn Io>, BoxError> {
        let with_port = crate::pod::go_url::GoUrl {
            port: Some(proxy.port()),
            ..proxy.url.clone()
        };
        let address = with_port.authority();
        let user = proxy.url.user.clone();
        let mut stream: Box<dyn Io> = match proxy.scheme {
            ProxyScheme::Socks5 => {
                let mut socks = SocksV5::new(format!("http://{address}").parse()?, self.tcp.clone());
                if let Some((name, password)) = user {
                    socks = socks.with_auth(name, password);
                }
                let server = format!("http://{}", self.server.address()).parse::<Uri>()?;
                let stream = socks.call(server).await?;
                return Ok(Box::new(stream.into_inner()));
            }
            ProxyScheme::Http => Box::new(self.tcp(&address).await?),
            ProxyScheme::Https => {
                let tcp = self.tcp(&address).await?;
                // As Go: the settings for the server count for its proxy too.
                let name = self.tls.name_of(&proxy.url.host)?;
                Box::new(
                    TlsConnector::from(self.client_config.clone())
                        .connect(name, tcp)
                        .await?,
                )
            }
        };
        if !self.forwards(proxy) {
            connect_tunnel(&mut stream, &self.server.address(), basic(proxy).as_deref()).await?;
        }
        Ok(stream)
    }

    fn proxy_failure(&self, proxy: &Proxy, error: &BoxError) -> BoxError {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.clone().into();
        }
        let message = format!(
            "the proxy {} ({}) does not connect to the API server {}: {}; correct the proxy, or name the server in NO_PROXY",
            proxy.shown(),
            proxy.setting,
            self.server.address(),
            innermost(&**error)
        );
        Failure::new(Kind::ApiUnreachable, message).into()
    }
}

/// Returns the header for a proxy that wants a login.
pub(super) fn basic(proxy: &Proxy) -> Option<String> {
    let (name, password) = proxy.url.user.as_ref()?;
    Some(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
}

/// Asks an HTTP proxy for a tunnel.
async fn connect_tunnel(stream: &mut Box<dyn Io>, address: &str, login: Option<&str>) -> Result<(), BoxError> {
    let login = login.map_or(String::new(), |login| format!("Proxy-Authorization: {login}\r\n"));
    let request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    // One byte at a time: what follows the head belongs to the server.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_CONNECT_ANSWER {
            return Err("it answers with too long a header".into());
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err("it closed the connection instead of an answer".into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let head = String::from_utf8_lossy(&answer);
    let status = head.lines().next().unwrap_or_default();
    let mut words = status.splitn(3, ' ');
    let (version, code) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !version.starts_with("HTTP/1.") {
        return Err("its answer is not HTTP".into());
    }
    match code {
        "200" => Ok(()),
        "407" => Err("it wants a user name and password (407), or refuses the ones that are given".into()),
        "403" => Err("it does not allow this connection (403)".into()),
        _ => {
            let reason: String = words
                .next()
                .unwrap_or_default()
                .chars()
                .filter(|letter| !letter.is_control())
                .collect();
            Err(format!("it answers {code} {reason}").trim_end().into())
        }
    }
}

/// A connection that HTTP runs on.
pub(super) struct ServerConnection {
    io: TokioIo<Box<dyn Io>>,
    is_forwarded: bool,
}

impl Connection for ServerConnection {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_forwarded)
    }
}

impl hyper::rt::Read for ServerConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for ServerConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, data)
    }
}
