//! `podbridge git ARGUMENTS…`: runs the local git with `podbridge ssh` as its ssh command, and passes the target's options on to that.
//! This process becomes git, so git has the terminal and the signals and sets the exit code.

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

/// Replaces this process by git; returns only if git cannot be run.
pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: &GitOptions) -> Result<u8, Failure> {
    let own = program::path().map_err(|error| {
        Failure::new(
            Kind::Internal,
            format!("the path of this program cannot be found: {error}"),
        )
    })?;
    let mut words = vec![own.into_os_string(), "ssh".into()];
    words.extend(target_options(target)?);
    let idle = options.idle.map_or(0, |idle| idle.as_secs());
    words.push(format!("--idle={idle}").into());
    words.push(format!("--connect-timeout={}", options.connect_timeout.as_secs()).into());
    words.extend(
        command
            .git_cache
            .iter()
            .map(|cache| option("--git-cache", cache.as_os_str())),
    );
    let error = Command::new("git")
        .args(&command.arguments)
        .envs(config::files_for_anywhere(&Process)?)
        .env("GIT_SSH_COMMAND", quote_for_shell(&words))
        // Without this variable git would call `podbridge ssh -G` first.
        .env("GIT_SSH_VARIANT", "ssh")
        .exec();
    let sentence = match error.kind() {
        std::io::ErrorKind::NotFound => "git is not in PATH; install it on this machine".to_owned(),
        _ => format!("git cannot be run: {error}"),
    };
    Err(Failure::new(Kind::LocalFile, sentence))
}

/// Returns the target's options for `podbridge ssh`, with absolute paths: git changes the working directory before it runs ssh.
fn target_options(target: TargetOptions) -> Result<Vec<OsString>, Failure> {
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
        target_file,
    } = target;
    let mut words = Vec::new();
    for (name, path) in [
        ("--kubeconfig", kubeconfig.map(PathBuf::from)),
        ("--certificate-authority", certificate_authority),
        ("--client-certificate", client_certificate),
        ("--client-key", client_key),
        ("--token-file", token_file),
        ("--agent-socket", agent_socket),
        ("--target-file", target_file),
    ] {
        if let Some(path) = path {
            let path = config::absolute(Path::new(&path), &Process)?;
            words.push(option(name, OsStr::new(&path)));
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
        words.extend(value.map(|value| option(name, OsStr::new(&value))));
    }
    words.extend(insecure_skip_tls_verify.map(|insecure| format!("--insecure-skip-tls-verify={insecure}").into()));
    Ok(words)
}

/// Returns `NAME=VALUE`.
fn option(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

/// Quotes the arguments for the shell that git runs GIT_SSH_COMMAND with.
fn quote_for_shell(words: &[OsString]) -> OsString {
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
            "--target-file=/target",
            "--context=ctx",
            "--namespace=ns",
            "--container=side",
            "--server=https://x",
            "--as=me",
            "--link=local",
            "--as-group=a",
            "--as-group=b",
            "--insecure-skip-tls-verify=false",
        ];
        let line = ["podbridge", "git"].iter().chain(&given).chain(&["--", "push", "-n"]);
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Git(git) = cli.command else {
            panic!("not git")
        };
        assert_eq!(git.arguments, ["push", "-n"]);
        assert_eq!(target_options(cli.target).unwrap(), given);
    }

    #[test]
    fn a_shell_splits_quoted_arguments_into_the_same_arguments() {
        let words = ["a b", "it's", "$x"].map(OsString::from);
        assert_eq!(quote_for_shell(&words), r"'a b' 'it'\''s' '$x'");
    }
}
