//! `tree`: one side of a copy of a file tree, on standard input and output; crate `podbridge_tree` does the work. The other side gets
//! errors as messages of that protocol, so most of them print nothing here.

use std::fs::File;
use std::process::ExitCode;

use podbridge_tree::{Error, PIPE_CAPACITY, Temporaries};
use rustix::pipe::fcntl_setpipe_size;

use crate::sys::{exit_signal, heap};

pub(super) fn run() -> Result<ExitCode, String> {
    heap::set_up();
    let temporaries = Temporaries::default();
    let leftovers = temporaries.clone();
    exit_signal::run_before_exit(move || leftovers.remove_all())
        .map_err(|error| format!("cannot watch for signals: {error}"))?;
    let stream = |descriptor| {
        // The size matters for speed only, so a failure is ignored: the system may grant less, and the descriptor may be no pipe.
        let _ = fcntl_setpipe_size(descriptor, PIPE_CAPACITY);
        rustix::io::dup(descriptor)
            .map(File::from)
            .map_err(|error| format!("cannot duplicate standard input or output: {error}"))
    };
    // The handles of `std` are not used: they buffer input, and wait for newlines.
    let (input, output) = (stream(rustix::stdio::stdin())?, stream(rustix::stdio::stdout())?);
    match podbridge_tree::serve(input, output, &temporaries) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(Error::Local(_) | Error::Peer(_) | Error::Protocol(_)) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.to_string()),
    }
}
