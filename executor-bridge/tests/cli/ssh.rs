//! The command lines of `podbridge ssh` and `podbridge git`, without an agent: which are accepted, and which are refused.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::harness::Cli;

#[test]
fn git_takes_podbridge_ssh_for_openssh() {
    let cli = Cli::new();
    let output = cli.run(&["ssh", "-G", "-o", "SendEnv=GIT_PROTOCOL", "-p", "22", "user@web"]);
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert!(!cli.bridges().exists(), "no bridge is started for it");
}

#[test]
fn unsupported_command_lines_are_refused_with_a_reason() {
    let cli = Cli::new();
    for (arguments, word) in [
        (&["ssh"][..], "POD"),
        (&["ssh", "web"], "podbridge exec -it"),
        (&["ssh", "No_Pod", "true"], "No_Pod"),
        (&["ssh", "-W", "a:1", "web", "true"], "-W"),
        (&["git"], "ARGUMENTS"),
    ] {
        let (code, sentence) = cli.fails(arguments);
        assert_eq!(code, 221, "{arguments:?}: {sentence}");
        assert!(sentence.contains(word), "{arguments:?}: {sentence}");
    }
}

/// The target's options are accepted before and after `ssh`, and `podbridge git` passes them on.
#[test]
fn the_options_of_the_target_reach_ssh() {
    let cli = Cli::new();
    let socket = cli.dir.path().join("it's.sock");
    let socket = socket.to_str().unwrap();
    let target = ["--link", "local", "--agent-socket", socket];
    let push = ["git-receive-pack '/x'"];
    for arguments in [
        [&target[..], &["ssh", "-l", "root", "web"], &push].concat(),
        [&["ssh", "-x", "-tt"], &target[..], &["web"], &push].concat(),
    ] {
        let (code, sentence) = cli.fails(&arguments);
        assert_eq!((code, sentence.contains(socket)), (233, true), "{sentence}");
    }
    let mut git = cli.command(&[&["git"], &target[..], &["ls-remote", "web:/x"]].concat());
    let output = git.env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), stderr.contains(socket)),
        (Some(128), true),
        "{stderr}"
    );
}

#[test]
fn a_missing_local_git_is_reported() {
    let cli = Cli::new();
    let output = cli
        .command(&["git", "status"])
        .env("PATH", "/no/such")
        .output()
        .unwrap();
    let (code, sentence) = Cli::failed(&output);
    assert_eq!((code, sentence.contains("git")), (222, true), "{sentence}");
}

#[test]
fn the_program_name_podbridge_ssh_runs_podbridge_ssh() {
    let cli = Cli::new();
    let named = cli.dir.path().join("podbridge-ssh");
    symlink(env!("CARGO_BIN_EXE_podbridge"), &named).unwrap();
    let mut command = Command::new(&named);
    command.args(["-p", "22", "web"]).env_clear().stdin(Stdio::null());
    let (code, sentence) = Cli::failed(&command.output().unwrap());
    assert_eq!(
        (code, sentence.contains("podbridge exec -it")),
        (221, true),
        "{sentence}"
    );
}
