//! A target's options as settings of a Kubernetes client: the context of its kubeconfig and what overrides it. Nothing here
//! speaks to a server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};

use crate::error::{Failure, Kind, chain};
use crate::pod::flags::Flags;
use crate::pod::kubeconfig;
use crate::pod::resolution::Resolution;
use crate::protocol::target::Target;

pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) namespace: String,
    /// `None`: the caller's limit alone.
    pub(super) request_timeout: Option<Duration>,
}

/// One name for the only cluster, user and context of the kubeconfig that is built here.
const ONLY: &str = "podbridge";

/// Makes settings of what the target was resolved to. Files that are named by path are read anew: they may have been rotated.
pub(super) async fn load(target: &Target, resolution: &Resolution) -> Result<Settings, Failure> {
    let flags = Flags::parse(&target.extra_args)?;
    let chosen = Chosen::new(target, &flags);
    chosen.check_files()?;
    let (mut config, proxy) = match resolution.selected.clone() {
        Some(mut selected) => {
            // The token may be a newer one than when the target was resolved.
            chosen.override_user(&mut selected.user);
            let (proxy, named) = (selected.proxy.clone(), selected.named.clone());
            let config = Config::from_custom_kubeconfig(selected.kubeconfig(), &KubeConfigOptions::default()).await;
            (config.map_err(|error| kubeconfig::unusable(&named, &error))?, proxy)
        }
        None => {
            let mut config = Config::incluster().map_err(|error| {
                Failure::new(
                    Kind::Kubeconfig,
                    format!("the service account of this pod cannot be used: {}", chain(&error)),
                )
            })?;
            chosen.override_user(&mut config.auth_info);
            (config, None)
        }
    };
    // Set by kube from the environment, without regard to what NO_PROXY says of the server.
    config.proxy_url = match proxy {
        Some(url) => Some(
            url.parse()
                .map_err(|_| Failure::new(Kind::Kubeconfig, "the proxy-url of the kubeconfig's cluster is no URL"))?,
        ),
        None => proxy_of(&config.cluster_url),
    };
    // The bridge answers within its own time; kube's repetitions would hide for long what the server says at once.
    config.default_retry = false;
    Ok(Settings {
        namespace: chosen.namespace.unwrap_or_else(|| config.default_namespace.clone()),
        request_timeout: flags.request_timeout,
        config,
    })
}

/// `HTTPS_PROXY` and its like, except for this host itself, as Go has it.
fn proxy_of(server: &Uri) -> Option<Uri> {
    let host = server.host()?.trim_matches(['[', ']']);
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return None;
    }
    Matcher::from_env().intercept(server).map(|proxy| proxy.uri().clone())
}

/// What was given beside the kubeconfig. `extra_args` come last on kubectl's command line, and win.
pub(super) struct Chosen<'a> {
    target: &'a Target,
    flags: &'a Flags,
    context: Option<String>,
    namespace: Option<String>,
    server: Option<String>,
    token: Option<String>,
    ca_cert: Option<String>,
    client_cert: Option<String>,
    client_key: Option<String>,
    insecure: Option<bool>,
}

/// One cluster, one user.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    /// What to call the kubeconfig in messages.
    named: String,
    pub(super) cluster: Cluster,
    user: AuthInfo,
    pub(super) namespace: Option<String>,
    proxy: Option<String>,
}

impl<'a> Chosen<'a> {
    pub(super) fn new(target: &'a Target, flags: &'a Flags) -> Self {
        let either = |flag: &Option<String>, option: &Option<String>| flag.clone().or_else(|| option.clone());
        Self {
            target,
            flags,
            context: either(&flags.context, &target.context),
            namespace: either(&flags.namespace, &target.namespace),
            server: either(&flags.server, &target.server),
            token: either(&flags.token, &target.token),
            ca_cert: either(&flags.certificate_authority, &target.ca_cert),
            client_cert: either(&flags.client_certificate, &target.client_cert),
            client_key: either(&flags.client_key, &target.client_key),
            insecure: flags.insecure.or(target.verify_ssl.map(|verify| !verify)),
        }
    }

    /// Files that the user named beside the kubeconfig must be there.
    fn check_files(&self) -> Result<(), Failure> {
        for path in [&self.ca_cert, &self.client_cert, &self.client_key]
            .into_iter()
            .flatten()
        {
            if !Path::new(path).is_absolute() {
                return Err(Failure::usage(format!("{path} is not an absolute path")));
            }
            std::fs::File::open(path).map_err(|error| {
                Failure::new(
                    Kind::LocalFile,
                    format!("the certificate or key {path} cannot be read: {error}"),
                )
            })?;
        }
        Ok(())
    }

    pub(super) fn select(&self, content: Kubeconfig, named: &str) -> Result<Selected, Failure> {
        let context = self.select_context(&content, named)?;
        let cluster_name = self.flags.cluster.as_ref().unwrap_or(&context.cluster);
        let found = content.clusters.iter().find(|cluster| cluster.name == *cluster_name);
        let mut cluster = match found.and_then(|cluster| cluster.cluster.clone()) {
            Some(cluster) => cluster,
            None if self.server.is_some() => Cluster::default(),
            None => {
                return Err(Failure::new(
                    Kind::Kubeconfig,
                    format!("{named} has no cluster {cluster_name:?}; correct the file or the options"),
                ));
            }
        };
        let user_name = self.flags.user.as_ref().or(context.user.as_ref());
        let found = content.auth_infos.iter().find(|user| Some(&user.name) == user_name);
        let mut user = match found.and_then(|user| user.auth_info.clone()) {
            Some(user) => user,
            // As kubectl: a context may name a user that is not there, an option may not.
            None if self.flags.user.is_none() => AuthInfo::default(),
            None => {
                let name = user_name.map_or("", String::as_str);
                return Err(Failure::new(Kind::Kubeconfig, format!("{named} has no user {name:?}")));
            }
        };
        self.override_cluster(&mut cluster);
        self.override_user(&mut user);
        Ok(Selected {
            named: named.to_owned(),
            proxy: cluster.proxy_url.take().filter(|url| !url.is_empty()),
            cluster,
            user,
            namespace: context.namespace,
        })
    }

    fn select_context(&self, content: &Kubeconfig, named: &str) -> Result<Context, Failure> {
        let current = content.current_context.as_ref().filter(|name| !name.is_empty());
        let Some(name) = self.context.as_ref().or(current) else {
            return match self.server {
                Some(_) => Ok(Context::default()),
                None => Err(Failure::new(
                    Kind::Context,
                    format!("{named} has no current context; name one with --context"),
                )),
            };
        };
        let found = content.contexts.iter().find(|context| context.name == *name);
        found.and_then(|context| context.context.clone()).ok_or_else(|| {
            let known: Vec<_> = content.contexts.iter().map(|context| context.name.as_str()).collect();
            let known = if known.is_empty() {
                "it has none".into()
            } else {
                format!("it has {}", known.join(", "))
            };
            Failure::new(Kind::Context, format!("{named} has no context {name:?}; {known}"))
        })
    }

    fn override_cluster(&self, cluster: &mut Cluster) {
        if let Some(server) = &self.server {
            cluster.server = Some(server.clone());
        }
        if let Some(name) = &self.flags.tls_server_name {
            cluster.tls_server_name = Some(name.clone());
        }
        if let Some(path) = &self.ca_cert {
            cluster.certificate_authority = Some(path.clone());
            cluster.certificate_authority_data = None;
        }
        if let Some(insecure) = self.insecure {
            cluster.insecure_skip_tls_verify = Some(insecure);
        }
    }

    fn override_user(&self, user: &mut AuthInfo) {
        let (target, flags) = (self.target, self.flags);
        let username = flags.username.as_ref().or(target.username.as_ref());
        let password = flags.password.as_ref().or(target.password.as_ref());
        if self.token.is_some() || username.is_some() {
            // One way to say who we are: what was given beside the file replaces what is in it.
            *user = AuthInfo {
                impersonate: user.impersonate.take(),
                impersonate_uid: user.impersonate_uid.take(),
                impersonate_groups: user.impersonate_groups.take(),
                impersonate_user_extra: user.impersonate_user_extra.take(),
                ..AuthInfo::default()
            };
            user.token = self.token.clone().map(Into::into);
            user.username = username.cloned();
            user.password = password.cloned().map(Into::into);
        }
        if let Some(path) = &self.client_cert {
            user.client_certificate = Some(path.clone());
            user.client_certificate_data = None;
        }
        if let Some(path) = &self.client_key {
            user.client_key = Some(path.clone());
            user.client_key_data = None;
        }
        if let Some(name) = &flags.impersonate {
            user.impersonate = Some(name.clone());
        }
        if let Some(uid) = &flags.impersonate_uid {
            user.impersonate_uid = Some(uid.clone());
        }
        if !flags.impersonate_groups.is_empty() {
            user.impersonate_groups = Some(flags.impersonate_groups.clone());
        }
    }
}

impl Selected {
    /// Returns everything that decides where a request goes and with whose rights. It holds secrets.
    pub(super) fn as_json(&self) -> serde_json::Value {
        serde_json::json!({
            "cluster": self.cluster,
            "user": self.user,
            "namespace": self.namespace,
            "proxy": self.proxy,
        })
    }

    /// Returns the files that the cluster and the user name by path.
    pub(super) fn credential_files(&self) -> Vec<PathBuf> {
        let (cluster, user) = (&self.cluster, &self.user);
        let files = [
            &cluster.certificate_authority,
            &user.client_certificate,
            &user.client_key,
            &user.token_file,
        ];
        files.into_iter().flatten().map(PathBuf::from).collect()
    }

    fn kubeconfig(self) -> Kubeconfig {
        Kubeconfig {
            clusters: vec![NamedCluster {
                name: ONLY.into(),
                cluster: Some(self.cluster),
                ..NamedCluster::default()
            }],
            auth_infos: vec![NamedAuthInfo {
                name: ONLY.into(),
                auth_info: Some(self.user),
                ..NamedAuthInfo::default()
            }],
            contexts: vec![NamedContext {
                name: ONLY.into(),
                context: Some(Context {
                    cluster: ONLY.into(),
                    user: Some(ONLY.into()),
                    namespace: self.namespace.filter(|name| !name.is_empty()),
                    ..Context::default()
                }),
                ..NamedContext::default()
            }],
            current_context: Some(ONLY.into()),
            ..Kubeconfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "clusters": [{"name": "c", "cluster": {"server": "https://one:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ci"}},
                     {"name": "y", "context": {"cluster": "gone", "user": "gone"}}],
        "current-context": "x"}"#;

    fn target(json: &str) -> Target {
        let mut target: Target = serde_json::from_str(json).unwrap();
        target.kubeconfig_data = Some(serde_json::from_str(FILE).unwrap());
        target
    }

    async fn settings(json: &str) -> Result<Settings, Failure> {
        let target = target(json);
        load(&target, &Resolution::read(&target)?).await
    }

    #[tokio::test]
    async fn the_current_context_is_used_unless_another_is_named() {
        let found = settings(r#"{"pod":"web"}"#).await.unwrap();
        assert_eq!(found.config.cluster_url, "https://one:1/");
        assert_eq!(found.namespace, "ci");
        assert!(found.config.auth_info.token.is_some());
        let other = settings(r#"{"pod":"web","namespace":"n","server":"https://two:2","verify_ssl":false}"#);
        let other = other.await.unwrap();
        assert_eq!(other.config.cluster_url, "https://two:2/");
        assert!(other.config.accept_invalid_certs);
        assert_eq!(other.namespace, "n");
    }

    #[tokio::test]
    async fn extra_args_win() {
        let json = r#"{"pod":"web","namespace":"n","extra_args":["--namespace=m","--as","ci","--as-group=g"]}"#;
        let found = settings(json).await.unwrap();
        assert_eq!(found.namespace, "m");
        assert_eq!(found.config.auth_info.impersonate.as_deref(), Some("ci"));
        assert_eq!(found.config.auth_info.impersonate_groups, Some(vec!["g".into()]));
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let failure = async |json| settings(json).await.err().unwrap();
        let unknown = failure(r#"{"pod":"web","context":"z"}"#).await;
        assert_eq!((unknown.kind, unknown.message.contains("x, y")), (Kind::Context, true));
        let clusterless = failure(r#"{"pod":"web","context":"y"}"#).await;
        assert_eq!(
            (clusterless.kind, clusterless.message.contains("gone")),
            (Kind::Kubeconfig, true)
        );
        let file = failure(r#"{"pod":"web","client_key":"/none/key"}"#).await;
        assert_eq!((file.kind, file.message.contains("/none/key")), (Kind::LocalFile, true));
        let flag = failure(r#"{"pod":"web","extra_args":["--watch"]}"#).await;
        assert_eq!(flag.kind, Kind::Usage);
    }
}
