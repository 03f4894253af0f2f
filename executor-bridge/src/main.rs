//! The program `podbridge`. The library holds everything else; its `run` returns the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    podbridge::run()
}
