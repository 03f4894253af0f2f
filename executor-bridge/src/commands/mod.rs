//! The subcommands of `podbridge`, one module each, and the main program that chooses among them. An error becomes one sentence on
//! standard error and the exit code of its kind.

mod bench;
mod bridge;
mod bridge_of_pod;
mod cp;
mod docker;
mod exec;
mod git;
mod location;
mod pods;
mod progress;
mod ssh;
mod status;
mod stop;
mod sync;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

#[cfg(test)]
pub(crate) use docker::without_shell as words_without_shell;
#[cfg(any(test, fuzzing))]
pub(crate) use ssh::check_git_line;

use crate::cli::{Cli, Command, as_kubectl_reads};
use crate::env::Process;
use crate::error::{Failure, Kind};
use crate::report::{report_failure, say};
use crate::{config, kubectl_shim, telemetry};

/// The main program: runs the kubectl shim or one subcommand, and returns the exit code.
pub fn run() -> ExitCode {
    if let Some(code) = kubectl_shim::intercept() {
        return code;
    }
    let cli = match Cli::try_parse_from(as_kubectl_reads(ssh::arguments())) {
        Ok(cli) => cli,
        Err(error) => return report_parse_error(&error),
    };
    let Cli {
        target,
        bridge,
        command,
    } = cli;
    let target = target.without_empty();
    let options = match config::options(&bridge, &Process) {
        Ok(options) => options,
        Err(failure) => return failed(&failure),
    };
    if !matches!(command, Command::Bridge(_)) {
        telemetry::start_for_command();
    }
    let result = match command {
        Command::Exec(command) => exec::run(target, options, command),
        Command::Cp(command) => cp::run(target, options, command),
        Command::Sync(command) => sync::run(target, options, command),
        Command::Ssh(command) => ssh::run(target, options, command),
        Command::Git(command) => git::run(target, options, &command),
        Command::Docker(command) => docker::run(target, options, command),
        Command::Pods(command) => pods::run(target, options, &command),
        Command::Status(command) => status::run(target, &command),
        Command::Stop(command) => stop::run(target, command),
        Command::Bench(command) => bench::run(target, &command),
        Command::Bridge(command) => bridge::run(&command, options),
        // `intercept` has handled `podbridge kubectl`, unless an option stood before `kubectl`.
        Command::Kubectl { .. } => Err(Failure::usage(
            "options must stand after `podbridge kubectl`, not before `kubectl`",
        )),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    ExitCode::from(report_failure(failure))
}

/// Prints help and version to standard output, and errors of the command line to standard error.
fn report_parse_error(error: &clap::Error) -> ExitCode {
    if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
        // A failure is ignored: the reader has closed standard output.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
    } else {
        let text = error.to_string();
        // The first paragraph is the error; the rest is the usage, which --help prints.
        let first = text.split("\n\n").next().unwrap_or_default();
        let sentence = first.split_whitespace().collect::<Vec<_>>().join(" ");
        say(&format!("{}; see --help", sentence.trim_start_matches("error: ")));
    }
    ExitCode::from(Kind::Usage.code())
}
