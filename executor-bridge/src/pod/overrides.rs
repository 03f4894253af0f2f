//! The context that a target's options select in a kubeconfig, with the options that override it. Reads no kubeconfig and asks no server.
//! `identity`, `resolution` and `settings` call it.

use std::path::{Path, PathBuf};

use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};

use crate::error::{Failure, Kind};
use crate::pod::flags::Flags;
use crate::protocol::target::Target;

/// One name for the only cluster, user and context of the kubeconfig that is built here.
const ONLY: &str = "podbridge";

/// Options that are given beside the kubeconfig. `extra_args` come last on kubectl's command line, so they win.
pub(super) struct Overrides<'a> {
    target: &'a Target,
    flags: &'a Flags,
    context: Option<String>,
    pub(super) namespace: Option<String>,
    server: Option<String>,
    token: Option<String>,
    ca_cert: Option<String>,
    client_cert: Option<String>,
    client_key: Option<String>,
    insecure: Option<bool>,
}

/// The cluster, the user and the namespace that the options select.
#[derive(Debug, Clone)]
pub(super) struct SelectedContext {
    /// Name of the kubeconfig in messages.
    pub(super) named: String,
    pub(super) cluster: Cluster,
    pub(super) user: AuthInfo,
    pub(super) namespace: Option<String>,
    pub(super) proxy: Option<String>,
}

impl<'a> Overrides<'a> {
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

    /// Checks that the files that the options name can be read.
    pub(super) fn check_files(&self) -> Result<(), Failure> {
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

    /// Selects from a kubeconfig, and applies the options.
    pub(super) fn select(&self, content: Kubeconfig, named: &str) -> Result<SelectedContext, Failure> {
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
        Ok(SelectedContext {
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

    pub(super) fn override_user(&self, user: &mut AuthInfo) {
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

impl SelectedContext {
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

    /// Returns a kubeconfig with nothing else in it.
    pub(super) fn kubeconfig(self) -> Kubeconfig {
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
