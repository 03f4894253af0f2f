//! A tree of files from one side to the other over two byte streams, as blocking code: the sender tells what there is, the receiver
//! asks for what differs, and neither waits for the other (docs/adr/0009). Owns both; knows nothing of links, execs or gRPC.

mod attributes;
mod compression;
mod digest;
mod directory;
mod error;
mod filter;
mod owners;
mod receiver;
mod report;
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

/// The caller's side: tells the other one what is to be done, and does its own part with the path `own`.
pub fn call(
    open: &TreeOpen,
    own: &Path,
    input: impl Read + AsFd + Send + 'static,
    output: impl Write,
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

/// The other side: does what it is told.
pub fn serve(
    input: impl Read + AsFd + Send + 'static,
    output: impl Write,
    temporaries: &Temporaries,
) -> Result<TreeSummary, Error> {
    let mut input = MessageReader::new(input);
    let open: TreeOpen = input.receive()?;
    let output = MessageWriter::new(output);
    let root = Path::new(OsStr::from_bytes(&open.root)).to_owned();
    // The caller is told of each event by the stream.
    let report: Report<'_> = &mut |_| {};
    if open.agent_sends {
        sender::send(&root, &open, input, output, report)
    } else {
        receiver::receive(&root, &open, input, output, temporaries, report)
    }
}

/// `Err`: why this cannot be done anywhere.
pub fn validate(open: &TreeOpen) -> Result<(), Error> {
    check_open(open).map(|_| ())
}

/// What both sides check before they begin.
fn check_open(open: &TreeOpen) -> Result<filter::Filters, Error> {
    if open.version != PROTOCOL_VERSION {
        return Err(Error::Local(format!(
            "trees are spoken in version {} there and {PROTOCOL_VERSION} here; use the same release on both sides",
            open.version
        )));
    }
    filter::Filters::new(&open.filters).map_err(Error::Local)
}
