//! `git SERVICE PATH`: what a client's git speaks to, with exit codes as a shell or git itself has them.

use std::process::ExitCode;

use crate::config::Git;
use crate::git;

pub(super) fn run(options: &Git) -> ExitCode {
    let served = git::serve(options.service, &options.cache, &options.path);
    ExitCode::from(served.unwrap_or_else(|error| {
        eprintln!("podbridge-agent: {error}");
        error.code()
    }))
}
