//! Kubeconfigs: from files, from data, or none. Reads files and says what is wrong with them, without quoting them: they hold
//! secrets.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kube::config::{Kubeconfig, KubeconfigError};

use crate::env::{Environment as _, HOME, KUBERNETES_SERVICE_HOST, Process};
use crate::error::{Failure, Kind, chain};
use crate::pod::flags::Flags;
use crate::protocol::target::Target;

pub(super) enum Source {
    Kubeconfig {
        content: Kubeconfig,
        /// What to call it in messages.
        named: String,
    },
    /// The service account of the pod that the bridge itself runs in.
    InCluster,
}

pub(super) fn source(target: &Target, flags: &Flags) -> Result<Source, Failure> {
    if let Some(data) = &target.kubeconfig_data {
        let kubeconfig = serde_json::from_value(data.clone()).map_err(|error| {
            Failure::new(
                Kind::Kubeconfig,
                format!(
                    "kubeconfig_data is no kubeconfig: {}",
                    without_values(&error.to_string())
                ),
            )
        })?;
        return Ok(Source::Kubeconfig {
            content: kubeconfig,
            named: "kubeconfig_data".into(),
        });
    }
    if let Some(list) = flags.kubeconfig.as_ref().or(target.kubeconfig.as_ref()) {
        let named = format!("the kubeconfig {list}");
        return read_list(list).map(|content| Source::Kubeconfig { content, named });
    }
    let default = Process
        .variable(HOME)
        .map(|home| PathBuf::from(home).join(".kube/config"));
    if let Some(path) = default.filter(|path| path.exists()) {
        let named = format!("the kubeconfig {}", path.display());
        return read(&path).map(|content| Source::Kubeconfig { content, named });
    }
    if target.server.is_some() || flags.server.is_some() {
        return Ok(Source::Kubeconfig {
            content: Kubeconfig::default(),
            named: "the absent kubeconfig".into(),
        });
    }
    if Process.variable(KUBERNETES_SERVICE_HOST).is_some() {
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
        merged = merged
            .merge(next)
            .map_err(|error| unusable(&format!("the kubeconfig {list}"), &error))?;
    }
    Ok(merged)
}

/// Relative paths inside become absolute, from the file's directory.
pub(super) fn read(path: &Path) -> Result<Kubeconfig, Failure> {
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

pub(super) fn unusable(named: &str, error: &KubeconfigError) -> Failure {
    let why = match error {
        // The parser may quote the file, secrets and all.
        KubeconfigError::Parse(cause) => {
            let text = cause.to_string();
            format!(
                "is not valid YAML: {}",
                without_values(text.lines().next().unwrap_or_default())
            )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_and_their_paths_made_absolute() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let content = "clusters: [{name: c, cluster: {certificate-authority: ca.crt, server: 'https://x'}}]\n";
        std::fs::write(&path, content).unwrap();
        let list = format!("{}:/none/config", path.display());
        let read = read_list(&list).unwrap();
        let authority = read.clusters[0]
            .cluster
            .as_ref()
            .unwrap()
            .certificate_authority
            .as_ref();
        assert_eq!(authority.unwrap(), directory.path().join("ca.crt").to_str().unwrap());

        let absent = read_list("/none/config").unwrap_err();
        assert_eq!(absent.kind, Kind::Kubeconfig);
        assert!(absent.message.contains("/none/config does not exist"), "{absent}");
        assert!(read_list("/none/a:/none/b").unwrap_err().message.contains("none of"));
    }

    #[test]
    fn what_is_wrong_is_said_without_quoting_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for content in ["users: [{name: u, user: SECRET}]", "users: {SECRET", "contexts: SECRET"] {
            std::fs::write(&path, content).unwrap();
            let failure = read(&path).unwrap_err();
            assert_eq!(failure.kind, Kind::Kubeconfig);
            assert!(!failure.message.contains("SECRET"), "{failure}");
            assert!(failure.message.contains(path.to_str().unwrap()));
        }
    }
}
