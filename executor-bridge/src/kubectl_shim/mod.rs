//! The `kubectl` and `oc` that come first in PATH: this binary by another name. Serves what Zuul's slot is made of, and leaves
//! the rest to the next program of that name, within two milliseconds. `commands::run` asks it before anything else.

mod arguments;
mod exec;
mod next;
mod port_forward;
mod slot;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{Invocation, Pod};
use slot::Slot;

use crate::commands::say;
use crate::config::{Environment as _, Process};
use crate::error::Failure;

/// As kubectl fails.
const FAILED: u8 = 1;

/// `None`: we were not called as kubectl.
pub(crate) fn intercept() -> Option<ExitCode> {
    Called::parse(std::env::args_os()).map(|called| serve(&called))
}

/// How kubectl was called.
#[derive(Debug, PartialEq, Eq)]
struct Called {
    /// The next program's argv[0].
    zeroth: OsString,
    name: &'static str,
    arguments: Vec<OsString>,
}

impl Called {
    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        let zeroth = words.next()?;
        let base = Path::new(&zeroth).file_name().and_then(OsStr::to_str);
        let (zeroth, name) = match base {
            Some("kubectl") => (zeroth, "kubectl"),
            Some("oc") => (zeroth, "oc"),
            // `podbridge kubectl …`
            _ if words.next()? == "kubectl" => ("kubectl".into(), "kubectl"),
            _ => return None,
        };
        Some(Self {
            zeroth,
            name,
            arguments: words.collect(),
        })
    }
}

fn serve(called: &Called) -> ExitCode {
    let disabled = Process.variable("PODBRIDGE_DISABLE").is_some_and(|value| value != "0");
    let invocation = match disabled {
        true => Invocation::Other,
        false => arguments::parse(&called.arguments),
    };
    let served = match invocation {
        Invocation::PortForward { pod, ports } => match kubeconfig(&pod) {
            Some(file) => match locate(&file, &pod) {
                Ok(slot) => port_forward::run(slot, ports),
                // The build is over: Zuul's loop ends with us, also where nobody is left to kill it.
                Err(_) if !file.exists() => Ok(0),
                Err(failure) => Ok(port_forward::fail(&failure)),
            },
            None => return next::pass_on(called),
        },
        Invocation::Exec { pod, exec } => match bridged(&pod) {
            Some(slot) => match exec::run(slot, exec).transpose() {
                Some(served) => served,
                None => return next::pass_on(called),
            },
            None => return next::pass_on(called),
        },
        Invocation::Other => return next::pass_on(called),
    };
    ExitCode::from(served.unwrap_or_else(|failure| {
        say(&failure.message);
        FAILED
    }))
}

/// The one file that is meant, if it is one: a bridge's place is beside it.
fn kubeconfig(pod: &Pod) -> Option<PathBuf> {
    let named = pod.kubeconfig.clone();
    named.or_else(|| {
        let list = Process.variable("KUBECONFIG")?;
        let mut paths = std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty());
        paths.next().filter(|_| paths.next().is_none())
    })
}

fn locate(file: &Path, pod: &Pod) -> Result<Slot, Failure> {
    let (context, namespace) = (pod.context.as_deref(), pod.namespace.as_deref());
    Slot::locate(file, context, namespace, &pod.name, &Process)
}

/// The socket of a pod's bridge in Zuul's slot, if there is one.
pub(crate) fn bridge(
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    namespace: Option<String>,
    pod: &str,
) -> Option<PathBuf> {
    let pod = Pod {
        kubeconfig,
        context,
        namespace,
        name: pod.to_owned(),
    };
    bridged(&pod).map(|slot| slot.socket)
}

/// The slot of a pod that has a bridge there, be it dead. What is wrong with the options, the next kubectl says.
fn bridged(pod: &Pod) -> Option<Slot> {
    let file = kubeconfig(pod)?;
    // Of other kubeconfigs, most of them, not a byte is read.
    if !slot::any_beside(&file) {
        return None;
    }
    locate(&file, pod).ok().filter(|slot| slot::is_socket(&slot.socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_is_recognised_by_its_name_alone() {
        let called = |words: &[&str]| Called::parse(words.iter().map(OsString::from));
        let expected = |zeroth: &str, name, arguments: &[&str]| {
            Some(Called {
                zeroth: zeroth.into(),
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
