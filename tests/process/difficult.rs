//! Commands that behave badly, and clients and bridges that are killed or stall, through both binaries.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use podbridge_tests::pair::{Pair, binary, eventually, is_alive, send_signal};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Returns `podbridge exec` of the program `difficult-child`.
fn child(pair: &Pair, arguments: &[&str]) -> Command {
    let own = binary("difficult-child");
    let mut command = pair.exec(&[&[own.to_str().unwrap()], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads the process id that a long command prints first.
fn read_pid(client: &mut Child) -> u32 {
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    line.trim().parse().unwrap()
}

/// Runs the command; returns its exit code and the length of stdout. Fails if a byte is not the one that `expected` gives for its offset.
fn read_output(command: &mut Command, expected: impl Fn(usize) -> u8) -> (Option<i32>, usize) {
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut block = vec![0; 1 << 20];
    let mut got = 0;
    while let count @ 1.. = stdout.read(&mut block).unwrap() {
        for byte in &block[..count] {
            assert_eq!(*byte, expected(got), "at {got}");
            got += 1;
        }
    }
    (child.wait().unwrap().code(), got)
}

#[test]
fn output_of_every_shape_arrives_whole() {
    let pair = Pair::start();
    for count in [0, 1, 65_535, 1 << 20] {
        let mut command = child(&pair, &["bytes", &count.to_string()]);
        assert_eq!(read_output(&mut command, |at| at as u8), (Some(0), count));
    }
    let line = |at: usize| format!("{:063}\n", at / 64).as_bytes()[at % 64];
    let mut command = child(&pair, &["lines", "20000"]);
    assert_eq!(read_output(&mut command, line), (Some(0), 20_000 * 64));
}

#[test]
fn a_gibibyte_arrives_whole() {
    const COUNT: usize = 1 << 30;
    let pair = Pair::start();
    let mut child = child(&pair, &["bytes", &COUNT.to_string()]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let pattern: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
    let mut block = vec![0; 1 << 19];
    let mut got = 0;
    while let count @ 1.. = stdout.read(&mut block).unwrap() {
        let from = got % 256;
        assert!(block[..count] == pattern[from..from + count], "at {got}");
        got += count;
    }
    assert_eq!((child.wait().unwrap().code(), got), (Some(0), COUNT));
}

#[test]
fn exit_codes_are_those_of_the_command_after_signals_and_closed_streams() {
    let pair = Pair::start();
    for (signal, code) in [("9", 137), ("15", 143), ("6", 134)] {
        let mut command = child(&pair, &["die", signal]);
        assert_eq!(read_output(&mut command, |at| b"last words"[at]), (Some(code), 10));
    }
    // The command closes its streams and runs on.
    let mut command = child(&pair, &["close"]);
    assert_eq!(read_output(&mut command, |at| b"early"[at]), (Some(3), 5));
}

/// The client is killed. Processes that ignore signals or have a session of their own end too.
#[test]
fn no_process_of_a_cancelled_command_is_left() {
    for (kind, processes) in [("sleep", 1), ("deaf", 1), ("family", 4), ("flood", 0)] {
        let pair = Pair::start();
        let mut client = child(&pair, &[kind]).spawn().unwrap();
        let mut stdout = BufReader::new(client.stdout.take().unwrap());
        let mut pids = Vec::new();
        for _ in 0..processes {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            pids.push(line.trim().parse::<u32>().unwrap());
        }
        if kind == "flood" {
            stdout.read_exact(&mut [0; 1 << 20]).unwrap();
            eventually("the command runs", || !pair.commands().is_empty());
            pids = pair.commands();
        }
        assert!(pids.iter().all(|pid| is_alive(*pid)), "{kind}");
        client.kill().unwrap();
        client.wait().unwrap();
        for pid in pids {
            eventually(kind, || !is_alive(pid));
        }
    }
}

#[test]
fn unread_stdin_of_one_command_delays_no_other_command() {
    let pair = Pair::start();
    let mut client = child(&pair, &["sleep"]);
    let mut client = client.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &vec![7; 16 << 20]));
    let pid = read_pid(&mut client);
    let mut other = child(&pair, &["bytes", "10000000"]);
    assert_eq!(read_output(&mut other, |at| at as u8), (Some(0), 10_000_000));
    client.kill().unwrap();
    client.wait().unwrap();
    // The client was the only reader of the pipe.
    assert!(writing.join().unwrap().is_err());
    eventually("the command is gone", || !is_alive(pid));
}

/// This happens when a job is aborted and its cleanup playbook connects at once.
#[test]
fn a_client_that_connects_while_another_command_is_killed_is_served() {
    let pair = Pair::start();
    let mut aborted = child(&pair, &["deaf"]).spawn().unwrap();
    let pid = read_pid(&mut aborted);
    aborted.kill().unwrap();
    let mut cleanup = child(&pair, &["bytes", "10"]);
    assert_eq!(read_output(&mut cleanup, |at| at as u8), (Some(0), 10));
    aborted.wait().unwrap();
    eventually("the command is gone", || !is_alive(pid));
}

/// Bridge and client are killed at once, as when an executor is. The agent ends the command only when its lease ends.
#[test]
fn a_command_without_client_and_bridge_runs_until_its_lease_ends() {
    let pair = Pair::start();
    let mut client = child(&pair, &["sleep"]).spawn().unwrap();
    let pid = read_pid(&mut client);
    // A client that runs would start another bridge.
    send_signal(client.id(), Signal::STOP);
    for bridge in pair.bridges() {
        send_signal(bridge, Signal::KILL);
    }
    client.kill().unwrap();
    client.wait().unwrap();
    // Another bridge does not disturb it.
    assert!(pair.exec(&["true"]).status().unwrap().success());
    assert!(is_alive(pid));
}

#[test]
fn output_that_the_client_cannot_write_is_an_error() {
    let pair = Pair::start();
    let mut command = pair.exec(&["sh", "-c", "echo lost; sleep 300"]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let ended = command.stderr(Stdio::piped()).output().unwrap();
    let message = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(222), "{message}");
    assert!(message.contains("cannot be written here: No space left"), "{message}");
    eventually("the command is ended", || pair.commands().is_empty());
}

#[test]
fn signals_end_a_client_whose_reader_stalls() {
    let pair = Pair::start();
    let (mut reader, writer) = std::io::pipe().unwrap();
    // The output is larger than the pipe.
    let mut client = pair
        .exec(&["head", "-c", "100000", "/dev/zero"])
        .stdout(writer)
        .spawn()
        .unwrap();
    reader.read_exact(&mut [0]).unwrap();
    eventually("the command has ended", || pair.commands().is_empty());
    eventually("signals end the client", || {
        send_signal(client.id(), Signal::TERM);
        client.try_wait().unwrap().is_some()
    });
}

#[test]
fn status_and_stop_report_a_bridge_that_hangs() {
    let pair = Pair::start();
    assert!(pair.exec(&["true"]).status().unwrap().success());
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    send_signal(bridge, Signal::STOP);
    for arguments in [&["status"][..], &["stop", "--all"]] {
        let asked = pair.podbridge(arguments).output().unwrap();
        assert_eq!(asked.status.code(), Some(235), "{asked:?}");
        assert!(
            String::from_utf8_lossy(&asked.stderr).contains("does not answer"),
            "{asked:?}"
        );
    }
    send_signal(bridge, Signal::CONT);
}

#[test]
fn the_last_line_of_a_terminals_input_needs_no_newline() {
    let pair = Pair::start();
    let mut client = pair
        .podbridge(&["ssh", "-tt", "x", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut client.stdin.take().unwrap(), b"abc").unwrap();
    let ended = client.wait_with_output().unwrap();
    assert_eq!(
        (
            ended.status.code(),
            String::from_utf8_lossy(&ended.stdout).contains("abc")
        ),
        (Some(0), true)
    );
}

/// Opens a terminal; returns the end of its user and the end of its programs.
fn open_terminal() -> (OwnedFd, File) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (controller, terminal)
}

#[test]
fn the_commands_user_owns_its_streams() {
    let pair = Pair::start();
    // Only root can run commands as another user.
    let is_root = rustix::process::geteuid().is_root();
    let user: &[&str] = if is_root { &["--user", "nobody"] } else { &[] };
    let run = |options: &[&str], stdin: Stdio, line| {
        let mut command = pair.podbridge(&[&["exec"], user, options, &["x", "--", "sh", "-c", line]].concat());
        command.stdin(stdin).output().unwrap()
    };
    let line = "echo out >/dev/stdout; echo err >/dev/stderr; cat /proc/self/fd/0";
    let ended = run(&[], Stdio::null(), line);
    assert_eq!(
        (ended.status.code(), &ended.stdout[..], &ended.stderr[..]),
        (Some(0), &b"out\n"[..], &b"err\n"[..])
    );
    let (_controller, terminal) = open_terminal();
    let terminal = run(&["-it"], terminal.into(), "echo his >$(tty)");
    assert!(
        String::from_utf8_lossy(&terminal.stdout).contains("his"),
        "{terminal:?}"
    );
}
