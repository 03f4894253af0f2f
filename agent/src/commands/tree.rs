//! `tree`: one side of a copy of a tree, on standard input and output. What goes wrong is told to the caller in the protocol of trees.

use std::fs::File;
use std::process::ExitCode;

use podbridge_tree::{Error, PIPE_CAPACITY, Temporaries};
use rustix::pipe::fcntl_setpipe_size;

use crate::sys::{exit_signal, heap};

pub(super) fn run() -> Result<ExitCode, String> {
    heap::use_one_arena();
    let temporaries = Temporaries::default();
    let left = temporaries.clone();
    exit_signal::run_before_exit(move || left.remove_all())
        .map_err(|error| format!("signals cannot be watched: {error}"))?;
    let stream = |descriptor| {
        // Where the system grants less, or it is no pipe, it works as well.
        let _ = fcntl_setpipe_size(descriptor, PIPE_CAPACITY);
        rustix::io::dup(descriptor)
            .map(File::from)
            .map_err(|error| format!("no descriptor: {error}"))
    };
    // Not std's: they keep what was read, and wait for newlines.
    let (input, output) = (stream(rustix::stdio::stdin())?, stream(rustix::stdio::stdout())?);
    match podbridge_tree::serve(input, output, &temporaries) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(Error::Local(_) | Error::Peer(_) | Error::Protocol(_)) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.to_string()),
    }
}
