//! Copies a tree of files from one side to the other over two byte streams. The sender lists what exists, the receiver requests the
//! content that differs, and neither waits for the other (docs/adr/0009).
//!
//! The crate owns both sides and the protocol between them (`proto/podbridge/v1/tree.proto`). It is blocking code and knows neither
//! links, execs nor gRPC. `podbridge-agent tree` runs one side in the pod ([`serve`]), `podbridge sync` the other one ([`call`]).

mod attributes;
mod compression;
mod digest;
mod directory;
mod error;
mod fields;
mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod memory;
mod owners;
mod receiver;
mod report;
mod request;
mod sender;
mod temporaries;
mod wire;
mod xattrs;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use podbridge_proto::v1::{TreeOpen, TreeSummary};

pub use error::Error;
pub use report::{Event, Report, escape_for_terminal};
pub use temporaries::Temporaries;
pub use wire::{MessageReader, MessageWriter, PIPE_CAPACITY, PROTOCOL_VERSION};

/// Runs the caller's side: sends the request `open` to the other side, then sends or receives the tree at the local path `own`.
///
/// `Err` ends the whole copy. A failure that concerns one path is a [`Event::Problem`] and not an error.
pub fn call(
    open: &TreeOpen,
    own: &Path,
    input: impl Read + AsFd + Send + 'static,
    output: impl Write + Send + 'static,
    temporaries: &Temporaries,
    report: Report<'_>,
) -> Result<TreeSummary, Error> {
    let mut output = MessageWriter::new(output);
    output.send(open)?;
    let input = MessageReader::new(input);
    if open.agent_sends {
        receiver::receive(own, open, input, output, temporaries, report)
    } else {
        sender::send(own, open, input, output, report)
    }
}

/// Runs the other side: reads the request from `input`, then sends or receives the tree at the path that the request names.
pub fn serve(
    input: impl Read + AsFd + Send + 'static,
    output: impl Write + Send + 'static,
    temporaries: &Temporaries,
) -> Result<TreeSummary, Error> {
    let mut input = MessageReader::new(input);
    let open: TreeOpen = input.receive()?;
    let output = MessageWriter::new(output);
    let root = Path::new(OsStr::from_bytes(&open.root)).to_owned();
    // The caller learns each event from the stream.
    let report: Report<'_> = &mut |_| {};
    if open.agent_sends {
        sender::send(&root, &open, input, output, report)
    } else {
        receiver::receive(&root, &open, input, output, temporaries, report)
    }
}

/// Checks a request before it is sent. `Err` names what neither side could do, for example an invalid pattern.
pub fn validate(open: &TreeOpen) -> Result<(), Error> {
    request::check(open).map(|_| ())
}
