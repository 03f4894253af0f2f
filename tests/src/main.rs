//! `soak CUTS [SEED [POD]]`: so many cuts of the link under running commands, beside it or in a pod of the cluster that the
//! environment names. The last line is the result; the exit code is 1 if anything was lost, ran twice or was called a
//! success falsely.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a tool of the tests

use podbridge_tests::pair::Pair;
use podbridge_tests::place::Pod;
use podbridge_tests::soak;

const BESIDE: u64 = 16;
const IN_A_POD: u64 = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).map(|argument| argument.parse::<u64>().unwrap());
    let cuts = number(0).expect("soak CUTS [SEED [POD]]");
    let seed = number(1).unwrap_or_else(|| fastrand::u64(..));
    let report = match arguments.get(2) {
        None => soak::run(cuts, seed, BESIDE, Pair::with_proxy),
        Some(pod) => soak::run(cuts, seed, IN_A_POD, |seed| Pod::with_proxy(pod, seed)),
    };
    println!("{report}");
    std::process::exit(i32::from(!report.is_clean()));
}
