//! This build together with the previous one (tests/previous-build), as agent, bridge and client in every mixture. Executors are updated
//! while builds run, and pods may have older or newer agents.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use podbridge_tests::pair::{self, Pair, binary, eventually, previous_binary};
use rustix::process::Signal;

/// Returns a program of the previous build and of this one.
fn builds(name: &str) -> [PathBuf; 2] {
    [previous_binary(name), binary(name)]
}

/// Waits for a bridge other than `known`; returns its pid and its program.
fn wait_for_bridge(pair: &Pair, known: &[u32]) -> (u32, PathBuf) {
    let mut found = None;
    eventually("a bridge runs", || {
        found = pair.bridges().into_iter().find(|pid| !known.contains(pid));
        found.is_some()
    });
    let pid = found.unwrap();
    (pid, fs::read_link(format!("/proc/{pid}/exe")).unwrap())
}

fn podbridge(pair: &Pair, program: &Path, arguments: &[&str]) -> Command {
    let mut command = pair.command(program);
    command.args(arguments);
    command
}

/// Runs a command that must succeed.
fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A client and its command. The command counts its runs, waits for a file and then copies its input.
struct Task {
    client: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    directory: PathBuf,
}

impl Task {
    fn start(mut command: Command, directory: &Path) -> Self {
        let directory = directory.to_owned();
        fs::create_dir_all(&directory).unwrap();
        let script = format!(
            "cd {}; echo x >> runs; echo begun; while ! [ -e go ]; do sleep 0.01; done; cat; exit 7",
            directory.display()
        );
        command.args(["exec", "-i", "x", "--", "sh", "-c", &script]);
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(client.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "begun\n");
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(b"before ").unwrap();
        Self {
            client,
            stdin,
            stdout,
            directory,
        }
    }

    /// Lets the command end, and checks its output, exit code and number of runs.
    fn finish(mut self) {
        self.stdin.write_all(b"after").unwrap();
        drop(self.stdin);
        fs::write(self.directory.join("go"), "").unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "before after");
        assert_eq!(self.client.wait().unwrap().code(), Some(7));
        assert_eq!(fs::read_to_string(self.directory.join("runs")).unwrap(), "x\n");
    }
}

#[test]
fn every_mixture_of_builds_runs_commands_and_copies_files() {
    let content: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    for agent in builds("podbridge-agent") {
        for (of_bridge, of_client) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let pair = Pair::with_agent(&agent);
            let client = &builds("podbridge")[of_client];
            succeed(podbridge(
                &pair,
                &builds("podbridge")[of_bridge],
                &["exec", "x", "--", "true"],
            ));
            let first = wait_for_bridge(&pair, &[]);
            assert_eq!(first.1, builds("podbridge")[of_bridge]);

            let (local, back) = (pair.dir().join("local"), pair.dir().join("back"));
            fs::write(&local, &content).unwrap();
            let mut cat = podbridge(&pair, client, &["exec", "-i", "x", "--", "sh", "-c", "cat; exit 7"]);
            let ended = cat.stdin(fs::File::open(&local).unwrap()).output().unwrap();
            assert!(ended.stdout == content, "{} bytes came back", ended.stdout.len());
            assert_eq!(ended.status.code(), Some(7));

            let remote = format!("x:{}", pair.dir().join("remote").display());
            succeed(podbridge(&pair, client, &["cp", local.to_str().unwrap(), &remote]));
            succeed(podbridge(&pair, client, &["cp", &remote, back.to_str().unwrap()]));
            assert!(fs::read(&back).unwrap() == content);

            assert_eq!(pair.bridges(), [first.0], "all of it went through that bridge");
        }
    }
}

#[test]
fn a_bridge_of_the_other_build_takes_over_during_a_task() {
    for agent in builds("podbridge-agent") {
        for (of_bridge, of_client) in [(0, 1), (1, 0)] {
            let pair = Pair::with_agent(&agent);
            let programs = builds("podbridge");
            succeed(podbridge(&pair, &programs[of_bridge], &["exec", "x", "--", "true"]));
            let first = wait_for_bridge(&pair, &[]);
            assert_eq!(first.1, programs[of_bridge]);
            let task = Task::start(pair.command(&programs[of_client]), &pair.dir().join("task"));
            pair::send_signal(first.0, Signal::KILL);
            assert_eq!(wait_for_bridge(&pair, &[first.0]).1, programs[of_client]);
            task.finish();
        }
    }
}

/// Installs a program with `cp` and a rename. This process must not write it: another test could fork meanwhile, its child would inherit the
/// open file, and a program that is open for writing cannot be run.
fn install(program: &Path, to: &Path) {
    let unpacked = to.with_extension("new");
    let copied = Command::new("cp").arg(program).arg(&unpacked).status().unwrap();
    assert!(copied.success());
    fs::rename(&unpacked, to).unwrap();
}

/// A package is updated or removed while the executor works.
#[test]
fn the_program_is_replaced_or_removed_during_a_task() {
    for after in [Some(previous_binary("podbridge")), None] {
        let pair = Pair::start();
        let installed = pair.dir().join("podbridge");
        install(&binary("podbridge"), &installed);
        let task = Task::start(pair.command(&installed), &pair.dir().join("task"));
        let first = wait_for_bridge(&pair, &[]);

        if let Some(program) = &after {
            install(program, &installed);
            succeed(podbridge(&pair, &installed, &["exec", "x", "--", "true"]));
            assert_eq!(pair.bridges(), [first.0], "the running bridge serves new clients");
        } else {
            fs::remove_file(&installed).unwrap();
        }
        pair::send_signal(first.0, Signal::KILL);
        let second = wait_for_bridge(&pair, &[first.0]).1;
        assert_eq!(second == installed, after.is_some(), "{}", second.display());
        task.finish();
    }
}

/// Two executors with different builds use the same pod.
#[test]
fn bridges_of_two_builds_use_one_agent_at_once() {
    for agent in builds("podbridge-agent") {
        let pair = Pair::with_agent(&agent);
        let tasks = builds("podbridge").map(|program| {
            let executor = pair.dir().join(program.parent().unwrap().file_name().unwrap());
            let mut command = pair.command(&program);
            command.env("PODBRIDGE_DIR", executor.join("bridges"));
            fs::create_dir(&executor).unwrap();
            (Task::start(command, &executor.join("task")), executor)
        });
        for (task, executor) in tasks {
            let bridges = pair::bridges_of(&executor.join("bridges"));
            assert_eq!(bridges.len(), 1);
            task.finish();
            pair::send_signal(bridges[0], Signal::TERM);
            eventually("the bridge ends", || !pair::is_alive(bridges[0]));
        }
    }
}
