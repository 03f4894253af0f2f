//! `podbridge docker exec [-u USER] -i POD COMMAND…`: what Ansible's `synchronize` runs as the remote shell of rsync, in the
//! form that it knows for containers. The Ansible plugin says which pod is meant, and whether the task became another user. rsync
//! escapes its words for a shell, which docker does not have: here they mean what they mean over SSH.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::cli::{DockerOptions, TargetOptions};
use crate::client::{self, Ended, Streams};
use crate::commands::bridge_of_pod::bridge_address;
use crate::config::BridgeSettings;
use crate::error::Failure;
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::protocol::target::hex;
use crate::random;
use crate::report::{conclude, say};

/// The exit code of a program that is not there.
const NOT_FOUND: u8 = 127;
const WITHOUT_RSYNC: &str = "synchronize needs rsync in the image or a static one beside the agent; the action \
                             podbridge.zuul.synchronize needs neither (docs/synchronize.md)";
/// What a shell does not leave as it is, anywhere in a word.
const SHELL: &[u8] = b" \t\n!#$&;|<>(){}\"'`*?[]";

/// The words after `docker`.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    user: Option<String>,
    pod: String,
    argv: Vec<OsString>,
}

pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: DockerOptions) -> Result<u8, Failure> {
    let Call { user, pod, argv } = parse(command.words)?;
    // Ansible's name of the host need not be the pod's.
    let pod = command.pod.unwrap_or(pod);
    let rsync = argv[0] == "rsync";
    let (argv, shell) = match plain(&argv) {
        Some(argv) => (Some(argv), None),
        None => (None, Some(ByteString(argv.join(OsStr::new(" ")).into_vec()))),
    };
    let exec = Exec {
        exec_id: Some(hex(&random::bytes::<16>())),
        argv,
        shell,
        // Zuul's `ansible_user`, which is always there, is no user of the pod.
        user: match command.r#become {
            true => user,
            false => command.user,
        },
        stdin: Input::Stream,
        ..Exec::default()
    };
    let container = target.container.clone();
    let bridge = bridge_address(target, &pod, options)?;
    match client::attend(bridge, container, exec, Streams::standard())? {
        Ended::Outcome(outcome) => {
            let code = conclude(&outcome);
            if rsync && matches!(outcome, Outcome::StartFailed { code: NOT_FOUND, .. }) {
                say(WITHOUT_RSYNC);
            }
            Ok(code)
        }
        Ended::Left(code) => Ok(code),
    }
}

/// The words as the program gets them; `None` if that takes a shell.
fn plain(words: &[OsString]) -> Option<Vec<ByteString>> {
    words
        .iter()
        .map(|word| unescaped(word.as_bytes()).map(ByteString))
        .collect()
}

fn unescaped(word: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(word.len());
    let mut bytes = word.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => plain.push(*bytes.next()?),
            b'~' if plain.is_empty() => return None,
            byte if SHELL.contains(byte) => return None,
            byte => plain.push(*byte),
        }
    }
    Some(plain)
}

fn parse(words: Vec<OsString>) -> Result<Call, Failure> {
    understood(words).ok_or_else(|| {
        Failure::usage("podbridge docker is what `synchronize` calls: docker exec [-u USER] -i POD COMMAND")
    })
}

fn understood(words: Vec<OsString>) -> Option<Call> {
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
    (!argv.is_empty()).then_some(Call { user, pod, argv })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Option<Call> {
        parse(words.iter().map(OsString::from).collect()).ok()
    }

    #[test]
    fn what_synchronize_says_is_understood() {
        let expected = Call {
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
    fn words_mean_what_they_mean_to_a_shell() {
        let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        let argv = plain(&words(&["rsync", ".", r"/tmp/a\ b/ü\'x\*\$y\\"])).unwrap();
        assert_eq!(argv[2].0, r"/tmp/a b/ü'x*$y\".as_bytes());
        assert!(plain(&words(&["rsync", "/a~", r"\~/b"])).is_some());
        for word in ["sudo -u x rsync", "~/src", "/tmp/*.log", "$HOME", r"/tmp/end\"] {
            assert!(plain(&words(&["rsync", word])).is_none(), "{word}");
        }
    }
}
