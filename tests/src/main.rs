//! `soak CUTS [SEED]`: so many cuts of the link under running commands. The last line is the result; the exit code is 1 if
//! anything was lost, ran twice or was called a success falsely.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a tool of the tests

use podbridge_tests::soak;

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<u64>().unwrap());
    let cuts = arguments.next().expect("soak CUTS [SEED]");
    let seed = arguments.next().unwrap_or_else(|| fastrand::u64(..));
    let report = soak::run(cuts, seed);
    println!("{report}");
    std::process::exit(i32::from(!report.is_clean()));
}
