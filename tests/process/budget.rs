//! Clients that send without end, or read nothing, cost the bridge little and delay nobody. The agent is an honest one.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use podbridge_tests::client_protocol::{Connection, RESULT, STARTED, STDOUT, exec_with_payload};
use podbridge_tests::pair::{Pair, eventually};
use serde_json::json;

/// Most memory of a bridge under attack, bytes.
const CEILING: u64 = 96 << 20;
/// Limit for one command beside an attack: a loaded machine needs a part of it, and a command that waits for another's client never ends.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Runs `true` with and without a descriptor as its standard input; both must be quick.
fn assert_responsive(pair: &Pair) {
    for _ in 0..3 {
        let begun = Instant::now();
        let mut client = pair.exec(&["true"]).spawn().unwrap();
        eventually("`true` ends", || client.try_wait().unwrap().is_some());
        assert!(client.wait().unwrap().success());
        let outcome = exec_with_payload(&socket(pair), &["cat"], b"payload").unwrap();
        assert_eq!(outcome["outcome"], "exited", "{outcome}");
        assert!(begun.elapsed() < ANSWER_LIMIT, "{:?}", begun.elapsed());
    }
}

fn socket(pair: &Pair) -> PathBuf {
    let files = fs::read_dir(pair.bridge_dir()).unwrap().flatten();
    let mut paths = files.map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|end| end == "sock"))
        .unwrap()
}

/// Returns the memory of the bridge that no file backs, bytes. A process that a bridge has forked counts as a bridge until it runs its program.
fn memory(pair: &Pair) -> u64 {
    let memory_of = |bridge: u32| {
        let status = fs::read_to_string(format!("/proc/{bridge}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    };
    pair.bridges().into_iter().filter_map(memory_of).max().unwrap_or(0)
}

/// Returns the most memory that a process has had, bytes.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn kill_all(clients: Vec<Child>) {
    for mut client in clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

/// Writes a file with content that differs from place to place.
fn content(pair: &Pair, length: usize) -> (PathBuf, Vec<u8>) {
    let content: Vec<u8> = (0..length / 4).flat_map(|n| (n as u32).to_le_bytes()).collect();
    let path = pair.dir().join("content");
    fs::write(&path, &content).unwrap();
    (path, content)
}

#[test]
fn commands_that_leave_their_input_unread_delay_nobody_and_end_with_their_clients() {
    let pair = Pair::start();
    assert_responsive(&pair);
    let (path, _) = content(&pair, 6 << 20);
    let start = |_| {
        let mut command = pair.exec(&["sleep", "1000"]);
        command.stdin(File::open(&path).unwrap()).spawn().unwrap()
    };
    let clients: Vec<_> = (0..48).map(start).collect();
    eventually("all commands run", || pair.commands().len() == clients.len());
    assert_responsive(&pair);
    assert!(memory(&pair) < CEILING, "{}", memory(&pair));
    // A command that reads gets all of its input beside them.
    let mut reader = pair.exec(&["sh", "-c", "wc -c"]);
    let mut reader = reader
        .stdin(File::open(&path).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut counted = String::new();
    reader.stdout.take().unwrap().read_to_string(&mut counted).unwrap();
    assert_eq!(counted.trim(), (6 << 20).to_string());
    assert!(reader.wait().unwrap().success());
    kill_all(clients);
    eventually("the commands end with their clients", || pair.commands().is_empty());
    assert_responsive(&pair);
}

#[test]
fn readers_that_stand_still_delay_nobody_and_lose_nothing() {
    let pair = Pair::start();
    assert_responsive(&pair);
    let (path, content) = content(&pair, 3 << 20);
    let remote = format!("x:{}", path.display());
    let mut commands = Vec::new();
    for _ in 0..60 {
        commands.push(pair.exec(&["cat", path.to_str().unwrap()]));
        commands.push(pair.podbridge(&["cp", &remote, "-"]));
    }
    let clients: Vec<_> = commands
        .iter_mut()
        .map(|command| command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    let operations = || {
        let status = pair.podbridge(&["status", "--json"]).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        status[0]["bridge"]["operations"].as_u64().unwrap_or(0)
    };
    eventually("all operations run", || operations() == 120);
    assert_responsive(&pair);
    assert!(memory(&pair) < CEILING, "{}", memory(&pair));
    for mut client in clients {
        let mut received = Vec::new();
        client.stdout.take().unwrap().read_to_end(&mut received).unwrap();
        assert!(received == content, "{} bytes", received.len());
        assert!(client.wait().unwrap().success());
    }
}

#[test]
fn readers_without_number_cost_the_bridge_little_and_get_all_their_output() {
    // As many as a bridge serves at once, less some for others. Each gets more than its socket holds.
    const READERS: usize = 600;
    const LENGTH: usize = 400_000;
    let pair = Pair::start();
    assert_responsive(&pair);
    let socket = socket(&pair);
    let request = json!({"v": 1, "op": "exec", "argv": ["head", "-c", LENGTH.to_string(), "/dev/zero"]});
    let start = |_| {
        let mut reader = Connection::open(&socket).unwrap();
        reader.send_request(&request, &[]).unwrap();
        reader
    };
    let mut readers: Vec<_> = (0..READERS).map(start).collect();
    for reader in &mut readers {
        while reader.read_frame().unwrap().0 != STARTED {}
    }
    assert_responsive(&pair);
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    for (number, mut reader) in readers.into_iter().enumerate() {
        let mut length = 0;
        let result = loop {
            match reader.read_frame().unwrap() {
                (RESULT, result) => break String::from_utf8(result).unwrap(),
                (STDOUT, output) => length += output.len(),
                _ => {}
            }
        };
        assert_eq!(length, LENGTH, "reader {number}: {result}");
    }
    assert!(peak(bridge) < CEILING, "{} MiB", peak(bridge) >> 20);
}

#[test]
fn downloads_that_take_long_on_the_disk_delay_no_command() {
    let pair = Pair::start();
    assert_responsive(&pair);
    // Mostly a hole, whose zeros both ends hash.
    let path = pair.dir().join("sparse");
    let mut file = File::create(&path).unwrap();
    file.set_len(64 << 30).unwrap();
    file.write_all(b"begin").unwrap();
    let remote = format!("x:{}", path.display());
    let start = |number| {
        let local = pair.dir().join(format!("copy{number}"));
        let mut command = pair.podbridge(&["cp", &remote, local.to_str().unwrap()]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let clients: Vec<_> = (0..16).map(start).collect();
    let begun = || {
        let files = fs::read_dir(pair.dir()).unwrap().flatten();
        files
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(".podbridge-"))
            .count()
    };
    eventually("all downloads have begun", || begun() == clients.len());
    assert_responsive(&pair);
    assert!(memory(&pair) < CEILING, "{}", memory(&pair));
    kill_all(clients);
    assert_responsive(&pair);
}

/// The pod of a lying shell: it says that there is no agent, and then does not stop talking.
const TALKING_POD: &str = r#"#!/bin/sh
case "$1 $2" in
"get --raw")
  echo '{"kind": "Pod", "metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "spec": {"containers": [{"name": "main"}]},
    "status": {"phase": "Running", "containerStatuses": [{"name": "main", "containerID": "containerd://1", "restartCount": 0,
      "ready": true, "image": "i", "imageID": "i", "state": {"running": {"startedAt": "2026-11-30T00:00:00Z"}}}]}}' ;;
*)
  echo podbridge-find/1
  exec yes "$(printf 'refused \033]0;owned\007')" ;;
esac
"#;

#[test]
fn a_shell_that_does_not_stop_talking_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;

    let pair = Pair::start();
    let (bin, kubeconfig) = (pair.dir().join("bin"), pair.dir().join("kubeconfig"));
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("kubectl"), TALKING_POD).unwrap();
    fs::set_permissions(bin.join("kubectl"), fs::Permissions::from_mode(0o700)).unwrap();
    let content = r#"{"current-context": "x", "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "namespace": "ns"}}]}"#;
    fs::write(&kubeconfig, content).unwrap();
    let mut command = pair.podbridge(&["exec", "web", "--", "true"]);
    command
        .env("PODBRIDGE_LINK", "kubectl")
        .env_remove("PODBRIDGE_AGENT_SOCKET")
        .env("KUBECONFIG", &kubeconfig)
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    let mut most = 0;
    eventually("the client gives up", || {
        most = most.max(memory(&pair));
        assert!(most < CEILING, "{most}");
        client.try_wait().unwrap().is_some()
    });
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(233), "{said}");
    assert!(said.contains("printed more than 65536 bytes"), "{said}");
    assert!(!said.trim_end().chars().any(char::is_control), "{said:?}");
}
