//! A command that behaves as badly as real commands do; its first argument says how. `process/difficult.rs` runs it.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // part of tests, which read its output

use std::io::{Read as _, Write as _, stdin, stdout};
use std::os::fd::AsFd as _;
use std::process::{Command, ExitCode, Stdio, exit};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process, setsid};

/// Longer than any test; a test kills the process that sleeps so long.
const FOREVER: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = || arguments[1].parse::<usize>().unwrap();
    match arguments[0].as_str() {
        "bytes" => write_bytes(number()),
        "lines" => write_lines(number()),
        "flood" => write_bytes(usize::MAX),
        "die" => {
            print!("last words");
            stdout().flush().unwrap();
            let signal = Signal::from_named_raw(number() as i32).unwrap();
            kill_process(getpid(), signal).unwrap();
            sleep(FOREVER);
        }
        "close" => {
            print!("early");
            stdout().flush().unwrap();
            let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
            rustix::stdio::dup2_stdout(&null).unwrap();
            rustix::stdio::dup2_stderr(&null).unwrap();
            // The agent has to see the end of both streams while the command still runs.
            sleep(Duration::from_millis(1500));
            return ExitCode::from(3);
        }
        "deaf" => {
            // A signal that a shell ignores stays ignored after exec.
            let script = r#"trap "" TERM INT HUP; exec "$0" sleep"#;
            let own = std::env::current_exe().unwrap();
            let mut shell = Command::new("sh");
            exit(shell.args(["-c", script]).arg(own).status().unwrap().code().unwrap());
        }
        "family" => {
            for kind in ["sleep", "deaf", "daemon"] {
                start_another(kind);
            }
            println!("{}", getpid().as_raw_nonzero());
            sleep(FOREVER);
        }
        // A grandchild in a session of its own.
        "daemon" => {
            setsid().ok();
            start_another("sleep");
        }
        "echo" => {
            let mut all = Vec::new();
            stdin().read_to_end(&mut all).unwrap();
            stdout().write_all(&all).unwrap();
        }
        _ => {
            println!("{}", getpid().as_raw_nonzero());
            sleep(FOREVER);
        }
    }
    ExitCode::SUCCESS
}

/// Writes `count` bytes, with the values 0 to 255 over and over. Ends after a short write.
fn write_bytes(count: usize) {
    let block: Vec<u8> = (0..=255u8).cycle().take(1 << 16).collect();
    let mut left = count;
    while left > 0 {
        let length = left.min(block.len());
        if rustix::io::write(stdout().as_fd(), &block[..length]).is_ok_and(|written| written < length) {
            exit(9);
        }
        left -= length;
    }
}

/// Writes numbered lines of 64 bytes, each with one write.
fn write_lines(count: usize) {
    for number in 0..count {
        let line = format!("{number:063}\n");
        assert_eq!(rustix::io::write(stdout().as_fd(), line.as_bytes()), Ok(64));
    }
}

#[expect(
    clippy::zombie_processes,
    reason = "the test wants a child without a parent that waits"
)]
fn start_another(kind: &str) {
    let own = std::env::current_exe().unwrap();
    Command::new(own).arg(kind).stdin(Stdio::null()).spawn().unwrap();
}
