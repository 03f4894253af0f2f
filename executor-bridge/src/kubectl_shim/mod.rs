//! The `kubectl` and `oc` that come first in PATH: this binary by another name. Serves what Zuul's slot is made of, and leaves
//! the rest to the next program of that name, within two milliseconds. `commands::run` asks it before anything else.

mod arguments;
mod exec;
mod next;
mod port_forward;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use crate::kubectl_shim::arguments::ParsedCommand;
use crate::sockets::ZuulSlot;

use crate::config::{Environment as _, Process};
use crate::report::say;

/// As kubectl fails.
const FAILED: u8 = 1;

/// `None`: we were not called as kubectl.
pub(crate) fn intercept() -> Option<ExitCode> {
    Invocation::parse(std::env::args_os()).map(|invocation| serve(&invocation))
}

/// How kubectl was invocation.
#[derive(Debug, PartialEq, Eq)]
struct Invocation {
    /// The next program's argv[0].
    argv0: OsString,
    name: &'static str,
    arguments: Vec<OsString>,
}

impl Invocation {
    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
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

fn serve(invocation: &Invocation) -> ExitCode {
    let disabled = Process.variable("PODBRIDGE_DISABLE").is_some_and(|value| value != "0");
    let command = match disabled {
        true => ParsedCommand::Other,
        false => arguments::parse(&invocation.arguments),
    };
    let served = match command {
        ParsedCommand::PortForward { pod, ports } => match pod.kubeconfig(&Process) {
            Some(file) => match ZuulSlot::locate(&file, &pod, &Process) {
                Ok(slot) => port_forward::run(slot, ports),
                // The build is over: Zuul's loop ends with us, also where nobody is left to kill it.
                Err(_) if !file.exists() => Ok(0),
                Err(failure) => Ok(port_forward::fail(&failure)),
            },
            None => return next::pass_on(invocation),
        },
        ParsedCommand::Exec { pod, exec } => match pod.served_slot(&Process) {
            Some(slot) => match exec::run(slot, exec).transpose() {
                Some(served) => served,
                None => return next::pass_on(invocation),
            },
            None => return next::pass_on(invocation),
        },
        ParsedCommand::Other => return next::pass_on(invocation),
    };
    ExitCode::from(served.unwrap_or_else(|failure| {
        say(&failure.message);
        FAILED
    }))
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
