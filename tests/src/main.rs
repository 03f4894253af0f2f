//! The program `soak [sync] CUTS [SEED [POD]]` cuts links CUTS times while commands run, on this machine or in the pod POD of the
//! cluster that the environment names. With `sync` it cuts links while trees are copied on this machine. The last line of output is the
//! result. The exit code is 1 if bytes were lost, a command ran twice or not to its end, or a success was reported falsely.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // a tool of the tests

use podbridge_tests::machine::Pod;
use podbridge_tests::pair::Pair;
use podbridge_tests::{soak, trees};

/// Commands at once on this machine.
const LOCAL_WORKERS: u64 = 16;
/// Commands at once in a pod.
const POD_WORKERS: u64 = 4;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_sync = arguments.first().is_some_and(|argument| argument == "sync");
    arguments.drain(..usize::from(is_sync));
    let number = |index: usize| arguments.get(index).map(|argument| argument.parse::<u64>().unwrap());
    let cuts = number(0).expect("soak [sync] CUTS [SEED [POD]]");
    let seed = number(1).unwrap_or_else(|| fastrand::u64(..));
    if is_sync {
        let report = trees::run(cuts, seed);
        println!("{report}");
        std::process::exit(i32::from(!report.is_clean()));
    }
    let report = match arguments.get(2) {
        None => soak::run(cuts, seed, LOCAL_WORKERS, Pair::with_proxy),
        Some(pod) => soak::run(cuts, seed, POD_WORKERS, |seed| Pod::with_proxy(pod, seed)),
    };
    println!("{report}");
    std::process::exit(i32::from(!report.is_clean()));
}
