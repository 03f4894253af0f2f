//! Target of a bridge: the options that the user gave, completed by what the environment decides (ADR 14), as a JSON object; the object's
//! key names the bridge's socket. Secrets may be inside: `Debug` and `public` show none. `config` makes targets, `pod` and `link` read them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::Failure;
use crate::protocol::json_fault::json_fault;
use crate::protocol::object_name::{ObjectKind, ObjectName, is_kubernetes_name, normalised};

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// One absolute path, or several with ':' between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
    /// One absolute path, whatever letters it has: the option `--kubeconfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_file: Option<String>,
    /// `.kube/config` in the home directory, absolute: counts if nothing else names a kubeconfig, and need not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_kubeconfig: Option<String>,
    /// Content of a kubeconfig, instead of a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_ssl: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<String>,
    /// The bridge's whole environment: the variables that decide where the API server is, and all others if a credential plugin may
    /// see them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkChoice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_socket: Option<PathBuf>,
    /// Where the bridge serves the live log of a pod that a job made (ADR 23).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<SocketAddrV4>,
}

/// Link to the agent that the user wants; an absent choice leaves it to the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LinkChoice {
    /// Through the API server, and directly to the pod's address as soon as that works; with the stock kubectl where podbridge's own client fails
    Auto,
    /// Through the API server only
    ExecProxy,
    /// Directly to the pod's address; the API server is used only to prepare that
    Direct,
    /// Through the API server only, with the stock kubectl as the client
    Kubectl,
    /// Through a Unix socket on this machine
    Local,
}

/// Name of a bridge's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A target with the key of the JSON object it was read from. A newer client may write the same target as another object.
#[derive(Debug, Clone)]
pub(crate) struct KeyedTarget {
    pub target: Target,
    pub key: Key,
}

impl KeyedTarget {
    /// Reads a client's JSON; an error if it is no object or holds a field that this release does not know.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Failure> {
        let unusable = |error: serde_json::Error| {
            let why = json_fault(&error);
            Failure::usage(format!("the target on standard input cannot be used: {why}"))
        };
        let value: Value = serde_json::from_slice(json).map_err(unusable)?;
        let key = key(&value);
        let target: Target = serde_json::from_value(value).map_err(unusable)?;
        target.check()?;
        Ok(Self { target, key })
    }

    /// Returns the key under which a bridge is found by tokens of its user, as far as their words tell them apart: the target without its
    /// token, the subject that a JSON Web Token names, and a number for further users. The bridge verifies what the words only claim.
    pub(crate) fn user_key(&self, number: usize) -> Result<Key, Failure> {
        let token = self.target.token.as_deref().unwrap_or_default();
        let target = Target {
            token: None,
            ..self.target.clone()
        };
        let value = serde_json::to_value(&target)
            .map_err(|error| Failure::usage(format!("the target cannot be written as JSON: {error}")))?;
        Ok(key(
            &serde_json::json!({"target": value, "subject": subject(token), "number": number}),
        ))
    }

    /// Gives a target its key; an error if the target could never work.
    pub(crate) fn new(target: Target) -> Result<Self, Failure> {
        target.check()?;
        let value = serde_json::to_value(&target)
            .map_err(|error| Failure::usage(format!("the target cannot be written as JSON: {error}")))?;
        Ok(Self {
            key: key(&value),
            target,
        })
    }
}

/// Returns the first 16 hexadecimal digits of the SHA-256 of the canonical JSON: sorted keys, no white space, no escapes for printable
/// text. serde_json writes exactly that, because its objects are sorted maps.
pub(crate) fn key(value: &Value) -> Key {
    let digest = Sha256::digest(value.to_string().as_bytes());
    Key(HEXLOWER.encode(&digest[..8]))
}

/// Returns issuer and subject that a JSON Web Token claims (RFC 7519); nothing for other tokens. The signature is not checked.
fn subject(token: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
        sub: String,
    }
    let payload = token.split('.').nth(1)?;
    let json = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&json).ok()?;
    Some((claims.iss, claims.sub))
}

impl Target {
    /// Refuses a target that could never work.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.check_console()?;
        if self.link() == LinkChoice::Local {
            return match &self.agent_socket {
                Some(path) if path.is_absolute() => Ok(()),
                Some(path) => Err(Failure::usage(format!(
                    "the agent's socket {} is not an absolute path",
                    path.display()
                ))),
                None => Err(Failure::usage(
                    "the local link needs the agent's socket: give --agent-socket or PODBRIDGE_AGENT_SOCKET",
                )),
            };
        }
        ObjectName::parse(self.pod.as_deref().unwrap_or_default())?;
        if let Some(name) = self.namespace.as_ref().filter(|name| !is_kubernetes_name(name)) {
            return Err(Failure::usage(format!(
                "{name:?} cannot be the name of a pod or namespace: lower-case letters, digits, '-' and '.' only"
            )));
        }
        let named = [
            self.kubeconfig.is_some(),
            self.kubeconfig_file.is_some(),
            self.kubeconfig_data.is_some(),
        ];
        if named.into_iter().filter(|named| *named).count() > 1 {
            return Err(Failure::usage(
                "give one of kubeconfig, kubeconfig_file and kubeconfig_data",
            ));
        }
        // The bridge has another working directory than the user.
        for (name, path) in [
            ("client_cert", &self.client_cert),
            ("client_key", &self.client_key),
            ("ca_cert", &self.ca_cert),
        ] {
            if path.as_deref().is_some_and(|path| !path.starts_with('/')) {
                // The message does not show the value: it may be the key itself.
                return Err(Failure::usage(format!("{name} is not an absolute path")));
            }
        }
        let single = [&self.kubeconfig_file, &self.default_kubeconfig];
        let listed = self.kubeconfig.as_deref().unwrap_or_default().split(':');
        let listed = listed.filter(|path| !path.is_empty());
        let mut paths = single.into_iter().filter_map(|path| path.as_deref()).chain(listed);
        if let Some(path) = paths.find(|path| !path.starts_with('/')) {
            return Err(Failure::usage(format!("{path} is not an absolute path")));
        }
        Ok(())
    }

    /// Refuses to open a port for others than this host, and Zuul's own address. The logs of an object whose pods change are in no one pod.
    fn check_console(&self) -> Result<(), Failure> {
        let Some(console) = self.console else { return Ok(()) };
        let (address, port) = (*console.ip(), console.port());
        if !address.is_loopback() || address == Ipv4Addr::LOCALHOST || port == 0 {
            return Err(Failure::usage(format!(
                "the live log cannot be served at {console}: the address must be in 127.0.0.0/8 and not 127.0.0.1, the port 1 to 65535"
            )));
        }
        if self.names_object() {
            return Err(Failure::usage(format!(
                "the live log at {console} needs the name of a pod, not {}",
                self.pod_name()
            )));
        }
        Ok(())
    }

    /// Returns this target with another token of its user.
    pub(crate) fn with_token(&self, token: String) -> Self {
        Self {
            token: Some(token),
            ..self.clone()
        }
    }

    /// The files of the kubeconfig, absolute, and whether they may all be absent.
    pub(crate) fn kubeconfig_files(&self) -> (Vec<&str>, bool) {
        if let Some(path) = &self.kubeconfig_file {
            return (vec![path], false);
        }
        if let Some(list) = &self.kubeconfig {
            return (list.split(':').filter(|path| !path.is_empty()).collect(), false);
        }
        (self.default_kubeconfig.as_deref().into_iter().collect(), true)
    }

    /// Tells whether the word for the pod names an object whose pods change, such as a deployment.
    pub(crate) fn names_object(&self) -> bool {
        self.link() != LinkChoice::Local
            && self
                .pod
                .as_deref()
                .map(ObjectName::parse)
                .is_some_and(|object| object.is_ok_and(|object| object.kind != ObjectKind::Pod))
    }

    /// Returns the link that the user wants.
    pub(crate) fn link(&self) -> LinkChoice {
        self.link.unwrap_or(LinkChoice::Auto)
    }

    /// Returns the pod's name for messages; `-` without one.
    pub(crate) fn pod_name(&self) -> &str {
        normalised(self.pod.as_deref().unwrap_or("-"))
    }

    /// Returns the fields that `status` and logs may show: none that could hold a secret.
    pub(crate) fn public(&self) -> Value {
        let shown = Self {
            kubeconfig_data: None,
            token: None,
            username: None,
            password: None,
            extra_args: Vec::new(),
            env: BTreeMap::new(),
            server: self.server.as_deref().map(without_login),
            ..self.clone()
        };
        serde_json::to_value(shown).unwrap_or_default()
    }
}

/// Returns words of another program as messages may show them: no URL in them has its name and its password.
pub(crate) fn without_logins(text: &str) -> String {
    let pieces = text.split_inclusive(|letter: char| letter.is_whitespace() || letter == '"' || letter == '\'');
    pieces
        .map(|piece| {
            if piece.contains("://") {
                without_login(piece)
            } else {
                piece.to_owned()
            }
        })
        .collect()
}

/// Returns a URL as messages may show it: without the name and the password that it may hold.
pub(crate) fn without_login(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (None, Some((_, rest))) => format!("…@{rest}"),
        _ => url.to_owned(),
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(json: &str) -> String {
        KeyedTarget::parse(json.as_bytes()).unwrap().key.to_string()
    }

    /// The vector that the Python plugin asserts too: sha256('{"namespace":"ci","pod":"web"}')[:16].
    #[test]
    fn the_key_of_a_known_target() {
        assert_eq!(key_of(r#"{"pod":"web","namespace":"ci"}"#), "655b32a8db20b679");
    }

    #[test]
    fn the_key_depends_on_content_alone() {
        let plain = key_of(r#"{"pod":"web","namespace":"ci","env":{"B":"ż\u007f","A":"\n"}}"#);
        let spaced =
            key_of("{ \"namespace\" : \"ci\",\n \"env\":{\"A\":\"\\u000a\",\"B\":\"\\u017c\x7f\"}, \"pod\":\"web\" }");
        assert_eq!(plain, spaced);
        // json.dumps(t, sort_keys=True, separators=(",", ":"), ensure_ascii=False) of the same.
        assert_eq!(plain, "d9b806a18f419811");
        let written = KeyedTarget::new(Target {
            pod: Some("web".into()),
            namespace: Some("ci".into()),
            ..Target::default()
        });
        assert_eq!(
            written.unwrap().key.to_string(),
            key_of(r#"{"pod":"web","namespace":"ci"}"#)
        );
    }

    /// Tokens of one subject share a key, and an unreadable token is nobody's in particular.
    #[test]
    fn the_user_key_depends_on_the_claimed_subject() {
        let token = |claims: &str, signature: &str| format!("e30.{}.{signature}", URL_SAFE_NO_PAD.encode(claims));
        let one = r#"{"iss":"https://api","sub":"system:serviceaccount:ci:one","exp":1}"#;
        let later = r#"{"iss":"https://api","sub":"system:serviceaccount:ci:one","exp":2}"#;
        let two = r#"{"iss":"https://api","sub":"system:serviceaccount:ci:two"}"#;
        let key = |token: String| {
            let json = serde_json::json!({"pod": "web", "token": token}).to_string();
            KeyedTarget::parse(json.as_bytes()).unwrap().user_key(0).unwrap()
        };
        assert_eq!(key(token(one, "a")), key(token(later, "b")));
        assert_ne!(key(token(one, "a")), key(token(two, "a")));
        assert_eq!(key("k8s-aws-v1.eA".into()), key("opaque".into()));
        assert_ne!(key("opaque".into()), key(token(one, "a")));
    }

    #[test]
    fn targets_that_cannot_work_are_refused_by_name() {
        let refused = |json: &str| KeyedTarget::parse(json.as_bytes()).unwrap_err().message;
        assert!(refused("{}").contains("no pod"));
        assert!(refused(r#"{"pod":"../x"}"#).contains("\"../x\""));
        assert!(refused(r#"{"pod":"web","namespcae":"ci"}"#).contains("namespcae"));
        assert!(refused(r#"{"pod":"web","kubeconfig":"kube/config"}"#).contains("absolute"));
        assert!(refused(r#"{"pod":"web","kubeconfig":"/a:b"}"#).contains("b is not"));
        assert!(refused(r#"{"pod":"web","link":"local"}"#).contains("--agent-socket"));
        assert!(refused(r#"{"pod":"web","link":"warp"}"#).contains("`exec-proxy`"));
        assert!(refused("not json").contains("not valid JSON"));
    }

    #[test]
    fn the_logins_of_urls_are_not_shown() {
        for (said, shown) in [
            (
                "cannot get pods on https://u:p@h:1: refused",
                "cannot get pods on https://…@h:1: refused",
            ),
            (
                r#"host must be a URL: "https://u:p@h:none""#,
                r#"host must be a URL: "https://…@h:none""#,
            ),
            ("http://a:b@proxy/ and https://c@d", "http://…@proxy/ and https://…@d"),
            ("a user@host and https://h/path", "a user@host and https://h/path"),
            ("", ""),
        ] {
            assert_eq!(without_logins(said), shown, "{said}");
        }
    }

    #[test]
    fn a_live_log_is_served_on_loopback_alone() {
        let parse = |pod: &str, console: &str| {
            let json = serde_json::json!({"pod": pod, "console": console}).to_string();
            KeyedTarget::parse(json.as_bytes()).map(|keyed| keyed.target.console.unwrap().to_string())
        };
        for console in ["127.0.0.2:19885", "127.255.255.254:1", "127.1.2.3:65535"] {
            assert_eq!(parse("pod/web", console).unwrap(), console);
        }
        for console in [
            "127.0.0.1:19885",
            "0.0.0.0:19885",
            "10.0.0.1:19885",
            "128.0.0.1:19885",
            "127.0.0.2:0",
            "127.0.0.2",
            "127.0.0.2:70000",
            "localhost:19885",
            "[::1]:19885",
            "",
        ] {
            let failure = parse("web", console).unwrap_err();
            assert_eq!(failure.kind, crate::error::Kind::Usage, "{console}");
        }
        assert!(
            parse("deploy/web", "127.0.0.2:1")
                .unwrap_err()
                .message
                .contains("deploy/web")
        );
        let local = r#"{"link":"local","agent_socket":"/a","console":"127.0.0.1:1"}"#;
        assert!(KeyedTarget::parse(local.as_bytes()).is_err());
    }

    #[test]
    fn a_pod_has_one_name_however_it_is_spelt() {
        for word in ["web", "pod/web", "po/web", "pods/web"] {
            let target = KeyedTarget::parse(format!(r#"{{"pod":"{word}"}}"#).as_bytes())
                .unwrap()
                .target;
            assert_eq!((target.pod_name(), target.names_object()), ("web", false), "{word}");
        }
        let target = KeyedTarget::parse(br#"{"pod":"deploy/web"}"#).unwrap().target;
        assert_eq!((target.pod_name(), target.names_object()), ("deploy/web", true));
    }

    #[test]
    fn secrets_are_not_shown() {
        let json = r#"{"pod":"web","token":"SECRET","password":"SECRET","kubeconfig_data":{"x":"SECRET"},
            "extra_args":["--token=SECRET"],"env":{"X":"SECRET"}}"#;
        let target = KeyedTarget::parse(json.as_bytes()).unwrap();
        assert!(!format!("{target:?}").contains("SECRET"));
        assert!(format!("{target:?}").contains("web"));
    }
}
