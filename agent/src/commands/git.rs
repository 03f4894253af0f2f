//! `git SERVICE PATH`: the pod's side of a push or a fetch, to which the client's git speaks. Exit codes are those of a shell or of git.

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
