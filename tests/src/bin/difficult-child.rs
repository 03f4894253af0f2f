//! A command that behaves as badly as commands do; the first argument says how.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // it is part of tests, and its output is what they look at

use std::io::{Read as _, Write as _, stdin, stdout};
use std::os::fd::AsFd as _;
use std::process::{Command, ExitCode, Stdio, exit};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process, setsid};

const LONG: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = || arguments[1].parse::<usize>().unwrap();
    match arguments[0].as_str() {
        "bytes" => bytes(number()),
        "lines" => lines(number()),
        "flood" => bytes(usize::MAX),
        "die" => {
            print!("last words");
            stdout().flush().unwrap();
            let signal = Signal::from_named_raw(number() as i32).unwrap();
            kill_process(getpid(), signal).unwrap();
            sleep(LONG);
        }
        "close" => {
            print!("early");
            stdout().flush().unwrap();
            let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
            rustix::stdio::dup2_stdout(&null).unwrap();
            rustix::stdio::dup2_stderr(&null).unwrap();
            sleep(Duration::from_millis(1500));
            return ExitCode::from(3);
        }
        "deaf" => {
            // What is ignored stays so over exec.
            let script = r#"trap "" TERM INT HUP; exec "$0" sleep"#;
            let own = std::env::current_exe().unwrap();
            let mut shell = Command::new("sh");
            exit(shell.args(["-c", script]).arg(own).status().unwrap().code().unwrap());
        }
        "family" => {
            for kind in ["sleep", "deaf", "daemon"] {
                again(kind);
            }
            println!("{}", getpid().as_raw_nonzero());
            sleep(LONG);
        }
        // Twice away from its parent, in a session of its own.
        "daemon" => {
            setsid().ok();
            again("sleep");
        }
        "echo" => {
            let mut all = Vec::new();
            stdin().read_to_end(&mut all).unwrap();
            stdout().write_all(&all).unwrap();
        }
        _ => {
            println!("{}", getpid().as_raw_nonzero());
            sleep(LONG);
        }
    }
    ExitCode::SUCCESS
}

/// Every byte there is, again and again.
fn bytes(count: usize) {
    let block: Vec<u8> = (0..=255u8).cycle().take(1 << 16).collect();
    let mut left = count;
    while left > 0 {
        let piece = left.min(block.len());
        if rustix::io::write(stdout().as_fd(), &block[..piece]).is_ok_and(|written| written < piece) {
            exit(9);
        }
        left -= piece;
    }
}

/// 64 bytes each, one write each.
fn lines(count: usize) {
    for number in 0..count {
        let line = format!("{number:063}\n");
        assert_eq!(rustix::io::write(stdout().as_fd(), line.as_bytes()), Ok(64));
    }
}

#[expect(clippy::zombie_processes, reason = "that is what makes it difficult")]
fn again(kind: &str) {
    let own = std::env::current_exe().unwrap();
    Command::new(own).arg(kind).stdin(Stdio::null()).spawn().unwrap();
}
