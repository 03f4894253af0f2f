//! Credentials of each request: the Authorization and Impersonate headers, as client-go's `transport` sets them. `http_client` puts it around
//! its HTTP client.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use jiff::Timestamp;
use kube::client::Body;
use tower::{BoxError, Service};

use crate::error::{Failure, Kind};
use crate::pod::credential_plugin::{Credential, Plugin};
use crate::pod::kubeconfig::AuthProvider;
use crate::pod::settings::{Impersonation, Login};

/// A token file is read again after this time, as client-go does: Kubernetes renews the tokens of service accounts.
const TOKEN_FILE_PERIOD: Duration = Duration::from_secs(50);

/// Source of the Authorization header.
pub(super) enum Credentials {
    None,
    Fixed(HeaderValue),
    TokenFile(TokenFile),
    Plugin(Arc<Plugin>),
}

/// A token in a file, with the token of the kubeconfig for the case that the file cannot be read.
pub(super) struct TokenFile {
    path: PathBuf,
    fallback: String,
    last: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Credentials {
    /// Prepares the credentials; reads a token file but runs no plugin.
    pub(super) fn new(login: &Login) -> Result<Self, Failure> {
        Ok(match login {
            Login::Anonymous => Self::None,
            Login::Token { text, file: None } => Self::Fixed(bearer(text)?),
            Login::Token { text, file: Some(path) } => {
                let file = TokenFile {
                    path: path.clone(),
                    fallback: text.clone(),
                    last: Mutex::default(),
                };
                file.header()?;
                Self::TokenFile(file)
            }
            Login::Basic { username, password } => {
                let encoded = STANDARD.encode(format!("{username}:{password}"));
                Self::Fixed(header(&format!("Basic {encoded}"))?)
            }
            Login::Plugin { plugin, cluster } => Self::Plugin(Plugin::shared(plugin, cluster.as_ref())),
            Login::Provider(provider) => Self::Fixed(bearer(id_token(provider)?)?),
        })
    }
}

impl TokenFile {
    fn header(&self) -> Result<HeaderValue, Failure> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((header, read)) = &*last
            && read.elapsed() < TOKEN_FILE_PERIOD
        {
            return Ok(header.clone());
        }
        match self.read() {
            Ok(header) => {
                *last = Some((header.clone(), Instant::now()));
                Ok(header)
            }
            // The old token may still be good.
            Err(failure) => match &*last {
                Some((header, _)) => Ok(header.clone()),
                None if self.fallback.is_empty() => Err(failure),
                None => bearer(&self.fallback),
            },
        }
    }

    fn read(&self) -> Result<HeaderValue, Failure> {
        let path = self.path.display();
        let unusable = |why: &str| Failure::new(Kind::Unauthorized, format!("the tokenFile {path} {why}"));
        let text =
            std::fs::read_to_string(&self.path).map_err(|error| unusable(&format!("cannot be read: {error}")))?;
        let token = text.trim();
        if token.is_empty() {
            return Err(unusable("is empty"));
        }
        bearer(token)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    header(&format!("Bearer {token}"))
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        Failure::new(
            Kind::Unauthorized,
            "the token or user name has a character that HTTP cannot carry, such as a line break; correct it",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the token of an `auth-provider`. Of these client-go still knows `oidc`; podbridge uses its token and does not renew it.
fn id_token(provider: &AuthProvider) -> Result<&str, Failure> {
    let refuse = |why: &str| Err(Failure::new(Kind::Unauthorized, why));
    if provider.name != "oidc" {
        return refuse(&format!(
            "the auth-provider {:?} of the kubeconfig is not known (kubectl has removed gcp and azure); use a credential plugin (exec)",
            provider.name
        ));
    }
    let Some(token) = provider.config.get("id-token").filter(|token| !token.is_empty()) else {
        return refuse("the auth-provider oidc of the kubeconfig has no id-token: log in again");
    };
    let claims = token
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let claims: Option<serde_json::Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let expires = claims.and_then(|claims| claims.get("exp")?.as_f64());
    let now = Timestamp::now().as_second();
    if expires.is_none_or(|expires| expires < now as f64) {
        return refuse(
            "the id-token of the auth-provider oidc has expired, and podbridge does not renew it: run kubectl once, or log in again",
        );
    }
    Ok(token)
}

/// Makes the headers of an identity to act as.
pub(super) fn impersonation_headers(impersonation: &Impersonation) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if impersonation.user.is_empty() {
        return Ok(headers);
    }
    let invalid = || Failure::usage("a name to impersonate (--as, --as-group) has a character that HTTP cannot carry");
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::try_from(name).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid())?;
        headers.append(name, value);
        Ok::<_, Failure>(())
    };
    add("impersonate-user", &impersonation.user)?;
    if !impersonation.uid.is_empty() {
        add("impersonate-uid", &impersonation.uid)?;
    }
    for group in &impersonation.groups {
        add("impersonate-group", group)?;
    }
    for (key, values) in &impersonation.extra {
        for value in values {
            add(&format!("impersonate-extra-{}", escaped_key(key)), value)?;
        }
    }
    Ok(headers)
}

/// Percent-encodes the characters that the name of a header cannot have.
fn escaped_key(key: &str) -> String {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes()
        .map(|byte| {
            if is_legal(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Adds the headers to each request. If the server refuses a plugin's credential, the plugin runs again, once.
#[derive(Clone)]
pub(super) struct Authenticated<S> {
    inner: S,
    credentials: Arc<Credentials>,
    impersonation: HeaderMap,
    /// Limit of a plugin's run.
    limit: Duration,
}

impl<S> Authenticated<S> {
    pub(super) fn new(inner: S, credentials: Arc<Credentials>, impersonation: HeaderMap, limit: Duration) -> Self {
        Self {
            inner,
            credentials,
            impersonation,
            limit,
        }
    }
}

impl<S, B> Service<Request<Body>> for Authenticated<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (credentials, limit) = (self.credentials.clone(), self.limit);
        request.headers_mut().extend(self.impersonation.clone());
        Box::pin(async move {
            let plugin = match &*credentials {
                Credentials::Plugin(plugin) => plugin,
                other => {
                    let header = match other {
                        Credentials::Fixed(header) => Some(header.clone()),
                        Credentials::TokenFile(file) => Some(file.header()?),
                        Credentials::None | Credentials::Plugin(_) => None,
                    };
                    request
                        .headers_mut()
                        .extend(header.map(|header| (AUTHORIZATION, header)));
                    return inner.call(request).await.map_err(Into::into);
                }
            };
            let credential = plugin.credential(limit).await?;
            // podbridge's requests have no body.
            let again = Request::builder()
                .method(request.method())
                .uri(request.uri())
                .body(Body::empty())
                .map(|mut again| {
                    again.headers_mut().clone_from(request.headers());
                    again
                });
            set_token(&mut request, &credential)?;
            let response = inner.call(request).await.map_err(Into::into)?;
            let (StatusCode::UNAUTHORIZED, Ok(mut again)) = (response.status(), again) else {
                return Ok(response);
            };
            plugin.forget(&credential).await;
            let renewed = plugin.credential(limit).await?;
            set_token(&mut again, &renewed)?;
            std::future::poll_fn(|context| inner.poll_ready(context))
                .await
                .map_err(Into::into)?;
            inner.call(again).await.map_err(Into::into)
        })
    }
}

fn set_token(request: &mut Request<Body>, credential: &Credential) -> Result<(), Failure> {
    if let Some(token) = &credential.token {
        request.headers_mut().insert(AUTHORIZATION, bearer(token)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_token_file_may_end_with_a_line_break_and_comes_before_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let login = |text: &str| Login::Token {
            text: text.into(),
            file: Some(path.clone()),
        };
        let sent = |login: &Login| match Credentials::new(login) {
            Ok(Credentials::TokenFile(file)) => file.header().unwrap().to_str().unwrap().to_owned(),
            Ok(_) => panic!("not a file"),
            Err(failure) => failure.message,
        };
        assert!(sent(&login("")).contains("cannot be read"));
        assert_eq!(sent(&login("text")), "Bearer text");
        std::fs::write(&path, "from-file\n").unwrap();
        assert_eq!(sent(&login("text")), "Bearer from-file");
        std::fs::write(&path, "\n").unwrap();
        assert!(sent(&login("")).contains("empty"));
    }

    #[test]
    fn extra_values_are_escaped_as_header_names() {
        let impersonation = Impersonation {
            user: "ci".into(),
            groups: vec!["a".into(), "b".into()],
            extra: BTreeMap::from([("example.com/scope%".into(), vec!["x".into()])]),
            ..Impersonation::default()
        };
        let headers = impersonation_headers(&impersonation).unwrap();
        assert_eq!(headers["impersonate-extra-example.com%2fscope%25"], "x");
        assert_eq!(headers.get_all("impersonate-group").iter().count(), 2);
        let odd = Impersonation {
            user: "a\nb".into(),
            ..Impersonation::default()
        };
        assert!(impersonation_headers(&odd).is_err());
    }

    #[test]
    fn a_token_with_a_line_break_is_refused() {
        let login = Login::Token {
            text: "a\nb".into(),
            file: None,
        };
        assert!(Credentials::new(&login).is_err());
    }
}
