//! Source or destination of a copy on the command line. `cp` and `sync` parse it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::Failure;

/// Source or destination of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// Standard input as a source, standard output as a destination.
    StandardStream,
    Local(PathBuf),
    Pod {
        pod: String,
        path: Vec<u8>,
    },
}

impl Location {
    /// Parses `-`, `POD:PATH` or a local path. A text is a local path if it begins with `/` or `.`, or has no colon before its first
    /// slash.
    pub(super) fn parse(text: &OsStr) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(Location::StandardStream);
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        let slash = bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len());
        let Some(colon) = colon.filter(|colon| *colon < slash && !bytes.starts_with(b".")) else {
            return Ok(Location::Local(text.into()));
        };
        let pod = String::from_utf8_lossy(&bytes[..colon]).into_owned();
        let path = bytes[colon + 1..].to_vec();
        if pod.is_empty() || path.is_empty() {
            return Err(Failure::usage(format!(
                "{} is not POD:PATH, because one of the two is empty; for a local file with a colon in its name write ./NAME",
                Path::new(text).display()
            )));
        }
        Ok(Location::Pod { pod, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_pod_paths_and_the_dash_are_told_apart() {
        let parse = |text: &str| Location::parse(OsStr::new(text)).unwrap();
        let pod = |pod: &str, path: &str| Location::Pod {
            pod: pod.into(),
            path: path.into(),
        };
        assert_eq!(parse("web:/etc/hosts"), pod("web", "/etc/hosts"));
        assert_eq!(parse("web:a:b"), pod("web", "a:b"));
        assert_eq!(parse("/tmp/a:b"), Location::Local("/tmp/a:b".into()));
        assert_eq!(parse("dir/a:b"), Location::Local("dir/a:b".into()));
        assert_eq!(parse("./a:b"), Location::Local("./a:b".into()));
        assert_eq!(parse("-"), Location::StandardStream);
        assert!(Location::parse(OsStr::new(":x")).is_err());
        assert!(Location::parse(OsStr::new("web:")).is_err());
    }
}
