//! URL of the API server, as kubectl reads it (`rest.DefaultServerURL`). `settings` makes it, `http_client` and `connector` connect to it.

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::pod::go_url::GoUrl;

/// Characters that Go escapes in the path of a server.
const PATH_ESCAPES: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// An http or https URL with a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerUrl {
    pub(super) url: GoUrl,
    pub(super) is_https: bool,
    /// Prefix of the paths of the API, without a slash at its end.
    base_path: String,
    authority: String,
}

impl ServerUrl {
    /// Parses the text of a kubeconfig or option; the error is the end of a sentence that names the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (url, has_scheme) = GoUrl::parse_with_default_scheme(text).map_err(|error| error.to_string())?;
        if !has_scheme && !url.path.is_empty() && url.path != "/" {
            return Err("it has a path but no scheme".into());
        }
        let is_https = match url.scheme.as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("its scheme is neither https nor http".into()),
        };
        if url.host.is_empty() {
            return Err("it names no host".into());
        }
        let base_path = utf8_percent_encode(url.path.trim_end_matches('/'), PATH_ESCAPES).to_string();
        let authority = url.authority();
        let server = Self {
            url,
            is_https,
            base_path,
            authority,
        };
        server.uri("/").map_err(|error| error.to_string())?;
        Ok(server)
    }

    pub(super) fn port(&self) -> u16 {
        let default = if self.is_https { 443 } else { 80 };
        self.url.port.unwrap_or(default)
    }

    /// Returns `host:port`.
    pub(super) fn address(&self) -> String {
        let with_port = GoUrl {
            port: Some(self.port()),
            ..self.url.clone()
        };
        with_port.authority()
    }

    /// Returns the URL for messages: without credentials and without a slash at its end.
    pub(super) fn shown(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.base_path)
    }

    /// Returns the URI of a path of the API.
    pub(super) fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        let scheme = if self.is_https { "https" } else { "http" };
        let path: PathAndQuery = format!("{}{path_and_query}", self.base_path).parse()?;
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_kubectl_reads_them() {
        let uri = |text: &str| ServerUrl::parse(text).unwrap().uri("/api").unwrap().to_string();
        assert_eq!(uri("https://h"), "https://h/api");
        assert_eq!(uri("https://h:6443/"), "https://h:6443/api");
        assert_eq!(uri("https://h/k8s/clusters/c-1/"), "https://h/k8s/clusters/c-1/api");
        assert_eq!(uri("https://[::1]:1"), "https://[::1]:1/api");
        assert_eq!(uri("127.0.0.1:8001"), "http://127.0.0.1:8001/api");
        assert_eq!(uri("localhost:8001"), "http://localhost:8001/api");
        assert_eq!(uri("host"), "http://host/api");
        assert_eq!(uri("https://user:secret@h"), "https://h/api");
        assert_eq!(uri("https://h/a b"), "https://h/a%20b/api");
        assert_eq!(ServerUrl::parse("https://u:p@h/x/").unwrap().shown(), "https://h/x");
        assert_eq!(ServerUrl::parse("https://[::1]").unwrap().address(), "[::1]:443");
        for wrong in [
            "",
            "h:1/path",
            "ftp://h",
            "https://",
            "https://h:port",
            "https://h h",
            "\n",
        ] {
            assert!(ServerUrl::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
