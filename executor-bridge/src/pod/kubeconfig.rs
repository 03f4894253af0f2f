//! Kubeconfigs: from files, from data, or none. Reads files and says what is wrong with them, without quoting them: they hold
//! secrets.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kube::config::{Kubeconfig, KubeconfigError};

use crate::env::KUBERNETES_SERVICE_HOST;
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
    let (paths, may_be_absent) = named_files(target, flags);
    if !may_be_absent || paths.iter().any(|path| Path::new(path).exists()) {
        let named = format!("the kubeconfig {}", paths.join(":"));
        return read_list(&paths, &named).map(|content| Source::Kubeconfig { content, named });
    }
    if target.server.is_some() || flags.server.is_some() {
        return Ok(Source::Kubeconfig {
            content: Kubeconfig::default(),
            named: "the absent kubeconfig".into(),
        });
    }
    if target.env.contains_key(KUBERNETES_SERVICE_HOST) {
        return Ok(Source::InCluster);
    }
    Err(Failure::new(
        Kind::Kubeconfig,
        "there is no kubeconfig: set KUBECONFIG, give --kubeconfig, or make ~/.kube/config",
    ))
}

/// Returns the paths of the kubeconfig, whether or not the files exist.
pub(super) fn files(target: &Target, flags: &Flags) -> Vec<PathBuf> {
    if target.kubeconfig_data.is_some() {
        return Vec::new();
    }
    named_files(target, flags).0.into_iter().map(PathBuf::from).collect()
}

/// The option in `extra_args` comes last on kubectl's command line, and wins. Returns the paths, and whether they may all be absent.
fn named_files<'a>(target: &'a Target, flags: &'a Flags) -> (Vec<&'a str>, bool) {
    match &flags.kubeconfig {
        Some(path) => (vec![path], false),
        None => target.kubeconfig_files(),
    }
}

/// As kubectl: of several files those that are not there are passed over.
fn read_list(paths: &[&str], named: &str) -> Result<Kubeconfig, Failure> {
    let mut present = paths.to_vec();
    if paths.len() > 1 {
        present.retain(|path| Path::new(path).exists());
    }
    if present.is_empty() {
        return Err(Failure::new(
            Kind::Kubeconfig,
            format!("none of the files of {named} exists; correct KUBECONFIG or --kubeconfig"),
        ));
    }
    let mut merged = Kubeconfig::default();
    for path in present {
        let next = read(Path::new(path))?;
        merged = merged.merge(next).map_err(|error| unusable(named, &error))?;
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
        let read = read_list(&[path.to_str().unwrap(), "/none/config"], "the kubeconfig").unwrap();
        let authority = read.clusters[0]
            .cluster
            .as_ref()
            .unwrap()
            .certificate_authority
            .as_ref();
        assert_eq!(authority.unwrap(), directory.path().join("ca.crt").to_str().unwrap());

        let absent = read_list(&["/none/config"], "the kubeconfig").unwrap_err();
        assert_eq!(absent.kind, Kind::Kubeconfig);
        assert!(absent.message.contains("/none/config does not exist"), "{absent}");
        assert!(
            read_list(&["/none/a", "/none/b"], "the kubeconfig")
                .unwrap_err()
                .message
                .contains("none of")
        );
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
