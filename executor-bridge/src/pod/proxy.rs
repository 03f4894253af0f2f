//! The proxy on the way to the API server: `proxy-url` of the cluster, or HTTPS_PROXY, HTTP_PROXY and NO_PROXY as Go's
//! `golang.org/x/net/http/httpproxy` reads them. `settings` calls it; `connector` connects through the result.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::pod::go_url::GoUrl;
use crate::pod::server_url::ServerUrl;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyScheme {
    Http,
    Https,
    Socks5,
}

/// The environment variables that count for a target.
pub(super) trait Variables {
    /// Returns the value of a variable; `None` if it is absent or empty.
    fn get(&self, name: &str) -> Option<&str>;
}

/// A proxy and how to log in there.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) scheme: ProxyScheme,
    pub(super) url: GoUrl,
    /// Setting that names the proxy, for messages.
    pub(super) setting: &'static str,
}

impl Proxy {
    /// Parses the `proxy-url` of a cluster; the error is the end of a sentence that names the setting.
    pub(super) fn from_kubeconfig(text: &str) -> Result<Self, String> {
        let url = GoUrl::parse(text).map_err(|error| error.to_string())?;
        let scheme = match url.scheme.as_str() {
            "http" => ProxyScheme::Http,
            "https" => ProxyScheme::Https,
            "socks5" => ProxyScheme::Socks5,
            _ => return Err("its scheme is not http, https or socks5".into()),
        };
        if url.host.is_empty() {
            return Err("it names no host".into());
        }
        Ok(Self {
            scheme,
            url,
            setting: "proxy-url",
        })
    }

    /// Returns the proxy that the environment names for a server. A text that is no URL is ignored, as Go ignores it.
    pub(super) fn from_environment(server: &ServerUrl, variables: &impl Variables) -> Option<Self> {
        let names = if server.is_https {
            ["HTTPS_PROXY", "https_proxy"]
        } else {
            ["HTTP_PROXY", "http_proxy"]
        };
        let (setting, text) = first(variables, names)?;
        let (url, _) = GoUrl::parse_with_default_scheme(&text).ok()?;
        let no_proxy = first(variables, ["NO_PROXY", "no_proxy"]).map_or(String::new(), |(_, list)| list);
        if url.host.is_empty() || !applies(server, &no_proxy) {
            return None;
        }
        let scheme = match url.scheme.as_str() {
            "https" => ProxyScheme::Https,
            "socks5" | "socks5h" => ProxyScheme::Socks5,
            _ => ProxyScheme::Http,
        };
        Some(Self { scheme, url, setting })
    }

    pub(super) fn port(&self) -> u16 {
        self.url.port.unwrap_or(match self.scheme {
            ProxyScheme::Http => 80,
            ProxyScheme::Https => 443,
            ProxyScheme::Socks5 => 1080,
        })
    }

    /// Returns scheme, host and port for messages: without the credentials.
    pub(super) fn shown(&self) -> String {
        format!("{}://{}", self.url.scheme, self.url.authority())
    }
}

/// Returns the first of the variables that is set, with its name.
fn first(variables: &impl Variables, names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names
        .into_iter()
        .find_map(|name| Some((name, variables.get(name)?.to_owned())))
}

/// Tells whether the proxy is used for a server. Go never uses one for this host itself.
fn applies(server: &ServerUrl, no_proxy: &str) -> bool {
    let host = &server.url.host;
    let address: Option<IpAddr> = host.split('%').next().and_then(|address| address.parse().ok());
    if host == "localhost" || address.is_some_and(|address| address.to_canonical().is_loopback()) {
        return false;
    }
    let host = host.trim().to_lowercase();
    !no_proxy
        .split(',')
        .map(|entry| entry.trim().to_lowercase())
        .filter(|entry| !entry.is_empty())
        .any(|entry| matches(&entry, &host, server.port(), address))
}

/// Tells whether an entry of NO_PROXY means the host.
fn matches(entry: &str, host: &str, port: u16, address: Option<IpAddr>) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(network) = entry.parse::<IpNet>() {
        return address.is_some_and(|address| network.contains(&address) || network.contains(&address.to_canonical()));
    }
    let (entry_host, entry_port) = split_port(entry);
    if entry_port.is_some_and(|entry_port| entry_port != port.to_string()) || entry_host.is_empty() {
        return false;
    }
    if let Ok(entry_address) = entry_host.parse::<IpAddr>() {
        return address.is_some_and(|address| address.to_canonical() == entry_address.to_canonical());
    }
    if address.is_some() {
        return false;
    }
    let suffix = entry_host.strip_prefix('*').filter(|rest| rest.starts_with('.'));
    match suffix.unwrap_or(entry_host) {
        // A leading dot means subdomains only.
        suffix if suffix.starts_with('.') => host.ends_with(suffix),
        name => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// Splits `host:port` and `[address]:port`; any other text is a host.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some(rest) = entry.strip_prefix('[') {
        return match rest.split_once("]:") {
            Some((host, port)) => (host, Some(port)),
            None => (entry, None),
        };
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port).filter(|port| !port.is_empty())),
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    struct Fake(HashMap<&'static str, &'static str>);

    impl Variables for Fake {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.get(name).copied().filter(|value| !value.is_empty())
        }
    }

    fn proxy(server: &str, variables: &[(&'static str, &'static str)]) -> Option<String> {
        let fake = Fake(variables.iter().copied().collect());
        Proxy::from_environment(&ServerUrl::parse(server).unwrap(), &fake).map(|proxy| proxy.shown())
    }

    /// Rows are server, NO_PROXY, and whether the proxy is used; the expectations are Go's.
    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        for (server, no_proxy, expected) in [
            ("https://api.example:6443", "", true),
            ("https://api.example:6443", "example", false),
            ("https://example:6443", "example", false),
            ("https://example:6443", ".example", true),
            ("https://api.example:6443", ".example", false),
            ("https://api.example:6443", "*.example", false),
            ("https://example", "*.example", true),
            ("https://myexample", "example", true),
            ("https://API.Example", "api.EXAMPLE", false),
            ("https://api.example:6443", "api.example:6443", false),
            ("https://api.example:6443", "api.example:443", true),
            ("https://api.example", "api.example:443", false),
            ("https://api.example", "*", false),
            ("https://api.example", "other, *", false),
            ("https://api.example", "*example", true),
            ("https://api.example", " , api.example ,", false),
            ("https://10.1.2.3:6443", "10.0.0.0/8", false),
            ("https://10.1.2.3:6443", "10.1.2.0/24", false),
            ("https://11.1.2.3:6443", "10.0.0.0/8", true),
            ("https://10.1.2.3:6443", "10.1.2.3", false),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", false),
            ("https://10.1.2.3:6443", "10.1.2.3:443", true),
            ("https://10.1.2.3:6443", "10.1.2", true),
            ("https://10.1.2.3:6443", "2.3", true),
            ("https://[fd00::1]:6443", "fd00::/8", false),
            ("https://[fd00::1]:6443", "fd00::1", false),
            ("https://[fd00::1]:6443", "[fd00::1]:6443", false),
            ("https://localhost:6443", "", false),
            ("https://127.0.0.1:6443", "", false),
            ("https://127.8.8.8", "", false),
            ("https://[::1]", "", false),
            ("https://localhost.example", "", true),
        ] {
            let used = proxy(server, &[("HTTPS_PROXY", "http://p:3128"), ("NO_PROXY", no_proxy)]).is_some();
            assert_eq!(used, expected, "{server} with NO_PROXY={no_proxy}");
        }
    }

    #[test]
    fn the_variable_of_the_scheme_counts() {
        let both = [
            ("HTTPS_PROXY", "s:1"),
            ("HTTP_PROXY", "http://p:2"),
            ("ALL_PROXY", "http://all:3"),
        ];
        assert_eq!(proxy("https://h", &both).as_deref(), Some("http://s:1"));
        assert_eq!(proxy("http://h", &both).as_deref(), Some("http://p:2"));
        assert_eq!(proxy("https://h", &both[1..]), None);
        assert_eq!(
            proxy("https://h", &[("https_proxy", "socks5://u:x@s")]).as_deref(),
            Some("socks5://s")
        );
        let order = [("HTTPS_PROXY", ""), ("https_proxy", "b")];
        assert_eq!(proxy("https://h", &order).as_deref(), Some("http://b"));
    }

    #[test]
    fn a_proxy_url_has_a_scheme_and_a_host() {
        assert_eq!(Proxy::from_kubeconfig("socks5://h").map(|proxy| proxy.port()), Ok(1080));
        for wrong in ["h:1", "ftp://h", "http://", "127.0.0.1:1"] {
            assert!(Proxy::from_kubeconfig(wrong).is_err(), "{wrong}");
        }
    }
}
