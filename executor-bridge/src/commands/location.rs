//! Source or destination of a copy on the command line. `cp` and `sync` parse it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::Failure;
use crate::protocol::object_name::is_kubernetes_name;

/// Source or destination of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// Standard input as a source, standard output as a destination.
    StandardStream,
    Local(PathBuf),
    Pod {
        /// Namespace before the pod's name; it counts more than the option.
        namespace: Option<String>,
        pod: String,
        path: Vec<u8>,
    },
}

impl Location {
    /// Parses `-`, `POD:PATH`, `NAMESPACE/POD:PATH` (both as `kubectl cp` has them) or a local path. A text is a local path if it begins
    /// with `/` or `.`, has no colon, or has before its first colon something that cannot be a namespace and a pod.
    pub(super) fn parse(text: &OsStr) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(Location::StandardStream);
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        let Some(colon) = colon.filter(|_| !bytes.starts_with(b".") && !bytes.starts_with(b"/")) else {
            return Ok(Location::Local(text.into()));
        };
        let name = String::from_utf8_lossy(&bytes[..colon]).into_owned();
        let (namespace, pod) = match name.split_once('/') {
            None => (None, name),
            Some((namespace, pod)) if is_kubernetes_name(namespace) && is_kubernetes_name(pod) => {
                (Some(namespace.to_owned()), pod.to_owned())
            }
            Some(_) => return Ok(Location::Local(text.into())),
        };
        let path = bytes[colon + 1..].to_vec();
        if pod.is_empty() || path.is_empty() {
            return Err(Failure::usage(format!(
                "{} is not POD:PATH, because one of the two is empty; for a local file with a colon in its name write ./NAME",
                Path::new(text).display()
            )));
        }
        Ok(Location::Pod { namespace, pod, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_pod_paths_and_the_dash_are_told_apart() {
        let parse = |text: &str| Location::parse(OsStr::new(text)).unwrap();
        let pod = |pod: &str, path: &str| Location::Pod {
            namespace: None,
            pod: pod.into(),
            path: path.into(),
        };
        assert_eq!(parse("web:/etc/hosts"), pod("web", "/etc/hosts"));
        assert_eq!(parse("web:a:b"), pod("web", "a:b"));
        assert_eq!(parse("/tmp/a:b"), Location::Local("/tmp/a:b".into()));
        let in_namespace = Location::Pod {
            namespace: Some("ci".into()),
            pod: "web".into(),
            path: "/etc/hosts".into(),
        };
        assert_eq!(parse("ci/web:/etc/hosts"), in_namespace);
        for local in ["./dir/a:b", "a/b/c:d", "Dir/a:b", "my_dir/a:b", "dir/a_b:c", "/dir/a:b"] {
            assert_eq!(parse(local), Location::Local(local.into()));
        }
        assert_eq!(parse("./a:b"), Location::Local("./a:b".into()));
        assert_eq!(parse("-"), Location::StandardStream);
        assert!(Location::parse(OsStr::new(":x")).is_err());
        assert!(Location::parse(OsStr::new("web:")).is_err());
    }
}
