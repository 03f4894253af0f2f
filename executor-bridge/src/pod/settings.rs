//! Settings of the connection to an API server: what a target was resolved to, as the layers of the client need it. Speaks to no server.
//! Only `pod` uses it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Failure, Kind};
use crate::pod::flags::Flags;
use crate::pod::kubeconfig::{AuthProvider, Cluster, Exec, User, Variable};
use crate::pod::overrides::{Overrides, SelectedContext, TargetVariables};
use crate::pod::proxy::{Proxy, Variables};
use crate::pod::resolution::Resolution;
use crate::pod::server_url::ServerUrl;
use crate::pod::tls::{PemSource, TlsSettings};
use crate::protocol::target::{Target, without_login};

/// Name of the cluster's extension that is passed to credential plugins.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

pub(super) struct Settings {
    pub(super) server: ServerUrl,
    pub(super) tls: TlsSettings,
    pub(super) proxy: Option<Proxy>,
    pub(super) login: Login,
    pub(super) impersonation: Impersonation,
    pub(super) namespace: String,
    /// `None` leaves the caller's limit.
    pub(super) request_timeout: Option<Duration>,
}

/// Credentials that travel in the header of each request. A client certificate is part of the TLS settings.
pub(super) enum Login {
    Anonymous,
    /// The file wins as long as it can be read, as in client-go.
    Token {
        text: String,
        file: Option<PathBuf>,
    },
    Basic {
        username: String,
        password: String,
    },
    Plugin {
        plugin: Exec,
        cluster: Option<serde_json::Value>,
    },
    Provider(AuthProvider),
}

/// Identity to act as.
#[derive(Default)]
pub(super) struct Impersonation {
    pub(super) user: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// Returns what the target was resolved to, with its newest token.
pub(super) fn context(target: &Target, resolution: &Resolution) -> Result<SelectedContext, Failure> {
    let flags = Flags::parse(&target.extra_args)?;
    let mut resolved = resolution.context.clone();
    // The token may be a newer one than when the target was resolved.
    Overrides::new(target, &flags).override_user(&mut resolved.user);
    Ok(resolved)
}

/// Makes settings of what the target was resolved to. Files that are named by path are read anew: they may have been rotated.
pub(super) fn load(target: &Target, resolution: &Resolution) -> Result<Settings, Failure> {
    let flags = Flags::parse(&target.extra_args)?;
    Overrides::new(target, &flags).check_files()?;
    let mut resolved = context(target, resolution)?;
    resolved.check()?;
    if let Some(plugin) = &mut resolved.user.exec {
        // The process of the bridge does not have the variables of its user.
        let inherited = target.env.iter().map(|(name, value)| Variable {
            name: name.clone(),
            value: value.clone(),
        });
        drop(plugin.env.splice(0..0, inherited));
    }
    settings(resolved, flags.request_timeout, &TargetVariables(target))
}

/// Makes the settings of a checked context.
fn settings(
    selected: SelectedContext,
    request_timeout: Option<Duration>,
    variables: &impl Variables,
) -> Result<Settings, Failure> {
    let SelectedContext {
        named,
        cluster,
        user,
        namespace,
        ..
    } = selected;
    let invalid = |what: &str, why: &str| {
        let message = format!("{what} of {named} is not a usable URL: {why}; correct the file or the options");
        Failure::new(Kind::Kubeconfig, message)
    };
    let server = ServerUrl::parse(&cluster.server)
        .map_err(|why| invalid(&format!("the server {:?}", without_login(&cluster.server)), &why))?;
    let proxy = if cluster.proxy_url.is_empty() {
        Proxy::from_environment(&server, variables)
    } else {
        let proxy = Proxy::from_kubeconfig(&cluster.proxy_url);
        Some(proxy.map_err(|why| invalid(&format!("the proxy-url {:?}", without_login(&cluster.proxy_url)), &why))?)
    };
    let impersonation = if user.r#as.is_empty() {
        Impersonation::default()
    } else {
        Impersonation {
            user: user.r#as.clone(),
            uid: user.as_uid.clone(),
            groups: user.as_groups.clone(),
            extra: user.as_user_extra.clone(),
        }
    };
    // client-go sends credentials through TLS alone; only those in the server's URL itself go out without it.
    let (tls, login) = if server.is_https {
        (tls_settings(&cluster, &user), login(user, &cluster)?)
    } else {
        (TlsSettings::default(), Login::Anonymous)
    };
    // Go takes the credentials in a URL before all others.
    let login = match &server.url.user {
        Some((username, password)) => Login::Basic {
            username: username.clone(),
            password: password.clone(),
        },
        None => login,
    };
    Ok(Settings {
        server,
        tls,
        proxy,
        login,
        impersonation,
        namespace,
        request_timeout,
    })
}

fn tls_settings(cluster: &Cluster, user: &User) -> TlsSettings {
    let pem = |data: &Vec<u8>, path: &String| {
        if !data.is_empty() {
            Some(PemSource::Data(data.clone()))
        } else if !path.is_empty() {
            Some(PemSource::File(path.into()))
        } else {
            None
        }
    };
    let certificate = pem(&user.client_certificate_data, &user.client_certificate);
    let key = pem(&user.client_key_data, &user.client_key);
    TlsSettings {
        authority: pem(&cluster.certificate_authority_data, &cluster.certificate_authority),
        insecure: cluster.insecure_skip_tls_verify,
        server_name: Some(cluster.tls_server_name.clone()).filter(|name| !name.is_empty()),
        identity: certificate.zip(key),
    }
}

/// Chooses the credentials. A token comes before a plugin, and a plugin does not run beside a client certificate, as in client-go.
fn login(user: User, cluster: &Cluster) -> Result<Login, Failure> {
    let has_basic = !user.username.is_empty() || !user.password.is_empty();
    let has_certificate = !user.client_certificate.is_empty() || !user.client_certificate_data.is_empty();
    if !user.token.is_empty() || !user.token_file.is_empty() {
        if has_basic {
            let message =
                "the kubeconfig's user has a tokenFile and a user name with password; only one of them is allowed";
            return Err(Failure::new(Kind::Kubeconfig, message));
        }
        return Ok(Login::Token {
            file: Some(user.token_file).filter(|path| !path.is_empty()).map(PathBuf::from),
            text: user.token,
        });
    }
    if has_basic {
        return Ok(Login::Basic {
            username: user.username,
            password: user.password,
        });
    }
    if let Some(provider) = user.auth_provider {
        return Ok(Login::Provider(provider));
    }
    match user.exec {
        Some(plugin) if !has_certificate => Ok(Login::Plugin {
            cluster: plugin.provide_cluster_info.then(|| cluster_info(cluster)).transpose()?,
            plugin,
        }),
        _ => Ok(Login::Anonymous),
    }
}

/// Returns what a plugin with `provideClusterInfo` gets to know of the cluster.
fn cluster_info(cluster: &Cluster) -> Result<serde_json::Value, Failure> {
    let authority = if cluster.certificate_authority_data.is_empty() && !cluster.certificate_authority.is_empty() {
        std::fs::read(&cluster.certificate_authority).map_err(|error| {
            let path = &cluster.certificate_authority;
            Failure::new(
                Kind::Kubeconfig,
                format!("the certificate-authority {path} cannot be read: {error}"),
            )
        })?
    } else {
        cluster.certificate_authority_data.clone()
    };
    let mut info = serde_json::Map::new();
    let mut set = |name: &str, value: serde_json::Value| info.insert(name.to_owned(), value);
    set("server", cluster.server.clone().into());
    if !cluster.tls_server_name.is_empty() {
        set("tls-server-name", cluster.tls_server_name.clone().into());
    }
    if cluster.insecure_skip_tls_verify {
        set("insecure-skip-tls-verify", true.into());
    }
    if !authority.is_empty() {
        set(
            "certificate-authority-data",
            data_encoding::BASE64.encode(&authority).into(),
        );
    }
    if !cluster.proxy_url.is_empty() {
        set("proxy-url", cluster.proxy_url.clone().into());
    }
    if cluster.disable_compression {
        set("disable-compression", true.into());
    }
    let extension = cluster
        .extensions
        .iter()
        .find(|extension| extension.name == EXEC_EXTENSION);
    set(
        "config",
        extension.map_or(serde_json::Value::Null, |extension| extension.extension.clone()),
    );
    Ok(info.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "clusters": [{"name": "c", "cluster": {"server": "https://one:1", "tls-server-name": "api"}},
                     {"name": "plain", "cluster": {"server": "one:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}, {"name": "p", "user": {"exec": {"command": "login",
                     "apiVersion": "client.authentication.k8s.io/v1beta1"}}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ci"}},
                     {"name": "y", "context": {"cluster": "gone", "user": "gone"}},
                     {"name": "p", "context": {"cluster": "c", "user": "p"}},
                     {"name": "plain", "context": {"cluster": "plain", "user": "u"}}],
        "current-context": "x"}"#;

    fn settings(json: &str) -> Result<Settings, Failure> {
        let mut target: Target = serde_json::from_str(json).unwrap();
        target.kubeconfig_data = Some(serde_json::from_str(FILE).unwrap());
        load(&target, &Resolution::read(&target)?)
    }

    fn server(settings: &Settings) -> String {
        settings.server.uri("/").unwrap().to_string()
    }

    #[test]
    fn the_current_context_is_used_unless_another_is_named() {
        let found = settings(r#"{"pod":"web"}"#).unwrap();
        assert_eq!(server(&found), "https://one:1/");
        assert_eq!(found.namespace, "ci");
        assert!(matches!(&found.login, Login::Token { text, .. } if text == "t"));
        assert_eq!(found.tls.server_name.as_deref(), Some("api"));
        let other = settings(r#"{"pod":"web","namespace":"n","server":"https://two:2","verify_ssl":false}"#).unwrap();
        assert_eq!(server(&other), "https://two:2/");
        assert!(other.tls.insecure);
        assert_eq!(other.tls.server_name, None, "the file's name is that of its own server");
        assert_eq!(other.namespace, "n");
    }

    #[test]
    fn extra_args_win() {
        let json = r#"{"pod":"web","namespace":"n","extra_args":["--namespace=m","--as","ci","--as-group=g"]}"#;
        let found = settings(json).unwrap();
        assert_eq!(found.namespace, "m");
        assert_eq!(found.impersonation.user, "ci");
        assert_eq!(found.impersonation.groups, ["g"]);
        let token = settings(r#"{"pod":"web","context":"p","token":"mine"}"#).unwrap();
        assert!(matches!(token.login, Login::Token { text, .. } if text == "mine"));
    }

    #[test]
    fn credentials_do_not_go_out_without_tls() {
        let found = settings(r#"{"pod":"web","context":"plain"}"#).unwrap();
        assert_eq!(server(&found), "http://one:1/");
        assert!(matches!(found.login, Login::Anonymous));
    }

    #[test]
    fn a_missing_context_cluster_or_file_is_named() {
        let failure = |json| settings(json).err().unwrap();
        let unknown = failure(r#"{"pod":"web","context":"z"}"#);
        assert_eq!((unknown.kind, unknown.message.contains("x, y")), (Kind::Context, true));
        let clusterless = failure(r#"{"pod":"web","context":"y"}"#);
        assert_eq!(
            (clusterless.kind, clusterless.message.contains("gone")),
            (Kind::Kubeconfig, true)
        );
        let file = failure(r#"{"pod":"web","client_key":"/none/key"}"#);
        assert_eq!((file.kind, file.message.contains("/none/key")), (Kind::LocalFile, true));
        let flag = failure(r#"{"pod":"web","extra_args":["--watch"]}"#);
        assert_eq!(flag.kind, Kind::Usage);
        let server = failure(r#"{"pod":"web","server":"https://u:SECRET@h:port"}"#);
        assert!(
            server.message.contains("h:port") && !server.message.contains("SECRET"),
            "{server}"
        );
        let groups = failure(r#"{"pod":"web","extra_args":["--as-group=g"]}"#);
        assert!(groups.message.contains("--as"), "{groups}");
    }
}
