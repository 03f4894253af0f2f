//! kubectl's command line, as far as the shim serves it. What is not understood to the last letter is `Other`, which the next
//! kubectl gets: a flag that was ignored could mean another pod. Pure; `kubectl_shim` calls it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::slice::Iter;

use crate::protocol::target::is_kubernetes_name;
use crate::sockets::PodReference;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParsedCommand {
    PortForward {
        pod: PodReference,
        ports: Ports,
    },
    Exec {
        pod: PodReference,
        exec: Exec,
    },
    /// For the next kubectl.
    Other,
}

/// Local ports that Zuul reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    /// For the console stream, 19885.
    pub(super) console: u16,
    /// For the console stream of Windows actions, 19886.
    pub(super) windows: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exec {
    pub(super) container: Option<String>,
    pub(super) stdin: bool,
    pub(super) tty: bool,
    pub(super) quiet: bool,
    pub(super) command: Vec<OsString>,
}

/// What follows kubectl's name.
pub(super) fn parse(arguments: &[OsString]) -> ParsedCommand {
    understood(arguments).unwrap_or(ParsedCommand::Other)
}

fn understood(arguments: &[OsString]) -> Option<ParsedCommand> {
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
                // Before its verb kubectl knows global flags only.
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
                // The old form, without dashes.
                (None, words) => words.iter().map(|word| (*word).clone()).collect(),
                (Some(_), _) => return None,
            };
            if command.is_empty() {
                return None;
            }
            let exec = Exec {
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

fn pod_name(word: &OsString, types: &[&str]) -> Option<String> {
    let word = word.to_str()?;
    let name = types
        .iter()
        .find_map(|prefix| word.strip_prefix(prefix))
        .unwrap_or(word);
    is_kubernetes_name(name).then(|| name.to_owned())
}

fn local_port(pair: &OsString, remote: &str) -> Option<u16> {
    let local = pair.to_str()?.strip_suffix(remote)?;
    // A number's parser would take a sign.
    let digits = local.bytes().all(|byte| byte.is_ascii_digit());
    local.parse().ok().filter(|port| digits && *port != 0)
}

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
    fn pod(self, name: String) -> PodReference {
        PodReference {
            kubeconfig: self.kubeconfig.map(PathBuf::from),
            context: self.context,
            namespace: self.namespace,
            name,
        }
    }

    /// `--name`, `--name=value` or `--name value`. `exec`: its own flags may come.
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
        set(field, value, rest)
    }

    /// Letters after one dash: switches, then perhaps one flag with its value.
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
            return set(field, Some(value).filter(|_| !letters.is_empty()), rest);
        }
        Some(())
    }
}

/// The value that came with the flag, else the next word.
fn set(field: &mut Option<String>, value: Option<&str>, rest: &mut Iter<'_, OsString>) -> Option<()> {
    let value = match value {
        Some(value) => value,
        None => rest.next()?.to_str()?,
    };
    // What an empty value means differs between flags.
    if value.is_empty() {
        return None;
    }
    *field = Some(value.to_owned());
    Some(())
}

#[cfg(test)]
mod tests;
