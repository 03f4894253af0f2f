//! The bridge of a Zuul build and the console stream, byte for byte as Zuul's executor and its callback see them. The pod's agent runs on
//! this host, so that its console logs are in /tmp here.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use podbridge_tests::build::{Build, Console, LogFile};
use podbridge_tests::client_protocol::{Connection, STDOUT, exec_with_payload};
use podbridge_tests::pair::{Pair, eventually, is_alive};
use serde_json::json;

const NOT_FOUND: &str = "[Zuul] Log not found\n";
const EXIT: &str = "2026-11-26 10:20:30.123456 | [Zuul] Task exit code: 0\n";

#[test]
fn the_bridge_prints_the_lines_of_kubectl_port_forward_and_no_more() {
    let (pair, build) = (Pair::start(), Build::default());
    let mut bridge = build.start_bridge(&pair, "web");
    let [first, second] = [&bridge.ports[0], &bridge.ports[1]].map(|port| port.port);
    assert_eq!(
        bridge.announced,
        [
            format!("Forwarding from 127.0.0.1:{first} -> 19885\n"),
            format!("Forwarding from 127.0.0.1:{second} -> 19886\n")
        ]
    );
    // The bridge has closed its stdout, so that Zuul does not wait for the end of it.
    let mut rest = String::new();
    bridge.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert!(bridge.child.try_wait().unwrap().is_none());
    for port in [first, second] {
        let mut console = Console::connect(port);
        console.send("v:0\n");
        assert_eq!(console.read_line(), "1\n");
    }
    build.remove();
    eventually("it ends with the build", || bridge.child.try_wait().unwrap().is_some());
    assert_eq!(bridge.child.wait().unwrap().code(), Some(0));
}

/// Zuul starts the bridge outside of the limits of its jobs and with its own environment.
#[test]
fn the_bridge_has_the_limits_of_a_job_and_no_secret_in_its_environment() {
    let (pair, build) = (Pair::start(), Build::default());
    let bridge = build.start_bridge_with(
        &pair,
        "web",
        &[("PODBRIDGE_TOKEN", "secret-1"), ("AWS_SECRET", "secret-2")],
    );
    let read = |pid: u32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let pid = bridge.child.id();
    let own: i32 = read(std::process::id(), "oom_score_adj").trim().parse().unwrap();
    let score = (own + 200).min(1000).to_string();
    eventually("the bridge has set its limits", || {
        read(pid, "oom_score_adj").trim() == score
    });
    assert!(!read(pid, "environ").contains("secret"), "{}", read(pid, "environ"));
    let limits = read(pid, "limits");
    let soft = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(
        (soft("Max data size"), soft("Max core file size")),
        ((1 << 30).to_string(), "0".into())
    );
    assert!(
        build
            .kubectl(&pair, &["-n", "ns", "exec", "web", "--", "true"])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn readers_get_a_log_while_it_is_written() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let bridge = build.start_bridge(&pair, "web");
    let mut console = bridge.open_log(&log.id);
    assert_eq!(console.read_line(), NOT_FOUND);
    log.append(b"2026-11-26 10:20:29.000001 | one\n");
    assert_eq!(console.read_log_line(), "2026-11-26 10:20:29.000001 | one\n");
    // A second reader with the old form of a request, and a third one with a path in the id.
    let mut second = Console::connect(bridge.ports[0].port);
    second.send(&format!("{}\n", log.id));
    let mut third = bridge.open_log(&format!("../../tmp/{}", log.id));
    for console in [&mut second, &mut third] {
        assert_eq!(console.read_log_line(), "2026-11-26 10:20:29.000001 | one\n");
    }
    let binary: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    log.append(&binary);
    for console in [&mut console, &mut second, &mut third] {
        assert!(console.read_bytes(binary.len()) == binary);
    }
    log.append(b"no newline");
    assert_eq!(console.read_bytes(10), b"no newline");
    log.append(EXIT.as_bytes());
    assert_eq!(console.read_line(), "\n");
    assert_eq!(console.read_line(), EXIT);
    assert!(console.is_silent(Duration::from_millis(200)));
    // Zuul makes another connection to delete a log.
    bridge.open_console().send(&format!("f:{}\n", log.id));
    eventually("the log is deleted", || !log.path.exists());
    assert_eq!(console.read_line(), NOT_FOUND);
    log.append(b"again\n");
    assert_eq!(console.read_log_line(), "again\n");
}

#[test]
fn log_not_found_is_repeated_often_at_first_and_seldom_later() {
    let (pair, build) = (Pair::start(), Build::default());
    let bridge = build.start_bridge(&pair, "web");
    let mut console = bridge.open_log("podbridge-nowhere");
    let started = Instant::now();
    let (mut early, mut late) = (0, 0);
    while started.elapsed() < Duration::from_secs(4) {
        assert_eq!(console.read_line(), NOT_FOUND);
        if started.elapsed() < Duration::from_secs(2) {
            early += 1;
        } else {
            late += 1;
        }
    }
    // 40 early and 4 late lines on an idle machine.
    assert!(
        (10..=41).contains(&early) && (2..=6).contains(&late),
        "{early} and {late}"
    );
    // The bridge repeats the line at once when an exec of the pod has ended.
    let exec = ["-n", "ns", "exec", "web", "--", "true"];
    assert!(build.kubectl(&pair, &exec).status().unwrap().success());
    assert_eq!(console.read_line(), NOT_FOUND);
}

#[test]
fn a_connection_for_a_log_ends_when_its_task_ended_without_a_log() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let bridge = build.start_bridge(&pair, "web");
    let mut console = bridge.open_log(&log.id);
    assert_eq!(console.read_line(), NOT_FOUND);
    run_module(&build, &log, "true");
    assert_eq!(console.read_log_line(), "");
    // A task that wrote a log.
    let mut console = bridge.open_log(&log.id);
    run_module(&build, &log, &format!("echo hello > {}", log.path.display()));
    // The bridge closed this connection before the second run, or sends what the run wrote.
    assert!(["", "hello\n"].contains(&console.read_log_line().as_str()));
    assert_eq!(bridge.open_log(&log.id).read_log_line(), "hello\n");
}

/// The stock plugin copies a module by `kubectl exec` first. That exec has the log's id in its input and ends before the task begins.
#[test]
fn the_exec_that_copies_a_module_is_not_taken_for_its_task() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let bridge = build.start_bridge(&pair, "web");
    let mut console = bridge.open_log(&log.id);
    assert_eq!(console.read_line(), NOT_FOUND);
    let file = pair.dir().join("AnsiballZ_command.py");
    let script = format!("cat > {}", file.display());
    let mut command = build.kubectl(&pair, &["exec", "-i", "web", "--", "sh", "-c", &script]);
    let mut client = command.stdin(Stdio::piped()).spawn().unwrap();
    let module = format!("{{\"zuul_log_id\": \"{}\"}}\n", log.id);
    client.stdin.take().unwrap().write_all(module.as_bytes()).unwrap();
    assert!(client.wait().unwrap().success());
    log.append(b"begun\n");
    assert_eq!(console.read_log_line(), "begun\n");
}

/// Runs a script whose text has a log id, as Zuul's module does.
fn run_module(build: &Build, log: &LogFile, script: &str) {
    let payload = format!(
        "{script}\n: '{{\"ANSIBLE_MODULE_ARGS\": {{\"zuul_log_id\": \"{}\"}}}}'\n",
        log.id
    );
    let outcome = exec_with_payload(&build.socket(), &["/bin/sh"], payload.as_bytes()).unwrap();
    assert_eq!(outcome["outcome"], "exited", "{outcome}");
    assert_eq!(outcome["code"], 0, "{outcome}");
}

#[test]
fn the_log_of_a_delegated_task_comes_from_the_bridge_of_the_other_pod() {
    let (build, log) = (Build::default(), LogFile::default());
    // Both pods have this machine's file system. The first bridge reaches no agent, so its bytes come from the other bridge.
    let (mut unreachable, other) = (Pair::start(), Pair::start());
    unreachable.kill_agent();
    let bridge = build.start_bridge(&unreachable, "web");
    let _other = build.start_bridge(&other, "db");
    let mut console = bridge.open_log(&log.id);
    assert_eq!(console.read_line(), NOT_FOUND);
    log.append(b"delegated\n");
    assert_eq!(console.read_log_line(), "delegated\n");
    log.append(b"more\n");
    assert_eq!(console.read_line(), "more\n");
    bridge.open_console().send(&format!("f:{}\n", log.id));
    eventually("the log is deleted", || !log.path.exists());
    assert_eq!(console.read_line(), NOT_FOUND);
}

#[test]
fn a_lost_agent_is_reported_in_the_log() {
    let (mut pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let bridge = build.start_bridge(&pair, "web");
    log.append(b"one\nunfinished");
    let (mut with, mut without) = (bridge.open_log(&log.id), bridge.open_log("podbridge-nowhere"));
    assert_eq!(with.read_log_line(), "one\n");
    assert_eq!(without.read_line(), NOT_FOUND);
    pair.kill_agent();
    assert_eq!(with.read_line(), "unfinished\n");
    for mut console in [with, without] {
        let line = console.read_log_line();
        let (stamp, text) = line.split_once(" | ").unwrap();
        assert_eq!(stamp.len(), "2026-11-26 10:20:30.123456".len(), "{line}");
        assert!(text.starts_with("[Zuul] pod web lost: "), "{line}");
        assert_eq!(console.read_line(), "");
    }
}

#[test]
fn a_killed_bridge_is_restarted_on_its_ports() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let bridge = build.start_bridge(&pair, "web");
    let script = format!(
        "echo begun; while ! [ -e {0} ]; do sleep 0.05; done; cat {0}",
        log.path.display()
    );
    let exec = ["--context=ctx", "exec", "web", "--", "sh", "-c", &script];
    let mut client = build.kubectl(&pair, &exec).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 6]).unwrap();
    let bridge = bridge.restart(&build, &pair, "web");
    log.append(b"whole\n");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "whole\n");
    assert!(client.wait().unwrap().success());
    assert_eq!(bridge.open_log(&log.id).read_log_line(), "whole\n");
}

#[test]
fn exec_through_the_shim_is_byte_exact() {
    let (pair, build) = (Pair::start(), Build::default());
    let _bridge = build.start_bridge(&pair, "web");
    let data: Vec<u8> = (0..32 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut command = build.kubectl(&pair, &["exec", "web", "-c", "main", "-i", "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&data).unwrap();
            drop(stdin);
        });
        let mut got = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
        assert!(got == data);
    });
    assert!(child.wait().unwrap().success());
    let exec = ["exec", "pod/web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"];
    let output = build.kubectl(&pair, &exec).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(7), &b"out\n"[..]));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "err\ncommand terminated with exit code 7\n"
    );
}

#[test]
fn invalid_requests_do_not_disturb_other_readers() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let bridge = build.start_bridge(&pair, "web");
    log.append(b"one\n");
    let mut console = bridge.open_log(&log.id);
    assert_eq!(console.read_log_line(), "one\n");
    let port = bridge.ports[0].port;
    for garbage in [
        &b"\n"[..],
        b"s:\n",
        b"\xff\xfe\n",
        b"GET / HTTP/1.1\r\n\r\n",
        &[b'x'; 4096],
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(garbage).unwrap();
        if garbage[0] != b'G' {
            // The bridge closes the connection; the client may see a reset instead.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert_eq!(rest, b"");
        }
    }
    // Parts of requests, and connections without a byte.
    let halves: Vec<_> = (0..400)
        .map(|i| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(&b"s:half"[..i % 6]).unwrap();
            stream
        })
        .collect();
    log.append(b"two\n");
    assert_eq!(console.read_line(), "two\n");
    let exec = ["exec", "web", "--", "true"];
    assert!(build.kubectl(&pair, &exec).status().unwrap().success());
    drop(halves);
    assert!(is_alive(bridge.child.id()));
}

#[test]
fn readers_that_stop_reading_delay_no_other_reader() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let bridge = build.start_bridge(&pair, "web");
    let data: Vec<u8> = (0..8 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    log.append(&data);
    assert!(data.starts_with(bridge.open_log(&log.id).read_log_bytes().as_slice()));
    let mut stalled: Vec<_> = (0..100).map(|_| bridge.open_log(&log.id)).collect();
    // The stalled readers give back their part of the flow-control window within two seconds.
    for length in [1 << 20, 30_000_000] {
        let script = format!("head -c {length} /dev/zero");
        let output = build
            .kubectl(&pair, &["exec", "web", "--", "sh", "-c", &script])
            .output()
            .unwrap();
        assert!(output.status.success() && output.stdout.len() == length);
    }
    log.append(b"the end\n");
    for console in stalled.iter_mut().take(3) {
        assert!(console.read_bytes(data.len()) == data);
        assert_eq!(console.read_line(), "the end\n");
    }
}

#[test]
fn a_command_outlives_any_number_of_bridges() {
    let (pair, build) = (Pair::start(), Build::default());
    let mut bridge = build.start_bridge(&pair, "web");
    let script = "for i in $(seq 40); do echo $i; sleep 0.1; done";
    let exec = ["exec", "web", "--", "sh", "-c", script];
    let mut client = build.kubectl(&pair, &exec).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    let mut output = vec![0];
    stdout.read_exact(&mut output).unwrap();
    for _ in 0..7 {
        bridge = bridge.restart(&build, &pair, "web");
        // The command has to write a few lines with each bridge.
        std::thread::sleep(Duration::from_millis(200));
    }
    stdout.read_to_end(&mut output).unwrap();
    let expected: String = (1..=40).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8(output).unwrap(), expected);
    assert!(client.wait().unwrap().success());
    drop(bridge);
}

#[test]
fn a_command_that_may_still_run_is_reported_as_such() {
    let (pair, build) = (Pair::start(), Build::default());
    let mut bridge = build.start_bridge(&pair, "web");
    let exec = ["exec", "web", "--", "sh", "-c", "echo begun; exec sleep 300"];
    let mut command = build.kubectl(&pair, &exec);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    client.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    bridge.child.kill().unwrap();
    bridge.child.wait().unwrap();
    // Without the directory no other bridge can serve this client.
    build.remove();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("may still run"), "{message}");
}

#[test]
fn podbridges_own_command_line_uses_the_bridge_of_the_build() {
    let (pair, build) = (Pair::start(), Build::default());
    let _bridge = build.start_bridge(&pair, "web");
    // The last one is the form of the plugin's `docker_cmd`.
    for arguments in [
        &["exec", "web", "--", "true"][..],
        &["cp", "web:/proc/self/status", "-", "-q"],
        &["--link=local", "docker", "exec", "-u", "zuul", "-i", "web", "true"],
    ] {
        let mut command = pair.podbridge(arguments);
        command.env("KUBECONFIG", build.kubeconfig());
        assert!(
            command.stdout(Stdio::null()).status().unwrap().success(),
            "{arguments:?}"
        );
    }
    // The plugin's form: the target in a file.
    let target = pair.dir().join("target.json");
    let content = serde_json::json!({"pod": "web", "kubeconfig": build.kubeconfig(), "link": "local",
        "agent_socket": pair.agent_socket()});
    std::fs::write(&target, content.to_string()).unwrap();
    let file = format!("--target-file={}", target.display());
    let docker = pair.podbridge(&[&file, "docker", "--pod=web", "exec", "-u", "zuul", "-i", "any", "true"]);
    assert!({ docker }.stdout(Stdio::null()).status().unwrap().success());
    assert!(pair.bridges().is_empty());
    // Without the kubeconfig of a build the same pod has a bridge on demand.
    let content = serde_json::json!({"pod": "web", "link": "local", "agent_socket": pair.agent_socket()});
    std::fs::write(&target, content.to_string()).unwrap();
    assert!(
        pair.podbridge(&[&file, "exec", "web", "--", "true"])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(pair.bridges().len(), 1);
    let other = pair.podbridge(&[&file, "exec", "db", "--", "true"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("not for db"),
        "{other:?}"
    );
}

#[test]
fn status_and_stop_find_the_bridge_of_the_build() {
    let (pair, build) = (Pair::start(), Build::default());
    let bridge = build.start_bridge(&pair, "web");
    let run = |arguments: &[&str]| {
        let mut command = pair.podbridge(arguments);
        command.env("KUBECONFIG", build.kubeconfig()).output().unwrap()
    };
    for arguments in [&["status", "--json", "web"][..], &["status", "--json"]] {
        let output = run(arguments);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status[0]["bridge"]["pid"], bridge.child.id(), "{output:?}");
        assert_eq!(status[1], serde_json::Value::Null);
    }
    let stop = run(&["stop", "web"]);
    assert!(
        String::from_utf8_lossy(&stop.stderr).contains("belongs to a Zuul build"),
        "{stop:?}"
    );
    assert!(run(&["stop", "--all"]).status.success());
    assert!(run(&["exec", "web", "--", "true"]).status.success());
}

#[test]
fn two_port_forwards_of_one_pod_both_serve() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let first = build.start_bridge(&pair, "web");
    let second = build.start_bridge(&pair, "web");
    let (mut one, mut two) = (first.open_log(&log.id), second.open_log(&log.id));
    log.append(b"one\n");
    assert_eq!(one.read_log_line(), "one\n");
    assert_eq!(two.read_log_line(), "one\n");
    let run = |what: &str| {
        let started = Instant::now();
        let output = build
            .kubectl(&pair, &["exec", "web", "--", "echo", what])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{what}\n"),
            "{output:?}"
        );
        started.elapsed()
    };
    run("with both");
    drop(first);
    // The second bridge takes the socket over.
    assert!(run("with the second") < Duration::from_secs(3));
    log.append(b"two\n");
    assert_eq!(two.read_line(), "two\n");
    let first = build.start_bridge(&pair, "web");
    assert_eq!(first.open_log(&log.id).read_log_line(), "one\n");
    drop(second);
    assert!(run("with the first") < Duration::from_secs(3));
    build.remove();
    let mut first = first;
    eventually("it ends with the build", || first.child.try_wait().unwrap().is_some());
}

/// A client that waited would keep its place among the clients of the bridge.
#[test]
fn more_listeners_to_the_lists_of_logs_than_may_be_are_refused() {
    let (pair, build) = (Pair::start(), Build::default());
    let _bridge = build.start_bridge(&pair, "web");
    let listen = |_| {
        let mut connection = Connection::open(&build.socket()).unwrap();
        connection.send_request(&json!({"v": 1, "op": "logs"}), &[]).unwrap();
        connection
    };
    let mut listeners: Vec<Connection> = (0..64).map(listen).collect();
    for listener in &mut listeners {
        assert_eq!(listener.read_frame().unwrap().0, STDOUT);
    }
    let refused = listen(64).read_result().unwrap();
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("limit"), "{refused}");
    assert_eq!(refused["outcome"], "failed");
    drop(listeners);
    eventually("another one may listen", || {
        listen(0).read_frame().is_ok_and(|(kind, _)| kind == STDOUT)
    });
}

#[test]
fn a_socket_that_a_dead_slot_left_behind_costs_a_client_a_second() {
    let (pair, build) = (Pair::start(), Build::default());
    drop(build.start_bridge(&pair, "web"));
    let started = Instant::now();
    let mut command = pair.podbridge(&["exec", "web", "--", "true"]);
    let output = command.env("KUBECONFIG", build.kubeconfig()).output().unwrap();
    assert!(output.status.success(), "a bridge of its own: {output:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let started = Instant::now();
    let mut command = build.kubectl(&pair, &["exec", "web", "--", "true"]);
    let output = command.env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(127), "passed on: {output:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn no_byte_comes_twice_when_the_bridge_of_the_other_pod_restarts() {
    let (build, log) = (Build::default(), LogFile::default());
    let (mut unreachable, other) = (Pair::start(), Pair::start());
    unreachable.kill_agent();
    let bridge = build.start_bridge(&unreachable, "web");
    let delegate = build.start_bridge(&other, "db");
    let mut console = bridge.open_log(&log.id);
    log.append(b"one\ntwo\n");
    assert_eq!(
        (console.read_log_line(), console.read_line()),
        ("one\n".into(), "two\n".into())
    );
    let _delegate = delegate.restart(&build, &other, "db");
    log.append(b"three\n");
    assert_eq!(console.read_line(), "three\n");
}

#[test]
fn a_client_that_closes_its_sending_side_gets_the_log_so_far() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let bridge = build.start_bridge(&pair, "web");
    log.append(b"one\n");
    assert_eq!(bridge.open_log(&log.id).read_log_line(), "one\n");
    let mut stream = TcpStream::connect(("127.0.0.1", bridge.ports[0].port)).unwrap();
    stream.write_all(format!("s:{}\n", log.id).as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).unwrap();
    assert_eq!(received, "one\n");
}
