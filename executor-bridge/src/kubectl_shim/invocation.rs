//! The name and the arguments that this program was called with. `kubectl_shim` parses them, `next` passes them on.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// A call as kubectl or oc, before its arguments are parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invocation {
    /// The argv[0] for the next program.
    pub(super) argv0: OsString,
    /// The name to look up in PATH: `kubectl` or `oc`.
    pub(super) name: &'static str,
    pub(super) arguments: Vec<OsString>,
}

impl Invocation {
    /// Parses the words of a command line; `None` if they call neither kubectl nor oc.
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
    fn kubectl_and_oc_are_recognised_by_the_program_name() {
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
