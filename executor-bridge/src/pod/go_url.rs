//! URLs as Go's `net/url` reads them: kubectl takes servers and proxies in forms that are no `http::Uri`, such as `HOST:PORT`. `server_url` and
//! `proxy` use it.

use std::fmt;

use percent_encoding::percent_decode_str;

/// The parts of a URL that a connection needs. Query and fragment are dropped, as client-go drops them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GoUrl {
    /// In lower case; empty in a text without a scheme.
    pub(super) scheme: String,
    /// Name and password before the '@', decoded.
    pub(super) user: Option<(String, String)>,
    /// Without the brackets of an IPv6 address; empty if the text has no authority.
    pub(super) host: String,
    /// `None` stands for the scheme's default port.
    pub(super) port: Option<u16>,
    pub(super) path: String,
}

/// Reason why a text is no URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoUrl(&'static str);

impl fmt::Display for NoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl GoUrl {
    /// Parses as `url.Parse` does.
    pub(super) fn parse(text: &str) -> Result<Self, NoUrl> {
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(NoUrl("it has a control character"));
        }
        let text = text.split('#').next().unwrap_or_default();
        let (scheme, rest) = split_scheme(text)?;
        let rest = rest.split('?').next().unwrap_or_default();
        let Some(rest) = rest.strip_prefix("//") else {
            let has_colon = rest.split('/').next().is_some_and(|segment| segment.contains(':'));
            if scheme.is_empty() && has_colon {
                return Err(NoUrl("it has a colon, and no scheme before it"));
            }
            // An opaque URL such as `localhost:8080`, or a path alone.
            let path = if rest.starts_with('/') || scheme.is_empty() {
                rest
            } else {
                ""
            };
            return Ok(Self {
                scheme,
                user: None,
                host: String::new(),
                port: None,
                path: path.to_owned(),
            });
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(parse_user(user)?), address),
            None => (None, authority),
        };
        let (host, port) = parse_address(address)?;
        Ok(Self {
            scheme,
            user,
            host,
            port,
            path: path.to_owned(),
        })
    }

    /// Parses a text that may lack the scheme: with a text such as `HOST:PORT` the scheme is http.
    pub(super) fn parse_with_default_scheme(text: &str) -> Result<(Self, bool), NoUrl> {
        match Self::parse(text) {
            Ok(url) if !url.scheme.is_empty() && !url.host.is_empty() => Ok((url, true)),
            _ => Ok((Self::parse(&format!("http://{text}"))?, false)),
        }
    }

    /// Returns host and port as they stand in a URL, with brackets around an IPv6 address.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            // RFC 6874: the '%' before a zone is encoded in a URL.
            format!("[{}]", self.host.replace('%', "%25"))
        } else {
            self.host.clone()
        };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

fn split_scheme(text: &str) -> Result<(String, &str), NoUrl> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err(NoUrl("the scheme before ':' is missing")),
            b':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn parse_user(text: &str) -> Result<(String, String), NoUrl> {
    let (name, password) = text.split_once(':').unwrap_or((text, ""));
    Ok((decode(name)?, decode(password)?))
}

fn parse_address(text: &str) -> Result<(String, Option<u16>), NoUrl> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.rsplit_once(']').ok_or(NoUrl("']' is missing"))?;
        match rest.strip_prefix(':') {
            Some(port) => (host, port),
            None if rest.is_empty() => (host, ""),
            None => return Err(NoUrl("its port is invalid")),
        }
    } else {
        text.rsplit_once(':').unwrap_or((text, ""))
    };
    let port = if port.is_empty() {
        None
    } else if port.bytes().all(|byte| byte.is_ascii_digit()) {
        Some(port.parse().map_err(|_| NoUrl("its port is invalid"))?)
    } else {
        return Err(NoUrl("its port is invalid"));
    };
    if host.contains([' ', '<', '>', '"']) {
        return Err(NoUrl("its host name is invalid"));
    }
    Ok((decode(host)?, port))
}

/// Decodes percent escapes; an incomplete one is an error, as in Go.
fn decode(text: &str) -> Result<String, NoUrl> {
    let bytes = text.as_bytes();
    let is_escape = |at: usize| {
        let digits = bytes.get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if (0..bytes.len()).any(|at| bytes[at] == b'%' && !is_escape(at)) {
        return Err(NoUrl("it has an incomplete percent escape"));
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| NoUrl("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, Option<u16>, String) {
        let url = GoUrl::parse(text).unwrap();
        (url.scheme, url.host, url.port, url.path)
    }

    #[test]
    fn urls_are_split_as_go_splits_them() {
        for (text, scheme, host, port, path) in [
            ("https://h", "https", "h", None, ""),
            ("HTTPS://h:1/", "https", "h", Some(1), "/"),
            ("https://[::1]:6443/a?b#c", "https", "::1", Some(6443), "/a"),
            ("https://[fe80::1%25eth0]", "https", "fe80::1%eth0", None, ""),
            ("https://h:", "https", "h", None, ""),
            ("localhost:8080", "localhost", "", None, ""),
            ("host/path", "", "", None, "host/path"),
        ] {
            assert_eq!(parts(text), (scheme.into(), host.into(), port, path.into()), "{text}");
        }
        for wrong in [
            "127.0.0.1:1",
            ":80",
            "https://h:x",
            "https://[::1",
            "https://h:99999",
            "h\n",
            "https://%zz",
        ] {
            assert!(GoUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_decoded() {
        let url = GoUrl::parse("http://u:p%40s:s@h:1").unwrap();
        assert_eq!(url.user, Some(("u".into(), "p@s:s".into())));
        assert_eq!(url.authority(), "h:1");
        assert_eq!(
            GoUrl::parse("http://u@h").unwrap().user,
            Some(("u".into(), String::new()))
        );
    }

    #[test]
    fn a_missing_scheme_is_http() {
        for text in ["127.0.0.1:1", "localhost:1"] {
            let (url, has_scheme) = GoUrl::parse_with_default_scheme(text).unwrap();
            assert_eq!((url.scheme.as_str(), url.port, has_scheme), ("http", Some(1), false));
        }
    }
}
