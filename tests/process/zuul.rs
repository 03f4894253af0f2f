//! The bridge in Zuul's slot and the console stream: what Zuul's executor and its callback see, byte for byte. The pod's agent
//! is on this host, so that its console logs are in our own /tmp.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use podbridge_tests::build::{Build, Console, LogFile, exec_with_payload};
use podbridge_tests::pair::{Pair, alive, eventually};

const NOT_FOUND: &str = "[Zuul] Log not found\n";
const EXIT: &str = "2026-11-26 10:20:30.123456 | [Zuul] Task exit code: 0\n";

#[test]
fn the_bridge_says_what_kubectl_says_and_no_more() {
    let (pair, build) = (Pair::start(), Build::default());
    let mut forward = build.forward(&pair, "web");
    let [first, second] = [&forward.ports[0], &forward.ports[1]].map(|port| port.port);
    assert_eq!(
        forward.said,
        [
            format!("Forwarding from 127.0.0.1:{first} -> 19885\n"),
            format!("Forwarding from 127.0.0.1:{second} -> 19886\n")
        ]
    );
    // Its pipe is closed: nobody keeps Zuul waiting for the end.
    let mut rest = String::new();
    forward.pipe.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert!(forward.child.try_wait().unwrap().is_none());
    for port in [first, second] {
        let mut console = Console::connect(port);
        console.say("v:0\n");
        assert_eq!(console.line(), "1\n");
    }
    build.remove();
    eventually("it ends with the build", || forward.child.try_wait().unwrap().is_some());
    assert_eq!(forward.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_log_is_pushed_as_it_is_written() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let forward = build.forward(&pair, "web");
    let mut console = forward.log(&log.id);
    assert_eq!(console.line(), NOT_FOUND);
    log.append(b"2026-11-26 10:20:29.000001 | one\n");
    assert_eq!(console.found(), "2026-11-26 10:20:29.000001 | one\n");
    // A second reader, by the old form, and one that is clever.
    let mut second = Console::connect(forward.ports[0].port);
    second.say(&format!("{}\n", log.id));
    let mut third = forward.log(&format!("../../tmp/{}", log.id));
    for console in [&mut second, &mut third] {
        assert_eq!(console.found(), "2026-11-26 10:20:29.000001 | one\n");
    }
    let binary: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    log.append(&binary);
    for console in [&mut console, &mut second, &mut third] {
        assert!(console.bytes(binary.len()) == binary);
    }
    log.append(b"no newline");
    assert_eq!(console.bytes(10), b"no newline");
    log.append(EXIT.as_bytes());
    assert_eq!(console.line(), "\n");
    assert_eq!(console.line(), EXIT);
    assert!(console.is_silent(Duration::from_millis(200)));
    // On a connection of its own, as Zuul does it.
    forward.console().say(&format!("f:{}\n", log.id));
    eventually("the log is deleted", || !log.path.exists());
    assert_eq!(console.line(), NOT_FOUND);
    log.append(b"again\n");
    assert_eq!(console.found(), "again\n");
}

#[test]
fn a_log_that_is_not_there_is_said_often_and_then_seldom() {
    let (pair, build) = (Pair::start(), Build::default());
    let forward = build.forward(&pair, "web");
    let mut console = forward.log("podbridge-nowhere");
    let begun = Instant::now();
    let (mut early, mut late) = (0, 0);
    while begun.elapsed() < Duration::from_secs(4) {
        assert_eq!(console.line(), NOT_FOUND);
        match begun.elapsed() < Duration::from_secs(2) {
            true => early += 1,
            false => late += 1,
        }
    }
    // 40 and 4 on an idle machine.
    assert!(
        (10..=41).contains(&early) && (2..=6).contains(&late),
        "{early} and {late}"
    );
    // At once when an exec of the pod has ended.
    let exec = ["-n", "ns", "exec", "web", "--", "true"];
    assert!(build.kubectl(&pair, &exec).status().unwrap().success());
    assert_eq!(console.line(), NOT_FOUND);
}

#[test]
fn a_task_that_wrote_no_log_is_not_waited_for() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let forward = build.forward(&pair, "web");
    let mut console = forward.log(&log.id);
    assert_eq!(console.line(), NOT_FOUND);
    run_module(&build, &log, "true");
    assert_eq!(console.found(), "");
    // And one that did is.
    let mut console = forward.log(&log.id);
    run_module(&build, &log, &format!("echo hello > {}", log.path.display()));
    // It was closed before the second run, or it has what that wrote.
    assert!(["", "hello\n"].contains(&console.found().as_str()));
    assert_eq!(forward.log(&log.id).found(), "hello\n");
}

/// As the stock plugin brings it, whose `kubectl` is ours too: that exec ends, and its task has not begun.
#[test]
fn a_module_on_its_way_is_no_task() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let forward = build.forward(&pair, "web");
    let mut console = forward.log(&log.id);
    assert_eq!(console.line(), NOT_FOUND);
    let file = pair.dir().join("AnsiballZ_command.py");
    let script = format!("cat > {}", file.display());
    let mut command = build.kubectl(&pair, &["exec", "-i", "web", "--", "sh", "-c", &script]);
    let mut client = command.stdin(Stdio::piped()).spawn().unwrap();
    let module = format!("{{\"zuul_log_id\": \"{}\"}}\n", log.id);
    client.stdin.take().unwrap().write_all(module.as_bytes()).unwrap();
    assert!(client.wait().unwrap().success());
    log.append(b"begun\n");
    assert_eq!(console.found(), "begun\n");
}

/// An exec whose payload carries a log id, as Zuul's module does.
fn run_module(build: &Build, log: &LogFile, script: &str) {
    let socket = std::fs::read_dir(build.kube()).unwrap().flatten();
    let socket = socket
        .map(|entry| entry.path())
        .find(|path| !path.ends_with("config"))
        .unwrap();
    let payload = format!(
        "{script}\n: '{{\"ANSIBLE_MODULE_ARGS\": {{\"zuul_log_id\": \"{}\"}}}}'\n",
        log.id
    );
    let outcome = exec_with_payload(&socket, &["/bin/sh"], payload.as_bytes());
    assert_eq!(outcome["outcome"], "exited", "{outcome}");
    assert_eq!(outcome["code"], 0, "{outcome}");
}

#[test]
fn a_delegated_task_is_found_at_the_bridge_of_the_other_pod() {
    let (build, log) = (Build::default(), LogFile::default());
    // Two pods with one file system between them: the first bridge reaches no agent, so what it sends is the other's.
    let (mut nobody, other) = (Pair::start(), Pair::start());
    nobody.kill_agent();
    let forward = build.forward(&nobody, "web");
    let _other = build.forward(&other, "db");
    let mut console = forward.log(&log.id);
    assert_eq!(console.line(), NOT_FOUND);
    log.append(b"delegated\n");
    assert_eq!(console.found(), "delegated\n");
    log.append(b"more\n");
    assert_eq!(console.line(), "more\n");
    forward.console().say(&format!("f:{}\n", log.id));
    eventually("the log is deleted", || !log.path.exists());
    assert_eq!(console.line(), NOT_FOUND);
}

#[test]
fn a_lost_agent_is_named_in_the_log() {
    let (mut pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let forward = build.forward(&pair, "web");
    log.append(b"one\nunfinished");
    let (mut with, mut without) = (forward.log(&log.id), forward.log("podbridge-nowhere"));
    assert_eq!(with.found(), "one\n");
    assert_eq!(without.line(), NOT_FOUND);
    pair.kill_agent();
    assert_eq!(with.line(), "unfinished\n");
    for mut console in [with, without] {
        let line = console.found();
        let (stamp, said) = line.split_once(" | ").unwrap();
        assert_eq!(stamp.len(), "2026-11-26 10:20:30.123456".len(), "{line}");
        assert!(said.starts_with("[Zuul] pod web lost: "), "{line}");
        assert_eq!(console.line(), "");
    }
}

#[test]
fn a_bridge_that_was_killed_comes_back_on_its_ports() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let forward = build.forward(&pair, "web");
    let script = format!(
        "echo begun; while ! [ -e {0} ]; do sleep 0.05; done; cat {0}",
        log.path.display()
    );
    let exec = ["--context=ctx", "exec", "web", "--", "sh", "-c", &script];
    let mut client = build.kubectl(&pair, &exec).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 6]).unwrap();
    let forward = forward.restart(&build, &pair, "web");
    log.append(b"whole\n");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "whole\n");
    assert!(client.wait().unwrap().success());
    assert_eq!(forward.log(&log.id).found(), "whole\n");
}

#[test]
fn exec_through_the_shim_is_byte_exact() {
    let (pair, build) = (Pair::start(), Build::default());
    let _forward = build.forward(&pair, "web");
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
fn garbage_harms_nobody_else() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let forward = build.forward(&pair, "web");
    log.append(b"one\n");
    let mut console = forward.log(&log.id);
    assert_eq!(console.found(), "one\n");
    let port = forward.ports[0].port;
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
            // Refused; a reset is as good.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert_eq!(rest, b"");
        }
    }
    // Halves of requests, and nothing.
    let halves: Vec<_> = (0..400)
        .map(|i| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(&b"s:half"[..i % 6]).unwrap();
            stream
        })
        .collect();
    log.append(b"two\n");
    assert_eq!(console.line(), "two\n");
    let exec = ["exec", "web", "--", "true"];
    assert!(build.kubectl(&pair, &exec).status().unwrap().success());
    drop(halves);
    assert!(alive(forward.child.id()));
}

#[test]
fn readers_that_stand_still_hold_up_nobody() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let forward = build.forward(&pair, "web");
    let data: Vec<u8> = (0..8 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    log.append(&data);
    assert!(data.starts_with(forward.log(&log.id).bytes_found().as_slice()));
    let mut stuck: Vec<_> = (0..100).map(|_| forward.log(&log.id)).collect();
    // What they hold of the link is given back within a second or two.
    for length in [1 << 20, 30_000_000] {
        let script = format!("head -c {length} /dev/zero");
        let output = build
            .kubectl(&pair, &["exec", "web", "--", "sh", "-c", &script])
            .output()
            .unwrap();
        assert!(output.status.success() && output.stdout.len() == length);
    }
    log.append(b"the end\n");
    for console in stuck.iter_mut().take(3) {
        assert!(console.bytes(data.len()) == data);
        assert_eq!(console.line(), "the end\n");
    }
}

#[test]
fn a_command_outlives_any_number_of_bridges() {
    let (pair, build) = (Pair::start(), Build::default());
    let mut forward = build.forward(&pair, "web");
    let script = "for i in $(seq 40); do echo $i; sleep 0.1; done";
    let exec = ["exec", "web", "--", "sh", "-c", script];
    let mut client = build.kubectl(&pair, &exec).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    let mut said = vec![0];
    stdout.read_exact(&mut said).unwrap();
    for _ in 0..7 {
        forward = forward.restart(&build, &pair, "web");
        std::thread::sleep(Duration::from_millis(200));
    }
    stdout.read_to_end(&mut said).unwrap();
    let wanted: String = (1..=40).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8(said).unwrap(), wanted);
    assert!(client.wait().unwrap().success());
    drop(forward);
}

#[test]
fn what_may_run_is_never_said_not_to_have_run() {
    let (pair, build) = (Pair::start(), Build::default());
    let mut forward = build.forward(&pair, "web");
    let exec = ["exec", "web", "--", "sh", "-c", "echo begun; exec sleep 300"];
    let mut command = build.kubectl(&pair, &exec);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    client.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    forward.child.kill().unwrap();
    forward.child.wait().unwrap();
    // Nobody will come where there is no directory any more.
    build.remove();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("may still run"), "{said}");
}

#[test]
fn our_own_command_line_uses_the_bridge_of_the_slot() {
    let (pair, build) = (Pair::start(), Build::default());
    let _forward = build.forward(&pair, "web");
    // The last as the plugin's `docker_cmd` has it.
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
    assert!(pair.bridges().is_empty());
}

#[test]
fn no_byte_comes_twice_when_the_bridge_of_the_other_pod_restarts() {
    let (build, log) = (Build::default(), LogFile::default());
    let (mut nobody, other) = (Pair::start(), Pair::start());
    nobody.kill_agent();
    let forward = build.forward(&nobody, "web");
    let delegate = build.forward(&other, "db");
    let mut console = forward.log(&log.id);
    log.append(b"one\ntwo\n");
    assert_eq!((console.found(), console.line()), ("one\n".into(), "two\n".into()));
    let _delegate = delegate.restart(&build, &other, "db");
    log.append(b"three\n");
    assert_eq!(console.line(), "three\n");
}

#[test]
fn who_has_nothing_more_to_say_gets_what_there_is() {
    let (pair, build, log) = (Pair::start(), Build::default(), LogFile::default());
    let forward = build.forward(&pair, "web");
    log.append(b"one\n");
    assert_eq!(forward.log(&log.id).found(), "one\n");
    let mut stream = TcpStream::connect(("127.0.0.1", forward.ports[0].port)).unwrap();
    stream.write_all(format!("s:{}\n", log.id).as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "one\n");
}
