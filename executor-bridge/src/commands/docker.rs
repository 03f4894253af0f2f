//! `podbridge docker exec [-u USER] -i POD COMMAND…`: what Ansible's `synchronize` runs as the remote shell of rsync, in the
//! form that it knows for containers. The Ansible plugin says which pod is meant, and whether the task became another user.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::{bridge, conclude};
use crate::cli::{DockerOptions, TargetOptions};
use crate::client::{self, Ended, Streams};
use crate::daemon;
use crate::error::Failure;
use crate::protocol::octets::Octets;
use crate::protocol::request::{Exec, Input};
use crate::protocol::target::hex;
use crate::random;

/// The words after `docker`.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    user: Option<String>,
    pod: String,
    argv: Vec<OsString>,
}

pub(super) fn run(target: TargetOptions, options: daemon::Options, command: DockerOptions) -> Result<u8, Failure> {
    let Call { user, pod, argv } = parse(command.words)?;
    let exec = Exec {
        exec_id: Some(hex(&random::bytes::<16>())),
        argv: Some(argv.into_iter().map(|word| Octets(word.into_vec())).collect()),
        // Zuul's `ansible_user`, which is always there, is no user of the pod.
        user: match command.r#become {
            true => user,
            false => command.user,
        },
        stdin: Input::Stream,
        ..Exec::default()
    };
    let container = target.container.clone();
    let bridge = bridge(target, &pod, options)?;
    match client::attend(bridge, container, exec, Streams::standard())? {
        Ended::Outcome(outcome) => Ok(conclude(&outcome)),
        Ended::Left(code) => Ok(code),
    }
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
}
