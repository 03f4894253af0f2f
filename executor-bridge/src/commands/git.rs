//! `podbridge git ARGUMENTS…`: the local git, whose ssh is `podbridge ssh` with our own options. It takes our place: terminal,
//! signals and exit code are git's.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum as _;

use crate::cli::{GitOptions, TargetOptions};
use crate::config::{self, BridgeSettings};
use crate::env::Process;
use crate::error::{Failure, Kind};
use crate::program;

/// Returns only if git cannot be run.
pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: &GitOptions) -> Result<u8, Failure> {
    let own = program::path()
        .map_err(|error| Failure::new(Kind::Internal, format!("cannot find my own program: {error}")))?;
    let mut words = vec![own.into_os_string(), "ssh".into()];
    words.extend(target_words(target)?);
    let idle = options.idle.map_or(0, |idle| idle.as_secs());
    words.push(format!("--idle={idle}").into());
    words.push(format!("--connect-timeout={}", options.connect_timeout.as_secs()).into());
    words.extend(
        command
            .git_cache
            .iter()
            .map(|cache| word("--git-cache", cache.as_os_str())),
    );
    let error = Command::new("git")
        .args(&command.arguments)
        .envs(config::files_for_anywhere(&Process)?)
        .env("GIT_SSH_COMMAND", quoted(&words))
        // Else git would ask us first.
        .env("GIT_SSH_VARIANT", "ssh")
        .exec();
    let sentence = match error.kind() {
        std::io::ErrorKind::NotFound => "there is no git in PATH; install it here".to_owned(),
        _ => format!("git cannot be run: {error}"),
    };
    Err(Failure::new(Kind::LocalFile, sentence))
}

/// The options again; git changes the directory before it runs us.
fn target_words(target: TargetOptions) -> Result<Vec<OsString>, Failure> {
    let TargetOptions {
        kubeconfig,
        context,
        namespace,
        container,
        server,
        certificate_authority,
        client_certificate,
        client_key,
        token_file,
        insecure_skip_tls_verify,
        impersonate,
        impersonate_group,
        link,
        agent_socket,
    } = target;
    let mut words = Vec::new();
    for (name, path) in [
        ("--kubeconfig", kubeconfig.map(PathBuf::from)),
        ("--certificate-authority", certificate_authority),
        ("--client-certificate", client_certificate),
        ("--client-key", client_key),
        ("--token-file", token_file),
        ("--agent-socket", agent_socket),
    ] {
        if let Some(path) = path {
            let path = config::absolute(Path::new(&path), &Process)?;
            words.push(word(name, OsStr::new(&path)));
        }
    }
    let link = link.and_then(|link| Some(link.to_possible_value()?.get_name().to_owned()));
    let named = [
        ("--context", context),
        ("--namespace", namespace),
        ("--container", container),
        ("--server", server),
        ("--as", impersonate),
        ("--link", link),
    ];
    let groups = impersonate_group.into_iter().map(|group| ("--as-group", Some(group)));
    for (name, value) in named.into_iter().chain(groups) {
        words.extend(value.map(|value| word(name, OsStr::new(&value))));
    }
    words.extend(insecure_skip_tls_verify.then(|| "--insecure-skip-tls-verify".into()));
    Ok(words)
}

fn word(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

/// For the shell that git hands it to.
fn quoted(words: &[OsString]) -> OsString {
    let mut line = Vec::new();
    for word in words {
        line.extend_from_slice(b"'");
        for byte in word.as_bytes() {
            match byte {
                b'\'' => line.extend_from_slice(b"'\\''"),
                byte => line.push(*byte),
            }
        }
        line.extend_from_slice(b"' ");
    }
    line.pop();
    OsString::from_vec(line)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn every_option_of_the_target_reaches_ssh() {
        let given = [
            "--kubeconfig=/it's/kc",
            "--certificate-authority=/ca",
            "--client-certificate=/cert",
            "--client-key=/key",
            "--token-file=/token",
            "--agent-socket=/agent",
            "--context=ctx",
            "--namespace=ns",
            "--container=side",
            "--server=https://x",
            "--as=me",
            "--link=local",
            "--as-group=a",
            "--as-group=b",
            "--insecure-skip-tls-verify",
        ];
        let line = ["podbridge", "git"].iter().chain(&given).chain(&["--", "push", "-n"]);
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Git(git) = cli.command else {
            panic!("not git")
        };
        assert_eq!(git.arguments, ["push", "-n"]);
        assert_eq!(target_words(cli.target).unwrap(), given);
    }

    #[test]
    fn a_shell_gets_the_words_back() {
        let words = ["a b", "it's", "$x"].map(OsString::from);
        assert_eq!(quoted(&words), r"'a b' 'it'\''s' '$x'");
    }
}
