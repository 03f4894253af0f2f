//! A pod whose programs lie, behind a false kubectl: each dial ends in time, costs the bridge little memory, and ends with its client.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Cli, eventually};

/// Time limit of a dial that the tests give, seconds.
const LIMIT: &str = "2";
/// Most time for a dial and its command. A busy machine takes a few seconds to start the programs.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Most memory that the bridge may use at any time, KiB.
const MEMORY_MAX: u64 = 96 << 10;

/// A kubectl that knows one pod. In place of the scripts that podbridge runs in the pod, it runs the functions of the file `pod`.
const KUBECTL: &str = r#"#!/bin/sh
HOME=DIRECTORY
[ "$1" != get ] || exec cat "$HOME/pod.json"
step=write
for word; do
  case $word in
    *podbridge-find/1*) step=find;;
    *podbridge-end/1*) step=start;;
  esac
done
echo $step >>"$HOME/steps"
. "$HOME/pod"
$step
fails 1
"#;

/// Functions for the file `pod`: the behaviour of a pod in good order, until a row replaces it.
const POD: &str = r#"
fails() { echo "command terminated with exit code $1" >&2; exit "$1"; }
report() { echo podbridge-find/1; echo "base $1"; echo "place $1/x"; echo "socket $1/x"; exit 0; }
find() { report /tmp; }
write() { cat >"$HOME/written"; exit 0; }
start() { cat "$HOME/written"; echo podbridge-end/1; exec sleep 600; }
"#;

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "default", "uid": "u"},
        "spec": {"containers": [{"name": "main", "image": "i"}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "main", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "containerID": "c://1",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }]},
    })
}

/// Makes the files of the false kubectl, of a kubeconfig and of a small agent.
fn hostile_pod(behaviour: &str) -> Cli {
    let cli = Cli::new();
    let directory = cli.dir.path().to_str().unwrap();
    let kubectl = cli.file("kubectl", &KUBECTL.replace("DIRECTORY", directory));
    fs::set_permissions(kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    cli.file("pod", &format!("{POD}{behaviour}"));
    cli.file("pod.json", &pod().to_string());
    cli.file(
        "config",
        "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}],\n\
         contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}",
    );
    // An ELF header of this machine, and some content.
    let header = &fs::read("/proc/self/exe").unwrap()[..64];
    fs::write(cli.dir.path().join("agent"), [header, &[7; 4096]].concat()).unwrap();
    cli
}

fn command(cli: &Cli, limit: &str, arguments: &[&str]) -> Command {
    let config = cli.dir.path().join("config");
    let options = ["--link", "kubectl", "--connect-timeout", limit, "--kubeconfig"];
    let mut command = cli.command(&[&options[..], &[config.to_str().unwrap()], arguments].concat());
    command
        .env("PATH", format!("{}:/usr/bin:/bin", cli.dir.path().display()))
        .env("PODBRIDGE_AGENT", cli.dir.path().join("agent"));
    command
}

/// Returns how often the pod ran a script.
fn steps(cli: &Cli, step: &str) -> usize {
    let steps = fs::read_to_string(cli.dir.path().join("steps")).unwrap_or_default();
    steps.lines().filter(|line| *line == step).count()
}

/// Returns the most memory that the bridge has used, KiB.
fn peak_memory(cli: &Cli) -> u64 {
    let status = command(cli, LIMIT, &["status", "x", "--json"]).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let pid = &status[0]["bridge"]["pid"];
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

fn check(about: &str, cli: &Cli, output: &Output, expected: &str) {
    let (code, sentence) = Cli::failed(output);
    assert!((220..240).contains(&code), "{about}: {code} {sentence}");
    assert!(sentence.contains(expected), "{about}: {sentence}");
    let peak = peak_memory(cli);
    assert!(peak < MEMORY_MAX, "{about}: {peak} KiB");
}

/// Each row: what the pod does, words of the failure, and the most times that it may be asked to take the agent.
#[test]
fn every_dial_ends() {
    std::thread::scope(|scope| {
        for (about, behaviour, expected, writes) in [
            (
                "nothing found, ever",
                "find() { exec sleep 600; }",
                "did not answer within 2 s",
                0,
            ),
            (
                "a report without an end",
                "find() { echo podbridge-find/1; exec sleep 600; }",
                "did not end its search for an agent within 2 s",
                0,
            ),
            (
                "an endless report",
                "find() { echo podbridge-find/1; exec yes; }",
                "printed more than 65536 bytes",
                0,
            ),
            (
                "another program as the shell",
                "find() { exec yes; }",
                "cannot be used",
                0,
            ),
            ("stderr without an end", "find() { exec yes >&2; }", "", 0),
            (
                "stderr without an end after the report",
                "find() { echo podbridge-find/1; exec yes >&2; }",
                "",
                1,
            ),
            (
                "no space in invented directories",
                "find() { report /invented-$$; }; write() { cat >/dev/null; fails 1; }",
                "was not asked about",
                2,
            ),
            (
                "no space in one directory, again and again",
                "write() { cat >/dev/null; fails 1; }",
                "was not asked about",
                1,
            ),
            (
                "a directory that is no path",
                "find() { report tmp; }",
                "was not asked about",
                0,
            ),
            (
                "a write without an end",
                "write() { exec sleep 600; }",
                "could not be sent within 2 s",
                1,
            ),
            (
                "a write that prints without an end",
                "write() { exec yes; }",
                "printed more than 4096 bytes",
                1,
            ),
            (
                "a write that prints now and then",
                "write() { while echo x; do sleep 0.1; done; }",
                "could not be sent within 2 s",
                1,
            ),
            (
                "a read-back that stops",
                "start() { head -c 100 \"$HOME/written\"; exec sleep 600; }",
                "could not be read back within 2 s",
                1,
            ),
            (
                "a read-back without an end",
                "start() { cat \"$HOME/written\"; exec yes; }",
                "is larger than the agent",
                1,
            ),
            (
                "another content",
                "start() { echo other; echo podbridge-end/1; exec sleep 600; }",
                "of the agent's 4160 bytes came to",
                1,
            ),
            ("an agent that never answers", "", "did not answer within 2 s", 1),
        ] {
            scope.spawn(move || {
                let cli = hostile_pod(behaviour);
                let started = Instant::now();
                let output = command(&cli, LIMIT, &["exec", "x", "--", "true"]).output().unwrap();
                assert!(started.elapsed() < TIME_MAX, "{about}: {:?}", started.elapsed());
                check(about, &cli, &output, expected);
                assert!(
                    steps(&cli, "write") <= writes,
                    "{about}: {} writes",
                    steps(&cli, "write")
                );
            });
        }
    });
}

#[test]
fn a_dial_ends_with_the_last_client_that_wanted_it() {
    let cli = hostile_pod("find() { echo $$ >\"$HOME/pid\"; exec sleep 600; }");
    let mut clients = [(); 2].map(|()| {
        let mut command = command(&cli, "600", &["exec", "x", "--", "true"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    });
    let pid = || fs::read_to_string(cli.dir.path().join("pid")).unwrap_or_default();
    eventually("the pod is asked", || pid().ends_with('\n'));
    let process = Path::new("/proc").join(pid().trim());
    assert!(process.exists());
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    eventually("the dial has ended", || !process.exists());
}
