//! What a target was resolved to, as settings of a Kubernetes client. Asks no server.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::KubeConfigOptions;

use crate::error::{Failure, Kind, chain};
use crate::pod::flags::Flags;
use crate::pod::kubeconfig;
use crate::pod::overrides::Overrides;
use crate::pod::resolution::Resolution;
use crate::protocol::target::Target;

pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) namespace: String,
    /// `None`: the caller's limit alone.
    pub(super) request_timeout: Option<Duration>,
}

/// Makes settings of what the target was resolved to. Files that are named by path are read anew: they may have been rotated.
pub(super) async fn load(target: &Target, resolution: &Resolution) -> Result<Settings, Failure> {
    let flags = Flags::parse(&target.extra_args)?;
    let overrides = Overrides::new(target, &flags);
    overrides.check_files()?;
    let (mut config, proxy) = match resolution.selected.clone() {
        Some(mut selected) => {
            // The token may be a newer one than when the target was resolved.
            overrides.override_user(&mut selected.user);
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
            overrides.override_user(&mut config.auth_info);
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
        namespace: overrides.namespace.unwrap_or_else(|| config.default_namespace.clone()),
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
