//! The subcommands of `podbridge-agent`, one file each. An error is one sentence on stderr and exit code 1. Only `main` calls this
//! module; it may call all others.

mod git;
mod install;
mod proxy;
mod serve;
mod tree;

use std::process::ExitCode;

use clap::Parser;

use crate::config::{Cli, Command};
use crate::env;

/// Runs the subcommand that the arguments name, and returns the exit code of the process.
pub fn run() -> ExitCode {
    // A program that was started as /proc/self/exe has another name. It only serves to find the agent, so a failure is ignored.
    let _ = rustix::thread::set_name(env::PROCESS_NAME);
    let result = match Cli::parse_from(env::arguments()).command {
        Command::Serve(options) => serve::run(options),
        Command::Proxy(options) => proxy::run(options),
        Command::Install { directory } => install::run(&directory),
        Command::Tree => tree::run(),
        Command::Git(options) => Ok(git::run(&options)),
        Command::Version => version(),
    };
    match result {
        Ok(code) => code,
        Err(sentence) => {
            eprintln!("podbridge-agent: {sentence}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)] // The version is the output of this subcommand.
fn version() -> Result<ExitCode, String> {
    println!("podbridge-agent {}", env!("CARGO_PKG_VERSION"));
    Ok(ExitCode::SUCCESS)
}
