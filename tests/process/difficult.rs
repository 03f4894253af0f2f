//! Commands that behave badly, through both binaries.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use podbridge_tests::pair::{Pair, alive, binary, eventually, kill};
use rustix::process::Signal;

fn child(pair: &Pair, arguments: &[&str]) -> Command {
    let own = binary("difficult-child");
    let mut command = pair.exec(&[&[own.to_str().unwrap()], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The process id that a long command says first.
fn pid(client: &mut Child) -> u32 {
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    line.trim().parse().unwrap()
}

/// Exit code, and stdout by its length and whether it is what `expected` makes of each offset.
fn read(command: &mut Command, expected: impl Fn(usize) -> u8) -> (Option<i32>, usize) {
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
        assert_eq!(read(&mut command, |at| at as u8), (Some(0), count));
    }
    let line = |at: usize| format!("{:063}\n", at / 64).as_bytes()[at % 64];
    let mut command = child(&pair, &["lines", "20000"]);
    assert_eq!(read(&mut command, line), (Some(0), 20_000 * 64));
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
fn an_end_is_the_commands_own() {
    let pair = Pair::start();
    for (signal, code) in [("9", 137), ("15", 143), ("6", 134)] {
        let mut command = child(&pair, &["die", signal]);
        assert_eq!(read(&mut command, |at| b"last words"[at]), (Some(code), 10));
    }
    // Closed streams are not the end.
    let mut command = child(&pair, &["close"]);
    assert_eq!(read(&mut command, |at| b"early"[at]), (Some(3), 5));
}

/// With its client killed, every process of it is gone, whatever it ignores and wherever it has hidden.
#[test]
fn nothing_of_a_cancelled_family_is_left() {
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
            eventually("it runs", || !pair.commands().is_empty());
            pids = pair.commands();
        }
        assert!(pids.iter().all(|pid| alive(*pid)), "{kind}");
        client.kill().unwrap();
        client.wait().unwrap();
        for pid in pids {
            eventually(kind, || !alive(pid));
        }
    }
}

#[test]
fn a_full_stdin_that_nobody_reads_blocks_nobody_else() {
    let pair = Pair::start();
    let mut client = child(&pair, &["sleep"]);
    let mut client = client.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &vec![7; 16 << 20]));
    let pid = pid(&mut client);
    let mut other = child(&pair, &["bytes", "10000000"]);
    assert_eq!(read(&mut other, |at| at as u8), (Some(0), 10_000_000));
    client.kill().unwrap();
    client.wait().unwrap();
    // The pipe has no reader any more.
    assert!(writing.join().unwrap().is_err());
    eventually("the command is gone", || !alive(pid));
}

/// As when a job is aborted and its cleanup playbook connects at once.
#[test]
fn who_comes_while_another_ones_command_is_killed_is_served() {
    let pair = Pair::start();
    let mut aborted = child(&pair, &["deaf"]).spawn().unwrap();
    let pid = pid(&mut aborted);
    aborted.kill().unwrap();
    let mut cleanup = child(&pair, &["bytes", "10"]);
    assert_eq!(read(&mut cleanup, |at| at as u8), (Some(0), 10));
    aborted.wait().unwrap();
    eventually("the command is gone", || !alive(pid));
}

/// Bridge and client at once, as when an executor is killed: the agent ends the command when nobody comes back.
#[test]
fn a_command_without_client_and_bridge_runs_until_its_lease_ends() {
    let pair = Pair::start();
    let mut client = child(&pair, &["sleep"]).spawn().unwrap();
    let pid = pid(&mut client);
    // Stopped first: it would start another bridge.
    kill(client.id(), Signal::STOP);
    for bridge in pair.bridges() {
        kill(bridge, Signal::KILL);
    }
    client.kill().unwrap();
    client.wait().unwrap();
    // Another bridge does not disturb it.
    assert!(pair.exec(&["true"]).status().unwrap().success());
    assert!(alive(pid));
}

#[test]
fn output_that_cannot_be_written_here_is_said() {
    let pair = Pair::start();
    let mut command = pair.exec(&["sh", "-c", "echo lost; sleep 300"]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let ended = command.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(222), "{said}");
    assert!(said.contains("cannot be written here: No space left"), "{said}");
    eventually("the command is ended", || pair.commands().is_empty());
}

#[test]
fn a_reader_that_stands_still_keeps_no_client_from_ending() {
    let pair = Pair::start();
    let (mut reader, writer) = std::io::pipe().unwrap();
    // More than fits into the pipe.
    let mut client = pair
        .exec(&["head", "-c", "100000", "/dev/zero"])
        .stdout(writer)
        .spawn()
        .unwrap();
    reader.read_exact(&mut [0]).unwrap();
    eventually("the command is over", || pair.commands().is_empty());
    eventually("signals end it", || {
        kill(client.id(), Signal::TERM);
        client.try_wait().unwrap().is_some()
    });
}

#[test]
fn a_bridge_that_hangs_hides_no_other() {
    let pair = Pair::start();
    assert!(pair.exec(&["true"]).status().unwrap().success());
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    kill(bridge, Signal::STOP);
    for arguments in [&["status"][..], &["stop", "--all"]] {
        let asked = pair.podbridge(arguments).output().unwrap();
        assert_eq!(asked.status.code(), Some(235), "{asked:?}");
        assert!(
            String::from_utf8_lossy(&asked.stderr).contains("does not answer"),
            "{asked:?}"
        );
    }
    kill(bridge, Signal::CONT);
}

#[test]
fn the_last_line_of_a_terminals_input_needs_no_end() {
    let pair = Pair::start();
    let mut client = pair
        .podbridge(&["exec", "-t", "x", "--", "cat"])
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

#[test]
fn a_users_streams_are_his() {
    let pair = Pair::start();
    // Whoever is not root has no other users to run commands as.
    let user: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["--user", "nobody"],
        false => &[],
    };
    let run = |options: &[&str], line| {
        let mut command = pair.podbridge(&[&["exec"], user, options, &["x", "--", "sh", "-c", line]].concat());
        command.stdin(Stdio::null()).output().unwrap()
    };
    let line = "echo out >/dev/stdout; echo err >/dev/stderr; cat /proc/self/fd/0";
    let ended = run(&[], line);
    assert_eq!(
        (ended.status.code(), &ended.stdout[..], &ended.stderr[..]),
        (Some(0), &b"out\n"[..], &b"err\n"[..])
    );
    let terminal = run(&["-t"], "echo his >$(tty)");
    assert!(
        String::from_utf8_lossy(&terminal.stdout).contains("his"),
        "{terminal:?}"
    );
}
