//! Parses kubectl's command line, as far as the shim serves it. A command line with any unknown part is `Other`, which the next kubectl
//! gets: an ignored flag could select another pod. Reads no file and no environment. `kubectl_shim` calls it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::slice::Iter;

use crate::protocol::object_name::is_kubernetes_name;
use crate::sockets::PodReference;

/// A command line of kubectl.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedCommand {
    /// The call that Zuul keeps running for a pod.
    PortForward {
        pod: PodReference,
        ports: Ports,
    },
    Exec {
        pod: PodReference,
        exec: ExecArguments,
    },
    /// A command that the next kubectl must run.
    Other,
}

/// Local ports that Zuul has reserved, on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Port for the console stream, 19885 in the pod.
    pub(crate) console: u16,
    /// Port for the console stream of Windows actions, 19886 in the pod.
    pub(crate) windows: u16,
}

/// Flags and command of `kubectl exec`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExecArguments {
    pub(crate) container: Option<String>,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    pub(crate) quiet: bool,
    pub(crate) command: Vec<OsString>,
}

/// Parses the arguments after kubectl's name.
pub(crate) fn parse(arguments: &[OsString]) -> ParsedCommand {
    try_parse(arguments).unwrap_or(ParsedCommand::Other)
}

/// Parses the arguments; `None` if any part is unknown.
fn try_parse(arguments: &[OsString]) -> Option<ParsedCommand> {
    let mut flags = Flags::default();
    let mut words = Vec::new();
    let mut after_dashes = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_bytes() {
            b"--" => {
                after_dashes = Some(rest.as_slice());
                break;
            }
            [b'-', _, ..] => {
                // Before the verb kubectl accepts only global flags.
                let exec = words.first().is_some_and(|verb| *verb == "exec");
                let text = argument.to_str()?;
                match text.strip_prefix("--") {
                    Some(long) => flags.long(long, &mut rest, exec)?,
                    None => flags.short(&text[1..], &mut rest, exec)?,
                }
            }
            _ => words.push(argument),
        }
    }
    let (verb, words) = words.split_first()?;
    match verb.to_str()? {
        "exec" => {
            let (pod, words) = words.split_first()?;
            let name = pod_name(pod, &["pod/", "pods/", "po/"])?;
            let command: Vec<OsString> = match (after_dashes, words) {
                (Some(command), []) => command.to_vec(),
                // The old form, without `--`.
                (None, words) => words.iter().map(|word| (*word).clone()).collect(),
                (Some(_), _) => return None,
            };
            if command.is_empty() {
                return None;
            }
            let exec = ExecArguments {
                container: flags.container.take(),
                stdin: flags.stdin,
                tty: flags.tty,
                quiet: flags.quiet,
                command,
            };
            let pod = flags.pod(name);
            Some(ParsedCommand::Exec { pod, exec })
        }
        "port-forward" => {
            let ([pod, console, windows], None) = (words, after_dashes) else {
                return None;
            };
            let name = pod_name(pod, &["pod/", "pods/"])?;
            let ports = Ports {
                console: local_port(console, ":19885")?,
                windows: local_port(windows, ":19886")?,
            };
            let pod = flags.pod(name);
            Some(ParsedCommand::PortForward { pod, ports })
        }
        _ => None,
    }
}

/// Returns the name of the pod in `NAME` or `TYPE/NAME`; `None` if the word names no pod.
fn pod_name(word: &OsString, types: &[&str]) -> Option<String> {
    let word = word.to_str()?;
    let name = types
        .iter()
        .find_map(|prefix| word.strip_prefix(prefix))
        .unwrap_or(word);
    is_kubernetes_name(name).then(|| name.to_owned())
}

/// Returns the local port of `LOCAL:REMOTE`.
fn local_port(pair: &OsString, remote: &str) -> Option<u16> {
    let local = pair.to_str()?.strip_suffix(remote)?;
    // `parse` alone would accept a sign.
    let digits = local.bytes().all(|byte| byte.is_ascii_digit());
    local.parse().ok().filter(|port| digits && *port != 0)
}

/// Values of the flags so far.
#[derive(Default)]
struct Flags {
    kubeconfig: Option<String>,
    context: Option<String>,
    namespace: Option<String>,
    container: Option<String>,
    stdin: bool,
    tty: bool,
    quiet: bool,
}

impl Flags {
    /// Returns the pod that the flags and the name select.
    fn pod(self, name: String) -> PodReference {
        PodReference {
            kubeconfig: self.kubeconfig.map(PathBuf::from),
            context: self.context,
            namespace: self.namespace,
            name,
        }
    }

    /// Parses `--name`, `--name=value` or `--name value`. `exec`: flags of the verb `exec` are accepted. `None` if the flag is unknown.
    fn long(&mut self, text: &str, rest: &mut Iter<'_, OsString>, exec: bool) -> Option<()> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let switch = match name {
            "stdin" if exec => Some(&mut self.stdin),
            "tty" if exec => Some(&mut self.tty),
            "quiet" if exec => Some(&mut self.quiet),
            _ => None,
        };
        if let Some(switch) = switch {
            *switch = match value {
                None | Some("true") => true,
                Some("false") => false,
                Some(_) => return None,
            };
            return Some(());
        }
        let field = match name {
            "kubeconfig" => &mut self.kubeconfig,
            "context" => &mut self.context,
            "namespace" => &mut self.namespace,
            "container" if exec => &mut self.container,
            _ => return None,
        };
        set_value(field, value, rest)
    }

    /// Parses the letters after one dash: switches, then at most one flag with a value. `None` if a flag is unknown.
    fn short(&mut self, mut letters: &str, rest: &mut Iter<'_, OsString>, exec: bool) -> Option<()> {
        while let Some(letter) = letters.chars().next() {
            letters = &letters[letter.len_utf8()..];
            let field = match letter {
                'i' if exec => {
                    self.stdin = true;
                    continue;
                }
                't' if exec => {
                    self.tty = true;
                    continue;
                }
                'q' if exec => {
                    self.quiet = true;
                    continue;
                }
                'n' => &mut self.namespace,
                'c' if exec => &mut self.container,
                _ => return None,
            };
            let value = letters.strip_prefix('=').unwrap_or(letters);
            return set_value(field, Some(value).filter(|_| !letters.is_empty()), rest);
        }
        Some(())
    }
}

/// Sets a flag to the value that came with it, else to the next argument. `None` if there is none.
fn set_value(field: &mut Option<String>, value: Option<&str>, rest: &mut Iter<'_, OsString>) -> Option<()> {
    let value = match value {
        Some(value) => value,
        None => rest.next()?.to_str()?,
    };
    // The meaning of an empty value differs between flags.
    if value.is_empty() {
        return None;
    }
    *field = Some(value.to_owned());
    Some(())
}

/// Checks any words for `fuzzing`: the command has words of the line, unchanged and in their order. Without `--` flags may stand between
/// them, as in kubectl.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(words: &[OsString]) {
    if let ParsedCommand::Exec { exec, .. } = parse(words) {
        let mut rest = words.iter();
        let in_order = exec.command.iter().all(|word| rest.any(|other| other == word));
        assert!(!exec.command.is_empty() && in_order, "{words:?}");
    }
}

#[cfg(test)]
mod tests;
