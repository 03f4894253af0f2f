//! Tests of both binaries over the local link: full streams, losses, and that nothing is left behind.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod budget;
mod difficult;
mod files;
mod git;
mod job_console;
mod lanes;
mod puts;
mod sync;
mod versions;
mod zuul;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use podbridge_tests::pair::{self, Pair, eventually, is_alive};
use podbridge_tests::soak;
use rustix::process::Signal;

/// More bytes than all buffers and flow-control windows together hold.
const FULL: usize = 256 << 20;

#[test]
fn a_command_that_writes_all_before_it_reads_blocks_neither_direction() {
    let pair = Pair::start();
    let script = format!("head -c {FULL} /dev/zero; wc -c >&2");
    let mut command = pair.exec(&["sh", "-c", &script]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        let block = vec![0u8; 1 << 20];
        for _ in 0..FULL >> 20 {
            stdin.write_all(&block).unwrap();
        }
    });
    let mut stdout = child.stdout.take().unwrap();
    let mut block = vec![0u8; 1 << 20];
    let mut got = 0;
    while let count @ 1.. = stdout.read(&mut block).unwrap() {
        got += count;
    }
    writing.join().unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(got, FULL);
    assert_eq!(String::from_utf8(ended.stderr).unwrap().trim(), FULL.to_string());
    assert!(ended.status.success());
}

#[test]
fn a_killed_bridge_is_replaced_under_a_running_command() {
    let pair = Pair::start();
    let go = pair.dir().join("go");
    let script = format!(
        "echo x >> {0}/counter; echo begun; while ! [ -e {1} ]; do sleep 0.01; done; cat; exit 7",
        pair.dir().display(),
        go.display()
    );
    let mut command = pair.exec(&["sh", "-c", &script]);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"before ").unwrap();
    // TERM is what a bridge gets when the package is replaced.
    for signal in [Signal::KILL, Signal::TERM] {
        let mut bridges = Vec::new();
        eventually("one bridge runs", || {
            bridges = pair.bridges();
            bridges.len() == 1
        });
        pair::send_signal(bridges[0], signal);
        eventually("another bridge runs", || {
            pair.bridges().iter().any(|pid| *pid != bridges[0])
        });
        stdin.write_all(b"after ").unwrap();
    }
    drop(stdin);
    std::fs::write(&go, "").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((line.as_str(), rest.as_str()), ("begun\n", "before after after "));
    assert_eq!(client.wait().unwrap().code(), Some(7));
    assert_eq!(std::fs::read_to_string(pair.dir().join("counter")).unwrap(), "x\n");
}

#[test]
fn a_killed_agent_ends_the_client_with_exit_code_240() {
    let mut pair = Pair::start();
    let (mut client, _) = pair.exec_until_killed();
    pair.kill_agent();
    assert_eq!(client.wait().unwrap().code(), Some(240));
}

#[test]
fn killing_the_client_ends_its_command() {
    let pair = Pair::start();
    let (mut client, command) = pair.exec_until_killed();
    assert!(is_alive(command));
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("the command is gone", || !is_alive(command));
}

#[test]
fn a_stopped_bridge_leaves_nothing() {
    let pair = Pair::start();
    assert!(pair.exec(&["true"]).status().unwrap().success());
    assert_eq!(pair.bridges().len(), 1);
    assert!(pair.podbridge(&["stop", "x"]).status().unwrap().success());
    eventually("the bridge is gone", || pair.bridges().is_empty());
    let left = std::fs::read_dir(pair.bridge_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_str().unwrap().ends_with(".sock")));
}

#[test]
fn files_around_multiples_of_the_chunk_size_arrive() {
    const CHUNK: usize = podbridge_proto::limits::MAX_CHUNK;
    let pair = Pair::start();
    let dir = tempfile::tempdir().unwrap();
    let sizes = (0..6).flat_map(|chunks| [chunks * CHUNK, chunks * CHUNK + 1]);
    let copies = sizes.map(|size| {
        let (local, remote) = (
            dir.path().join(format!("{size}")),
            dir.path().join(format!("{size}.copy")),
        );
        let content: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        std::fs::write(&local, &content).unwrap();
        let to = format!("x:{}", remote.display());
        let mut copy = pair.podbridge(&["cp", local.to_str().unwrap(), &to]);
        (copy.stderr(Stdio::null()).spawn().unwrap(), remote, content)
    });
    // All copies run at once, so that they wait for each other in changing order.
    for (mut copy, remote, content) in copies.collect::<Vec<_>>() {
        eventually("the copy ends", || copy.try_wait().unwrap().is_some());
        assert!(copy.wait().unwrap().success());
        assert!(std::fs::read(&remote).unwrap() == content, "{} bytes", content.len());
    }
}

/// Each run has another seed. A failure prints it, and `make soak SEED=…` repeats the run.
#[test]
fn cut_links_lose_no_byte_and_run_no_command_twice() {
    let report = soak::run(500, fastrand::u64(..), 16, Pair::with_proxy);
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}
