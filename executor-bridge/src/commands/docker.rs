//! `podbridge docker exec [-u USER] -i POD COMMAND…`: the remote shell that Ansible's `synchronize` gives to rsync, in the syntax that
//! `synchronize` uses for containers. The Ansible plugin adds the options that name the pod and the user. rsync escapes its arguments for
//! a shell. `docker exec` runs none, and podbridge gives the arguments the meaning that they have over SSH.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::cli::{DockerOptions, TargetOptions};
use crate::client::{self, AttachedEnd, Streams};
use crate::commands::bridge_of_pod::bridge_address;
use crate::config::BridgeSettings;
use crate::error::Failure;
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::report::{conclude, say};

/// Exit code of a program that does not exist, as in a shell.
const PROGRAM_NOT_FOUND: u8 = 127;
/// Message when the container has no rsync: the possible next steps.
const RSYNC_MISSING: &str = "synchronize needs rsync: install it in the image, put a static rsync beside the agent, or use the action \
                             podbridge.zuul.synchronize, which needs no rsync (docs/synchronize.md)";
/// Characters that have a meaning for a shell anywhere in a word.
const SHELL_CHARACTERS: &[u8] = b" \t\n!#$&;|<>(){}\"'`*?[]";

/// The arguments after `docker`.
#[derive(Debug, PartialEq, Eq)]
struct DockerExec {
    user: Option<String>,
    pod: String,
    argv: Vec<OsString>,
}

pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: DockerOptions) -> Result<u8, Failure> {
    let DockerExec { user, pod, argv } = parse(command.words)?;
    // Ansible's name of the host can differ from the name of the pod.
    let pod = command.pod.unwrap_or(pod);
    let rsync = argv[0] == "rsync";
    let (argv, shell) = match without_shell(&argv) {
        Some(argv) => (Some(argv), None),
        None => (None, Some(ByteString(argv.join(OsStr::new(" ")).into_vec()))),
    };
    let exec = Exec {
        argv,
        shell,
        // Without become, -u names `ansible_user`. Zuul always sets that variable, and the pod need not have such a user.
        user: if command.r#become { user } else { command.user },
        stdin: Input::Stream,
        ..Exec::new()
    };
    let container = target.container.clone();
    let bridge = bridge_address(target, &pod, options)?;
    match client::run_attached(bridge, container, exec, Streams::standard())? {
        AttachedEnd::Outcome(outcome) => {
            let code = conclude(&outcome);
            if rsync
                && matches!(
                    outcome,
                    Outcome::StartFailed {
                        code: PROGRAM_NOT_FOUND,
                        ..
                    }
                )
            {
                say(RSYNC_MISSING);
            }
            Ok(code)
        }
        AttachedEnd::Detached(code) => Ok(code),
    }
}

/// Returns the arguments as the program must get them; `None` if only a shell can expand them.
pub(crate) fn without_shell(words: &[OsString]) -> Option<Vec<ByteString>> {
    words
        .iter()
        .map(|word| unescape(word.as_bytes()).map(ByteString))
        .collect()
}

/// Removes the backslashes of one argument; `None` if the argument needs a shell.
fn unescape(word: &[u8]) -> Option<Vec<u8>> {
    // A shell drops an empty word.
    if word.is_empty() {
        return None;
    }
    let mut unescaped = Vec::with_capacity(word.len());
    let mut bytes = word.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            // A shell drops a backslash with a line feed after it.
            b'\\' => unescaped.push(*bytes.next().filter(|byte| **byte != b'\n')?),
            b'~' if unescaped.is_empty() => return None,
            byte if SHELL_CHARACTERS.contains(byte) => return None,
            byte => unescaped.push(*byte),
        }
    }
    Some(unescaped)
}

/// Parses the arguments after `docker`.
fn parse(words: Vec<OsString>) -> Result<DockerExec, Failure> {
    try_parse(words).ok_or_else(|| {
        Failure::usage("podbridge docker takes only the arguments that Ansible's synchronize passes: exec [-u USER] -i POD COMMAND")
    })
}

/// Parses the arguments after `docker`; `None` if they have another form.
fn try_parse(words: Vec<OsString>) -> Option<DockerExec> {
    let mut words = words.into_iter();
    let mut user = None;
    if words.next()? != "exec" {
        return None;
    }
    let pod = loop {
        let word = words.next()?.into_string().ok()?;
        match word.as_str() {
            "-u" => user = Some(words.next()?.into_string().ok()?),
            "-i" => {}
            flag if flag.starts_with('-') => return None,
            _ => break word,
        }
    };
    let argv: Vec<OsString> = words.collect();
    (!argv.is_empty()).then_some(DockerExec { user, pod, argv })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Option<DockerExec> {
        parse(words.iter().map(OsString::from).collect()).ok()
    }

    #[test]
    fn the_arguments_of_synchronize_are_parsed() {
        let expected = DockerExec {
            user: Some("zuul".into()),
            pod: "web".into(),
            argv: ["rsync", "--server", "-i", "."].map(OsString::from).to_vec(),
        };
        assert_eq!(
            call(&["exec", "-u", "zuul", "-i", "web", "rsync", "--server", "-i", "."]),
            Some(expected)
        );
        assert_eq!(call(&["exec", "-i", "web", "rsync"]).unwrap().user, None);
        for words in [
            &[][..],
            &["run", "web", "x"],
            &["exec", "-i", "web"],
            &["exec", "--rm", "web", "x"],
        ] {
            assert_eq!(call(words), None, "{words:?}");
        }
    }

    #[test]
    fn escaped_arguments_are_unescaped_and_others_need_a_shell() {
        let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        let argv = without_shell(&words(&["rsync", ".", r"/tmp/a\ b/ü\'x\*\$y\\"])).unwrap();
        assert_eq!(argv[2].0, r"/tmp/a b/ü'x*$y\".as_bytes());
        assert!(without_shell(&words(&["rsync", "/a~", r"\~/b"])).is_some());
        for word in ["sudo -u x rsync", "~/src", "/tmp/*.log", "$HOME", r"/tmp/end\", ""] {
            assert!(without_shell(&words(&["rsync", word])).is_none(), "{word}");
        }
    }
}
