//! `soak [sync] CUTS [SEED [POD]]`: so many cuts of the link under running commands, beside it or in a pod of the cluster that the
//! environment names; with `sync`, under copies of trees beside it. The last line is the result; the exit code is 1 if anything was
//! lost, ran twice or was called a success falsely.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a tool of the tests

use podbridge_tests::pair::Pair;
use podbridge_tests::place::Pod;
use podbridge_tests::{soak, trees};

const BESIDE: u64 = 16;
const IN_A_POD: u64 = 4;

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
        None => soak::run(cuts, seed, BESIDE, Pair::with_proxy),
        Some(pod) => soak::run(cuts, seed, IN_A_POD, |seed| Pod::with_proxy(pod, seed)),
    };
    println!("{report}");
    std::process::exit(i32::from(!report.is_clean()));
}
