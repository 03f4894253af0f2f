//! A target's options as settings of a Kubernetes client: kubeconfig files or data, the context in them, and what
//! overrides it. Reads files; nothing here speaks to a server.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster,
    NamedContext,
};

use super::flags::Flags;
use crate::error::{Failure, Kind, chain};
use crate::protocol::target::Target;

pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) namespace: String,
    /// `None`: the caller's limit alone.
    pub(super) request_timeout: Option<Duration>,
}

/// One name for the only cluster, user and context of the kubeconfig that is built here.
const ONLY: &str = "podbridge";

pub(super) async fn load(target: &Target) -> Result<Settings, Failure> {
    let flags = Flags::parse(&target.extra_args)?;
    let chosen = Chosen::new(target, &flags);
    chosen.check_files()?;
    let mut config = match source(target, &flags)? {
        Source::Kubeconfig(kubeconfig, named) => {
            let proxied = chosen.kubeconfig(kubeconfig, &named)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(proxied, &options).await;
            config.map_err(|error| unusable(&named, &error))?
        }
        Source::InCluster => in_cluster(&chosen)?,
    };
    if config.proxy_url.is_some() {
        // Read from the environment by kube, which does not know NO_PROXY of the server.
        config.proxy_url = None;
    }
    if let Some(url) = chosen.proxy_url.clone().or_else(|| proxy_of(&config.cluster_url)) {
        config.proxy_url = Some(url);
    }
    // The bridge answers within its own time; kube's repetitions would hide for a minute what the server says at once.
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

enum Source {
    /// And what to call it.
    Kubeconfig(Kubeconfig, String),
    InCluster,
}

fn source(target: &Target, flags: &Flags) -> Result<Source, Failure> {
    if let Some(data) = &target.kubeconfig_data {
        let kubeconfig = serde_json::from_value(data.clone()).map_err(|error| {
            Failure::new(
                Kind::Kubeconfig,
                format!("kubeconfig_data is no kubeconfig: {}", without_values(&error.to_string())),
            )
        })?;
        return Ok(Source::Kubeconfig(kubeconfig, "kubeconfig_data".into()));
    }
    if let Some(list) = flags.kubeconfig.as_ref().or(target.kubeconfig.as_ref()) {
        return read_list(list).map(|kubeconfig| Source::Kubeconfig(kubeconfig, format!("the kubeconfig {list}")));
    }
    let default = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    if let Some(path) = default.filter(|path| path.exists()) {
        let named = format!("the kubeconfig {}", path.display());
        return read(&path).map(|kubeconfig| Source::Kubeconfig(kubeconfig, named));
    }
    if target.server.is_some() || flags.server.is_some() {
        return Ok(Source::Kubeconfig(Kubeconfig::default(), "no kubeconfig".into()));
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Ok(Source::InCluster);
    }
    Err(Failure::new(
        Kind::Kubeconfig,
        "there is no kubeconfig: set KUBECONFIG, give --kubeconfig, or make ~/.kube/config",
    ))
}

/// As kubectl: of several files those that are not there are passed over.
fn read_list(list: &str) -> Result<Kubeconfig, Failure> {
    let paths: Vec<_> = list.split(':').filter(|path| !path.is_empty()).map(Path::new).collect();
    let present: Vec<_> = match paths.len() {
        1 => paths,
        _ => paths.into_iter().filter(|path| path.exists()).collect(),
    };
    if present.is_empty() {
        return Err(Failure::new(
            Kind::Kubeconfig,
            format!("none of the kubeconfig files {list} exists; correct KUBECONFIG or --kubeconfig"),
        ));
    }
    let mut merged = Kubeconfig::default();
    for path in present {
        let next = read(path)?;
        merged = merged.merge(next).map_err(|error| unusable(&format!("the kubeconfig {list}"), &error))?;
    }
    Ok(merged)
}

/// Relative paths inside become absolute, from the file's directory.
fn read(path: &Path) -> Result<Kubeconfig, Failure> {
    let named = format!("the kubeconfig {}", path.display());
    if !path.is_absolute() {
        return Err(Failure::usage(format!("{named} is not an absolute path")));
    }
    Kubeconfig::read_from(path).map_err(|error| match &error {
        KubeconfigError::ReadConfig(cause, _) if cause.kind() == ErrorKind::NotFound => Failure::new(
            Kind::Kubeconfig,
            format!("{named} does not exist; correct KUBECONFIG or --kubeconfig"),
        ),
        _ => unusable(&named, &error),
    })
}

fn unusable(named: &str, error: &KubeconfigError) -> Failure {
    let why = match error {
        // The parser may quote the file, secrets and all.
        KubeconfigError::Parse(cause) => {
            let text = cause.to_string();
            format!("is not valid YAML: {}", without_values(text.lines().next().unwrap_or_default()))
        }
        _ => format!("cannot be used: {}", chain(error)),
    };
    Failure::new(Kind::Kubeconfig, format!("{named} {why}"))
}

/// Whatever a parser quotes is replaced.
fn without_values(text: &str) -> String {
    let mut shown = String::new();
    let mut quote = None;
    for letter in text.chars() {
        match quote {
            Some(open) if letter == open => quote = None,
            Some(_) => {}
            None if matches!(letter, '"' | '`' | '\'') => {
                quote = Some(letter);
                shown.push('…');
            }
            None => shown.push(letter),
        }
    }
    shown
}

/// What was given beside the kubeconfig. `extra_args` come last on kubectl's command line, and win.
struct Chosen<'a> {
    target: &'a Target,
    flags: &'a Flags,
    context: Option<String>,
    namespace: Option<String>,
    server: Option<String>,
    token: Option<String>,
    ca_cert: Option<String>,
    client_cert: Option<String>,
    client_key: Option<String>,
    /// Of the cluster, set when the kubeconfig was read.
    proxy_url: std::cell::OnceCell<Uri>,
}

impl<'a> Chosen<'a> {
    fn new(target: &'a Target, flags: &'a Flags) -> Self {
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
            proxy_url: std::cell::OnceCell::new(),
        }
    }
}
