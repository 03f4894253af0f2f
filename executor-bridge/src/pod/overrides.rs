//! The choices among kubeconfig and options, and their contradictions, as in client-go's `tools/clientcmd`: context, cluster, user and
//! namespace. Speaks to no server. `resolution`, `settings` and `identity` use it.

use std::path::{Path, PathBuf};

use crate::env::KUBERNETES_SERVICE_HOST;
use crate::error::{Failure, Kind};
use crate::pod::flags::Flags;
use crate::pod::kubeconfig::{self, Cluster, Context, Exec, Kubeconfig, Source, User};
use crate::pod::proxy::Variables;
use crate::protocol::target::Target;

/// Port of the API server, which Kubernetes gives to every pod.
const KUBERNETES_SERVICE_PORT: &str = "KUBERNETES_SERVICE_PORT";
/// Namespace of the pod that podbridge itself runs in, if its manifest sets it.
const POD_NAMESPACE: &str = "POD_NAMESPACE";
/// Server of a kubeconfig that names none.
const KUBERNETES_MASTER: &str = "KUBERNETES_MASTER";
/// Files that Kubernetes mounts into every pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const DEFAULT_NAMESPACE: &str = "default";
/// Variables of a target: all that its bridge has.
pub(super) struct TargetVariables<'a>(pub(super) &'a Target);

impl Variables for TargetVariables<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .env
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// Resolves a target's options to context, cluster, user and namespace.
pub(super) fn resolve(target: &Target, flags: &Flags) -> Result<SelectedContext, Failure> {
    let overrides = Overrides::new(target, flags);
    let variables = TargetVariables(target);
    let Source { content, named } = kubeconfig::source(target, flags)?;
    let mut resolved = overrides.resolve(content, &named)?;
    if resolved.cluster.server.is_empty()
        && let Some(server) = variables.get(KUBERNETES_MASTER)
    {
        server.clone_into(&mut resolved.cluster.server);
    }
    let in_cluster = InCluster::find(&variables);
    let namespaces = [
        overrides.namespace.clone(),
        Some(resolved.context.namespace.clone()),
        // As kubectl, which does so even if a kubeconfig names the server.
        in_cluster.as_ref().map(|place| place.namespace.clone()),
    ];
    let namespace = namespaces.into_iter().flatten().find(|name| !name.is_empty());
    resolved.namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into());
    if resolved.cluster.server.is_empty() {
        // As kubectl: a pod's service account serves if the kubeconfig leads nowhere.
        let Some(place) = in_cluster else {
            return Err(resolved.no_server());
        };
        place.fill(&mut resolved, &overrides);
    }
    Ok(resolved)
}

/// The service account of the pod that podbridge runs in.
struct InCluster {
    server: String,
    namespace: String,
}

impl InCluster {
    fn find(variables: &impl Variables) -> Option<Self> {
        let text = |name: &str| variables.get(name).map(str::to_owned);
        let (host, port) = (text(KUBERNETES_SERVICE_HOST)?, text(KUBERNETES_SERVICE_PORT)?);
        Path::new(SERVICE_ACCOUNT).join("token").is_file().then_some(())?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let from_file = || std::fs::read_to_string(Path::new(SERVICE_ACCOUNT).join("namespace")).ok();
        let namespace = text(POD_NAMESPACE).or_else(from_file).unwrap_or_default();
        Some(Self {
            server: format!("https://{host}:{port}"),
            namespace: namespace.trim().to_owned(),
        })
    }

    /// Takes server and credentials from the service account. Of the options only server, token and authority count, as in client-go.
    fn fill(self, resolved: &mut SelectedContext, overrides: &Overrides<'_>) {
        let file = |name: &str| format!("{SERVICE_ACCOUNT}/{name}");
        let authority = overrides.ca_cert.clone().unwrap_or_else(|| file("ca.crt"));
        resolved.cluster = Cluster {
            server: self.server,
            certificate_authority: authority,
            ..Cluster::default()
        };
        resolved.user = match &overrides.token {
            Some(token) => User {
                token: token.clone(),
                ..User::default()
            },
            None => User {
                token_file: file("token"),
                ..User::default()
            },
        };
    }
}

/// Options beside the kubeconfig. `extra_args` come last on kubectl's command line, so they win. An empty option counts as absent.
pub(super) struct Overrides<'a> {
    flags: &'a Flags,
    context: Option<String>,
    namespace: Option<String>,
    server: Option<String>,
    token: Option<String>,
    username: Option<String>,
    password: Option<String>,
    ca_cert: Option<String>,
    client_cert: Option<String>,
    client_key: Option<String>,
    insecure: Option<bool>,
}

/// Context, cluster and user after the overrides. It holds secrets.
#[derive(Clone)]
pub(super) struct SelectedContext {
    /// Name of the kubeconfig for messages.
    pub(super) named: String,
    /// Name of the context; empty without one.
    pub(super) name: String,
    pub(super) context: Context,
    pub(super) cluster: Cluster,
    pub(super) user: User,
    /// Namespace after the overrides; empty before the environment was asked.
    pub(super) namespace: String,
    has_context: bool,
    known_contexts: Vec<String>,
    cluster_exists: bool,
}

impl<'a> Overrides<'a> {
    pub(super) fn new(target: &'a Target, flags: &'a Flags) -> Self {
        let either = |flag: &Option<String>, option: &Option<String>| {
            let given = flag.clone().or_else(|| option.clone());
            given.filter(|text| !text.is_empty())
        };
        Self {
            flags,
            context: either(&flags.context, &target.context),
            namespace: either(&flags.namespace, &target.namespace),
            server: either(&flags.server, &target.server),
            token: either(&flags.token, &target.token),
            username: either(&flags.username, &target.username),
            password: either(&flags.password, &target.password),
            ca_cert: either(&flags.certificate_authority, &target.ca_cert),
            client_cert: either(&flags.client_certificate, &target.client_cert),
            client_key: either(&flags.client_key, &target.client_key),
            insecure: flags.insecure.or(target.verify_ssl.map(|verify| !verify)),
        }
    }

    /// Files that the user named beside the kubeconfig must be there.
    pub(super) fn check_files(&self) -> Result<(), Failure> {
        for (name, path) in [
            ("--certificate-authority", &self.ca_cert),
            ("--client-certificate", &self.client_cert),
            ("--client-key", &self.client_key),
        ] {
            let Some(path) = path else { continue };
            if !Path::new(path).is_absolute() {
                // The message does not show the value: it may be the key itself.
                return Err(Failure::usage(format!("{name} is not an absolute path")));
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

    /// Chooses context, cluster and user, and applies the options.
    pub(super) fn resolve(&self, content: Kubeconfig, named: &str) -> Result<SelectedContext, Failure> {
        let name = self.context.clone().unwrap_or(content.current_context);
        let known_contexts: Vec<_> = content.contexts.keys().cloned().collect();
        let found = content.contexts.get(&name).cloned();
        if found.is_none() && !name.is_empty() {
            let known = if known_contexts.is_empty() {
                "it has none".into()
            } else {
                format!("it has {}", known_contexts.join(", "))
            };
            let message = format!("{named} has no context {name:?}; {known}");
            return Err(Failure::new(Kind::Context, message));
        }
        let has_context = found.is_some();
        let context = found.unwrap_or_default();
        let absent = |what: &str, name: &str| {
            let message = format!("{named} has no {what} {name:?}; correct the file or the options");
            Err(Failure::new(Kind::Kubeconfig, message))
        };
        let given = |flag: &Option<String>| flag.clone().filter(|name| !name.is_empty());
        let cluster_option = given(&self.flags.cluster);
        let cluster_name = cluster_option.as_ref().unwrap_or(&context.cluster);
        let cluster = content.clusters.get(cluster_name).cloned();
        if cluster.is_none() && cluster_option.is_some() {
            return absent("cluster", cluster_name);
        }
        let user_option = given(&self.flags.user);
        let user_name = user_option.as_ref().unwrap_or(&context.user);
        let user = content.users.get(user_name).cloned();
        // As kubectl: a context may name a user that is not there, an option may not.
        if user.is_none() && user_option.is_some() {
            return absent("user", user_name);
        }
        let mut resolved = SelectedContext {
            named: named.to_owned(),
            name,
            namespace: String::new(),
            cluster_exists: cluster.is_some() || context.cluster.is_empty(),
            context,
            cluster: cluster.unwrap_or_default(),
            user: user.unwrap_or_default(),
            has_context,
            known_contexts,
        };
        self.override_cluster(&mut resolved.cluster);
        self.override_user(&mut resolved.user);
        Ok(resolved)
    }

    fn override_cluster(&self, cluster: &mut Cluster) {
        if let Some(server) = &self.server {
            cluster.server.clone_from(server);
        }
        // client-go: either option clears what the file says of both.
        let insecure = self.insecure == Some(true);
        if insecure || self.ca_cert.is_some() {
            cluster.insecure_skip_tls_verify = insecure;
            cluster.certificate_authority = self.ca_cert.clone().unwrap_or_default();
            cluster.certificate_authority_data = Vec::new();
        }
        if self.insecure == Some(false) {
            // A check that the user asks for is made, whatever the file says.
            cluster.insecure_skip_tls_verify = false;
        }
        // client-go: another server does not have the name that the file gives to its own.
        let name = self.flags.tls_server_name.clone().filter(|name| !name.is_empty());
        if name.is_some() || self.server.is_some() {
            cluster.tls_server_name = name.unwrap_or_default();
        }
    }

    pub(super) fn override_user(&self, user: &mut User) {
        fn replace(field: &mut String, option: &Option<String>) {
            if let Some(text) = option.as_ref().filter(|text| !text.is_empty()) {
                field.clone_from(text);
            }
        }
        let flags = self.flags;
        replace(&mut user.token, &self.token);
        replace(&mut user.username, &self.username);
        replace(&mut user.password, &self.password);
        replace(&mut user.client_certificate, &self.client_cert);
        replace(&mut user.client_key, &self.client_key);
        replace(&mut user.r#as, &flags.impersonate);
        replace(&mut user.as_uid, &flags.impersonate_uid);
        if !flags.impersonate_groups.is_empty() {
            user.as_groups.clone_from(&flags.impersonate_groups);
        }
        user.as_user_extra.extend(flags.impersonate_extra.clone());
    }
}

impl SelectedContext {
    /// Makes the failure for options that lead to no server.
    pub(super) fn no_server(&self) -> Failure {
        let named = &self.named;
        if !self.has_context {
            let known = &self.known_contexts;
            return if known.is_empty() {
                let message =
                    "there is no kubeconfig with a server: set KUBECONFIG, give --kubeconfig, or create ~/.kube/config";
                Failure::new(Kind::Kubeconfig, message)
            } else {
                let message = format!(
                    "{named} has no current context; name one with --context: it has {}",
                    known.join(", ")
                );
                Failure::new(Kind::Context, message)
            };
        }
        let cluster = &self.context.cluster;
        let message = if self.cluster_exists {
            format!("{named} names no server for the cluster {cluster:?}; correct the file or the options")
        } else {
            format!("{named} has no cluster {cluster:?}; correct the file or the options")
        };
        Failure::new(Kind::Kubeconfig, message)
    }

    /// Refuses contradictions, as `clientcmd.ConfirmUsable` does.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let Self {
            named, cluster, user, ..
        } = self;
        let refuse = |why: &str| Err(Failure::new(Kind::Kubeconfig, format!("{named} cannot be used: {why}")));
        if !cluster.certificate_authority.is_empty() && !cluster.certificate_authority_data.is_empty() {
            return refuse("certificate-authority and certificate-authority-data are both given; remove one of them");
        }
        readable("certificate-authority", &cluster.certificate_authority)?;
        let has_basic = !user.username.is_empty() || !user.password.is_empty();
        if has_basic && !user.token.is_empty() {
            return refuse("its user has a token and a user name with password; only one of them is allowed");
        }
        if !user.client_certificate.is_empty() || !user.client_certificate_data.is_empty() {
            if !user.client_certificate.is_empty() && !user.client_certificate_data.is_empty() {
                return refuse("client-certificate and client-certificate-data are both given; remove one of them");
            }
            if !user.client_key.is_empty() && !user.client_key_data.is_empty() {
                return refuse("client-key and client-key-data are both given; remove one of them");
            }
            if user.client_key.is_empty() && user.client_key_data.is_empty() {
                return refuse("its user has a client certificate without a client-key");
            }
            readable("client-certificate", &user.client_certificate)?;
            readable("client-key", &user.client_key)?;
        }
        if let Some(plugin) = &user.exec {
            if user.auth_provider.is_some() {
                return refuse("its user has an auth-provider and a credential plugin (exec); remove one of them");
            }
            check_plugin(plugin).or_else(|why| refuse(&why))?;
        }
        let has_more = !user.as_uid.is_empty() || !user.as_groups.is_empty() || !user.as_user_extra.is_empty();
        if has_more && user.r#as.is_empty() {
            return refuse("a uid, groups or extra values to act as (--as-uid, --as-group) need a user (--as)");
        }
        Ok(())
    }

    /// Returns everything that decides where a request goes and with whose rights. It holds secrets.
    pub(super) fn as_json(&self) -> serde_json::Value {
        serde_json::json!({
            "cluster": self.cluster,
            "user": self.user,
            "namespace": self.namespace,
        })
    }

    /// Returns the files that the cluster and the user name by path.
    /// Refuses what a kubeconfig that holds only tokens does not have: programs, other credentials' files, and a proxy. `directory`: where
    /// the kubeconfig is, and where its files may be.
    pub(super) fn check_confined(&self, directory: &Path) -> Result<(), Failure> {
        let (cluster, user) = (&self.cluster, &self.user);
        let outside = |path: &String| !path.is_empty() && !is_below(Path::new(path), directory);
        let refused = [
            ("a credential plugin (exec)", user.exec.is_some()),
            ("an auth-provider", user.auth_provider.is_some()),
            ("a tokenFile", !user.token_file.is_empty()),
            ("a proxy-url", !cluster.proxy_url.is_empty()),
            (
                "a certificate-authority outside of its directory",
                outside(&cluster.certificate_authority),
            ),
            (
                "a client-certificate outside of its directory",
                outside(&user.client_certificate),
            ),
            ("a client-key outside of its directory", outside(&user.client_key)),
        ];
        match refused.into_iter().find(|(_, found)| *found) {
            None => Ok(()),
            Some((what, _)) => Err(Failure::new(
                Kind::Kubeconfig,
                format!(
                    "{} has {what}, which a bridge of a Zuul build does not use: it runs outside of the job's sandbox; give the node a \
                     kubeconfig with a token or with inline certificates",
                    self.named
                ),
            )),
        }
    }

    pub(super) fn credential_files(&self) -> Vec<PathBuf> {
        let (cluster, user) = (&self.cluster, &self.user);
        let files = [
            &cluster.certificate_authority,
            &user.client_certificate,
            &user.client_key,
            &user.token_file,
        ];
        files
            .into_iter()
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .collect()
    }
}

/// Tells whether a path leads below a directory, through whatever links.
fn is_below(path: &Path, directory: &Path) -> bool {
    match (path.canonicalize(), directory.canonicalize()) {
        (Ok(path), Ok(directory)) => path.starts_with(directory),
        _ => false,
    }
}

fn readable(what: &str, path: &str) -> Result<(), Failure> {
    if path.is_empty() {
        return Ok(());
    }
    let opened = std::fs::File::open(path);
    opened.map(drop).map_err(|error| {
        let message = format!("the {what} {path} of the kubeconfig cannot be read: {error}; correct the kubeconfig");
        Failure::new(Kind::Kubeconfig, message)
    })
}

fn check_plugin(plugin: &Exec) -> Result<(), String> {
    if plugin.command.is_empty() {
        return Err("its credential plugin (exec) has no command".into());
    }
    if plugin.api_version.is_empty() {
        return Err("its credential plugin (exec) has no apiVersion".into());
    }
    if !plugin.api_version.starts_with("client.authentication.k8s.io/")
        || !["v1", "v1beta1"]
            .iter()
            .any(|version| plugin.api_version.ends_with(&format!("/{version}")))
    {
        return Err(format!(
            "the apiVersion {:?} of its credential plugin (exec) is unknown; client.authentication.k8s.io/v1 and v1beta1 are known",
            plugin.api_version
        ));
    }
    if plugin.env.iter().any(|variable| variable.name.is_empty()) {
        return Err("its credential plugin (exec) has an env entry without a name".into());
    }
    match plugin.interactive_mode.as_str() {
        "Never" | "IfAvailable" | "Always" => Ok(()),
        // client-go's default for the older version.
        "" if plugin.api_version.ends_with("/v1beta1") => Ok(()),
        "" => Err("its credential plugin (exec) has no interactiveMode; set Never, IfAvailable or Always".into()),
        other => Err(format!(
            "the interactiveMode {other:?} of its credential plugin (exec) is unknown; set Never, IfAvailable or Always"
        )),
    }
}
