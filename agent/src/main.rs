//! The binary `podbridge-agent`. Everything is in the library; this file returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    podbridge_agent::commands::run()
}
