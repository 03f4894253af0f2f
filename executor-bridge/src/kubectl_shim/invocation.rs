//! By which name this program was called, and with which arguments. `kubectl_shim` asks it.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// How kubectl was called.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invocation {
    /// The next program's argv[0].
    pub(super) argv0: OsString,
    pub(super) name: &'static str,
    pub(super) arguments: Vec<OsString>,
}

impl Invocation {
    pub(super) fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        let argv0 = words.next()?;
        let base = Path::new(&argv0).file_name().and_then(OsStr::to_str);
        let (argv0, name) = match base {
            Some("kubectl") => (argv0, "kubectl"),
            Some("oc") => (argv0, "oc"),
            // `podbridge kubectl …`
            _ if words.next()? == "kubectl" => ("kubectl".into(), "kubectl"),
            _ => return None,
        };
        Some(Self {
            argv0,
            name,
            arguments: words.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_is_recognised_by_its_name_alone() {
        let called = |words: &[&str]| Invocation::parse(words.iter().map(OsString::from));
        let expected = |argv0: &str, name, arguments: &[&str]| {
            Some(Invocation {
                argv0: argv0.into(),
                name,
                arguments: arguments.iter().map(OsString::from).collect(),
            })
        };
        assert_eq!(called(&["kubectl"]), expected("kubectl", "kubectl", &[]));
        assert_eq!(called(&["/x/oc", "version"]), expected("/x/oc", "oc", &["version"]));
        assert_eq!(
            called(&["podbridge", "kubectl", "get", "x"]),
            expected("kubectl", "kubectl", &["get", "x"])
        );
        for words in [
            &[][..],
            &["podbridge"],
            &["podbridge", "exec"],
            &["kubectl-1.30", "version"],
        ] {
            assert_eq!(called(words), None, "{words:?}");
        }
    }
}
