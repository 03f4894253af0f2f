//! Time to copy many small files between sender and receiver in one process, for a first copy and for one that finds nothing to do.
//! `tar | tar` is measured for comparison.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a tool

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use podbridge_proto::v1::TreeOpen;
use podbridge_tree::{PROTOCOL_VERSION, Temporaries};

const FILES: usize = 50_000;
const ROUNDS: usize = 3;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let mut rng = fastrand::Rng::with_seed(1);
    for directory in 0..FILES / 100 {
        let parent = from.join(format!("{:02}/{directory}", directory % 20));
        fs::create_dir_all(&parent).unwrap();
        for file in 0..100 {
            let mut content = vec![0; rng.usize(1000..10_000)];
            rng.fill(&mut content);
            fs::write(parent.join(file.to_string()), content).unwrap();
        }
    }
    for _ in 0..ROUNDS {
        let first = timed(|| copy(&from, &to));
        let again = timed(|| copy(&from, &to));
        fs::remove_dir_all(&to).unwrap();
        let tar = timed(|| tar(&from, &to));
        fs::remove_dir_all(&to).unwrap();
        println!("{FILES} files of 1 to 10 KB: {first:.2} s, again {again:.2} s; tar | tar {tar:.2} s");
    }
}

fn timed(action: impl FnOnce()) -> f64 {
    // Other programs' pending writes must not count.
    rustix::fs::sync();
    let started = Instant::now();
    action();
    started.elapsed().as_secs_f64()
}

fn copy(from: &Path, to: &Path) {
    let (caller_end, server_end) = UnixStream::pair().unwrap();
    let open = TreeOpen {
        version: PROTOCOL_VERSION,
        root: to.as_os_str().as_encoded_bytes().to_vec().into(),
        ..TreeOpen::default()
    };
    let server = std::thread::spawn(move || {
        podbridge_tree::serve(server_end.try_clone().unwrap(), server_end, &Temporaries::default()).unwrap()
    });
    let input = caller_end.try_clone().unwrap();
    podbridge_tree::call(&open, from, input, caller_end, &Temporaries::default(), &mut |_| {}).unwrap();
    server.join().unwrap();
}

fn tar(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let mut packing = Command::new("tar")
        .arg("cC")
        .arg(from)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let packed = packing.stdout.take().unwrap();
    let unpacked = Command::new("tar").arg("xC").arg(to).stdin(packed).status().unwrap();
    assert!(unpacked.success() && packing.wait().unwrap().success());
}
