//! One side of a copy as it is typed. `cp` and `sync` read it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::Failure;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Side {
    Standard,
    Local(PathBuf),
    Pod { pod: String, path: Vec<u8> },
}

impl Side {
    /// `POD:PATH` unless a `/` or `.` begins it or no colon comes before the first slash.
    pub(super) fn parse(text: &OsStr) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(Side::Standard);
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        let slash = bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len());
        let Some(colon) = colon.filter(|colon| *colon < slash && !bytes.starts_with(b".")) else {
            return Ok(Side::Local(text.into()));
        };
        let pod = String::from_utf8_lossy(&bytes[..colon]).into_owned();
        let path = bytes[colon + 1..].to_vec();
        if pod.is_empty() || path.is_empty() {
            return Err(Failure::usage(format!(
                "{} is not POD:PATH; write ./ before a local name with a colon",
                Path::new(text).display()
            )));
        }
        Ok(Side::Pod { pod, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let parse = |text: &str| Side::parse(OsStr::new(text)).unwrap();
        let pod = |pod: &str, path: &str| Side::Pod {
            pod: pod.into(),
            path: path.into(),
        };
        assert_eq!(parse("web:/etc/hosts"), pod("web", "/etc/hosts"));
        assert_eq!(parse("web:a:b"), pod("web", "a:b"));
        assert_eq!(parse("/tmp/a:b"), Side::Local("/tmp/a:b".into()));
        assert_eq!(parse("dir/a:b"), Side::Local("dir/a:b".into()));
        assert_eq!(parse("./a:b"), Side::Local("./a:b".into()));
        assert_eq!(parse("-"), Side::Standard);
        assert!(Side::parse(OsStr::new(":x")).is_err());
        assert!(Side::parse(OsStr::new("web:")).is_err());
    }
}
