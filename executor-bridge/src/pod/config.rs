//! From a target to kube's configuration: kubeconfig files, data or the cluster's own, then the options on top, as kubectl
//! orders them. Reads files; asks nobody.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use http::Uri;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::fault;
use crate::error::{Failure, Kind};
use crate::protocol::target::Target;

/// kubectl's global options, for `extra_args`. What has no meaning for us (verbosity, caches) is accepted and ignored.
#[derive(Debug, Default, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct KubectlOptions {
    #[arg(short = 'n', long)]
    namespace: Option<String>,
    #[arg(long)]
    context: Option<String>,
    #[arg(long)]
    cluster: Option<String>,
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    kubeconfig: Option<String>,
    #[arg(short = 's', long)]
    server: Option<String>,
    #[arg(long)]
    token: Option<String>,
    #[arg(long)]
    username: Option<String>,
    #[arg(long)]
    password: Option<String>,
    #[arg(long)]
    client_certificate: Option<String>,
    #[arg(long)]
    client_key: Option<String>,
    #[arg(long)]
    certificate_authority: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    insecure_skip_tls_verify: Option<bool>,
    #[arg(long)]
    tls_server_name: Option<String>,
    #[arg(long = "as")]
    impersonate: Option<String>,
    #[arg(long = "as-group")]
    impersonate_groups: Vec<String>,
    #[arg(long = "as-uid")]
    impersonate_uid: Option<String>,
    #[arg(long)]
    request_timeout: Option<String>,
    #[arg(long)]
    cache_dir: Option<String>,
    #[arg(short = 'v', long = "v")]
    verbosity: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    warnings_as_errors: Option<bool>,
}

/// kube's configuration, and the namespace of the pod.
pub(super) async fn load(target: &Target, timeout: Duration) -> Result<(Config, String), Failure> {
    let extra = KubectlOptions::try_parse_from(&target.extra_args).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Failure::usage(format!("the extra arguments are not kubectl's global options: {first}"))
    })?;
    let options = KubeConfigOptions {
        context: extra.context.clone().or(target.context.clone()),
        cluster: extra.cluster.clone(),
        user: extra.user.clone(),
    };
    let server = extra.server.clone().or(target.server.clone());
    let mut config = match kubeconfig(target, &extra)? {
        Some((kubeconfig, source)) => match Config::from_custom_kubeconfig(kubeconfig, &options).await {
            Ok(config) => config,
            Err(kube::config::KubeconfigError::CurrentContextNotSet) if server.is_some() => bare(server.as_deref())?,
            Err(error) => return Err(fault::kubeconfig(&error, &source)),
        },
        None if server.is_some() => bare(server.as_deref())?,
        None => Config::incluster().map_err(|_| {
            Failure::new(
                Kind::Kubeconfig,
                "there is no kubeconfig: neither an option nor $KUBECONFIG names one, and ~/.kube/config is missing",
            )
        })?,
    };
    override_with(&mut config, target, &extra, server.as_deref())?;
    config.connect_timeout = Some(timeout);
    // Streams are quiet for as long as nothing happens; `Handle` judges their silence.
    config.read_timeout = None;
    config.write_timeout = None;
    let namespace = extra
        .namespace
        .or(target.namespace.clone())
        .unwrap_or(config.default_namespace.clone());
    Ok((config, namespace))
}

/// A server without a kubeconfig.
fn bare(server: Option<&str>) -> Result<Config, Failure> {
    Ok(Config::new(uri(server.unwrap_or_default())?))
}

fn uri(server: &str) -> Result<Uri, Failure> {
    let parsed: Result<Uri, _> = server.parse();
    let usable = parsed.ok().filter(|uri| uri.host().is_some() && uri.scheme().is_some());
    usable.ok_or_else(|| {
        Failure::usage(format!(
            "{server:?} is no URL of an API server; it begins with https://"
        ))
    })
}

/// The kubeconfig, and what to call it in messages.
fn kubeconfig(target: &Target, extra: &KubectlOptions) -> Result<Option<(Kubeconfig, String)>, Failure> {
    if let Some(data) = &target.kubeconfig_data {
        let source = "the given kubeconfig data";
        let kubeconfig = serde_json::from_value(data.clone())
            .map_err(|error| Failure::new(Kind::Kubeconfig, format!("{source} cannot be used: {error}")))?;
        return Ok(Some((kubeconfig, source.into())));
    }
    if let Some(list) = extra.kubeconfig.as_ref().or(target.kubeconfig.as_ref()) {
        return read(list).map(Some);
    }
    let Some(home) = std::env::var_os("HOME") else {
        return Ok(None);
    };
    let default = PathBuf::from(home).join(".kube/config");
    match default.exists() {
        true => read(&default.display().to_string()).map(Some),
        false => Ok(None),
    }
}

/// As kubectl: of a list, files that are missing are passed over, and the first to set a value wins.
fn read(list: &str) -> Result<(Kubeconfig, String), Failure> {
    let source = format!("the kubeconfig {list}");
    let paths: Vec<&Path> = list.split(':').filter(|path| !path.is_empty()).map(Path::new).collect();
    let there: Vec<&Path> = paths.iter().copied().filter(|path| path.exists()).collect();
    if there.is_empty() {
        return Err(Failure::new(Kind::Kubeconfig, format!("{source} does not exist")));
    }
    let mut merged = Kubeconfig::default();
    for path in there {
        let next = Kubeconfig::read_from(path).map_err(|error| fault::kubeconfig(&error, &source))?;
        merged = merged.merge(next).map_err(|error| fault::kubeconfig(&error, &source))?;
    }
    Ok((merged, source))
}

fn override_with(
    config: &mut Config,
    target: &Target,
    extra: &KubectlOptions,
    server: Option<&str>,
) -> Result<(), Failure> {
    if let Some(server) = server {
        config.cluster_url = uri(server)?;
    }
    let first = |extra: &Option<String>, target: &Option<String>| extra.clone().or(target.clone());
    if let Some(path) = first(&extra.certificate_authority, &target.ca_cert) {
        readable(&path)?;
        config.root_cert = None;
        config.root_cert_file = Some(path.into());
    }
    if let Some(skip) = extra
        .insecure_skip_tls_verify
        .or(target.verify_ssl.map(|verify| !verify))
    {
        config.accept_invalid_certs = skip;
    }
    if let Some(name) = &extra.tls_server_name {
        config.tls_server_name = Some(name.clone());
    }
    let auth = &mut config.auth_info;
    if let Some(token) = first(&extra.token, &target.token) {
        auth.token = Some(token.into());
        auth.token_file = None;
    }
    if let Some(username) = first(&extra.username, &target.username) {
        auth.username = Some(username);
    }
    if let Some(password) = first(&extra.password, &target.password) {
        auth.password = Some(password.into());
    }
    if let Some(path) = first(&extra.client_certificate, &target.client_cert) {
        readable(&path)?;
        auth.client_certificate = Some(path);
        auth.client_certificate_data = None;
    }
    if let Some(path) = first(&extra.client_key, &target.client_key) {
        readable(&path)?;
        auth.client_key = Some(path);
        auth.client_key_data = None;
    }
    if extra.impersonate.is_some() {
        auth.impersonate = extra.impersonate.clone();
    }
    if extra.impersonate_uid.is_some() {
        auth.impersonate_uid = extra.impersonate_uid.clone();
    }
    if !extra.impersonate_groups.is_empty() {
        auth.impersonate_groups = Some(extra.impersonate_groups.clone());
    }
    Ok(())
}

fn readable(path: &str) -> Result<(), Failure> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(
            Kind::LocalFile,
            format!("the file {path} cannot be read: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data() -> serde_json::Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "one",
            "clusters": [{"name": "c", "cluster": {"server": "https://c.example:6443"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [
                {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "ns"}},
                {"name": "two", "context": {"cluster": "c", "user": "u"}},
            ],
        })
    }

    async fn load_with(change: impl FnOnce(&mut Target)) -> Result<(Config, String), Failure> {
        let mut target = Target {
            pod: Some("web".into()),
            kubeconfig_data: Some(data()),
            ..Target::default()
        };
        change(&mut target);
        load(&target, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn options_win_over_the_kubeconfig() {
        let (config, namespace) = load_with(|_| {}).await.unwrap();
        assert_eq!(
            (config.cluster_url.host(), namespace.as_str()),
            (Some("c.example"), "ns")
        );
        let (config, namespace) = load_with(|target| {
            target.server = Some("https://other:1".into());
            target.namespace = Some("mine".into());
            target.verify_ssl = Some(false);
            target.extra_args = ["--as=ci", "-v", "4", "--as-group", "a", "--as-group=b"]
                .map(str::to_owned)
                .to_vec();
        })
        .await
        .unwrap();
        assert_eq!((config.cluster_url.host(), namespace.as_str()), (Some("other"), "mine"));
        assert!(config.accept_invalid_certs);
        assert_eq!(config.auth_info.impersonate.as_deref(), Some("ci"));
        assert_eq!(config.auth_info.impersonate_groups.unwrap(), ["a", "b"]);
        let (_, namespace) = load_with(|target| target.context = Some("two".into())).await.unwrap();
        assert_eq!(namespace, "default");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let failure = load_with(|target| target.context = Some("nope".into()))
            .await
            .unwrap_err();
        assert_eq!(failure.kind, Kind::Context);
        assert!(failure.message.contains("nope"), "{failure}");
        let failure = load_with(|target| target.extra_args = vec!["--frobnicate".into()])
            .await
            .unwrap_err();
        assert_eq!(failure.kind, Kind::Usage);
        assert!(failure.message.contains("--frobnicate"), "{failure}");
        let failure = load_with(|target| {
            target.kubeconfig_data = None;
            target.kubeconfig = Some("/no/such/kubeconfig".into());
        })
        .await
        .unwrap_err();
        assert_eq!(failure.kind, Kind::Kubeconfig);
        assert!(failure.message.contains("/no/such/kubeconfig"), "{failure}");
        let failure = load_with(|target| target.client_key = Some("/no/such/key".into()))
            .await
            .unwrap_err();
        assert_eq!(failure.kind, Kind::LocalFile);
    }
}
