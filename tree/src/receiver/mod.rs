//! The side that receives a tree: compares each entry with what is here, asks for the contents that differ, and trusts nothing that
//! it is told.

mod content;
mod directories;
mod entries;
mod links;
mod output;
mod removal;
mod replacement;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeAttribute, TreeChangeKind, TreeEntry, TreeOpen, TreeSent, TreeSummary};

use crate::attributes::{Attributes, PERMISSION_BITS};
use crate::compression::Decompressor;
use crate::directory::{Directory, OpenDirectories};
use crate::error::Error;
use crate::filter::Filters;
use crate::owners::OwnerIds;
use crate::report::{Event, Report};
use crate::temporaries::Temporaries;
use crate::wire::{MessageReader, MessageWriter, decode};
use crate::xattrs;
use content::IncomingContent;
use directories::UnfinishedDirectory;
use links::Links;
use output::Output;

/// Wanted files whose content has not come; the sender's window is smaller.
const MAX_PENDING: usize = 65_536;
/// Bytes of extended attributes that wait for their files and directories.
const MAX_HELD_ATTRIBUTES: usize = 256 << 20;

pub(crate) fn receive(
    destination: &Path,
    options: &TreeOpen,
    mut input: MessageReader<impl Read + AsFd>,
    output: MessageWriter<impl Write>,
    temporaries: &Temporaries,
    report: Report<'_>,
) -> Result<TreeSummary, Error> {
    let mut receiver = Receiver {
        options,
        filters: Filters::default(),
        output: Output::new(output, report, options.list_changes),
        temporaries,
        directories: OpenDirectories::default(),
        owner_ids: OwnerIds::load(),
        is_root: rustix::process::geteuid().is_root(),
        single: None,
        begun: false,
        walked: false,
        unfinished: HashMap::new(),
        pending: HashMap::new(),
        content: None,
        links: Links::default(),
        held: 0,
    };
    let mut decompressor = Decompressor::default();
    let mut received = receiver.run(destination, &mut input, &mut decompressor);
    if let Err(Error::Stream(_)) = received
        && let Some(sentence) = fatal_sentence(&mut input, &mut decompressor)
    {
        received = Err(Error::Peer(sentence));
    }
    match &received {
        Ok(summary) => receiver.output.answer.finished = Some(*summary),
        Err(error @ (Error::Local(_) | Error::Protocol(_))) => receiver.output.answer.fatal = error.to_string(),
        Err(_) => return received,
    }
    let sent = receiver.output.send_answer();
    received.and_then(|summary| sent.map(|()| summary))
}

/// Why the sender takes no more answers, if it says so.
fn fatal_sentence(input: &mut MessageReader<impl Read>, decompressor: &mut Decompressor) -> Option<String> {
    loop {
        let fatal = |record| match record {
            Record::Fatal(sentence) => Some(sentence),
            _ => None,
        };
        if let Some(sentence) = records(input.receive().ok()?, decompressor).ok()?.find_map(fatal) {
            return Some(sentence);
        }
    }
}

/// A regular file whose content was asked for.
#[derive(Debug)]
struct PendingFile {
    /// Number of its directory.
    parent: u64,
    directory: Rc<Directory>,
    name: Box<[u8]>,
    attributes: Attributes,
    change: TreeChangeKind,
    /// Its other names, which it gets when it is here.
    links: Vec<links::WaitingName>,
    has_links: bool,
}

struct Receiver<'a, W> {
    options: &'a TreeOpen,
    filters: Filters,
    output: Output<'a, W>,
    temporaries: &'a Temporaries,
    directories: OpenDirectories,
    owner_ids: OwnerIds,
    /// We are root: owners and all attributes are kept.
    is_root: bool,
    /// The tree is one entry that is no directory, and gets this name.
    single: Option<Box<[u8]>>,
    begun: bool,
    walked: bool,
    /// OpenDirectories that are not finished.
    unfinished: HashMap<u64, UnfinishedDirectory>,
    pending: HashMap<u64, PendingFile>,
    content: Option<IncomingContent>,
    links: Links,
    /// Bytes of extended attributes in `open` and `pending`.
    held: usize,
}

impl<W: Write> Receiver<'_, W> {
    fn run(
        &mut self,
        destination: &Path,
        input: &mut MessageReader<impl Read + AsFd>,
        decompressor: &mut Decompressor,
    ) -> Result<TreeSummary, Error> {
        self.filters = crate::check_open(self.options)?;
        self.output.send_first_answer()?;
        loop {
            for record in records(input.receive()?, decompressor)? {
                match record {
                    Record::Root(root) if !self.begun => {
                        self.begun = true;
                        self.begin_root(destination, root.directory)?;
                    }
                    record => self.take_record(record)?,
                }
            }
            if self.walked && self.unfinished.is_empty() && self.pending.is_empty() && self.content.is_none() {
                return Ok(self.output.summary);
            }
            if self.output.is_worth_an_early_answer() || self.output.has_answer() && !input.can_receive_now() {
                self.output.send_answer()?;
            }
        }
    }

    fn take_record(&mut self, record: Record) -> Result<(), Error> {
        match record {
            Record::Part(part) => self.take_part(part),
            Record::Problem(problem) => {
                (self.output.report)(Event::Problem { problem, remote: true });
                Ok(())
            }
            Record::Fatal(sentence) => Err(Error::Peer(sentence)),
            Record::Owner(owner) => self.owner_ids.add(&owner),
            _ if !self.begun => Err(Error::Protocol("the tree has no root")),
            _ if self.walked => Err(Error::Protocol("an entry came after the last one")),
            Record::Entry(entry) => self.take_entry(entry),
            Record::Kept(kept) => self.keep_name(kept.directory, &kept.name),
            Record::DirectoryEnd(end) => self.end_directory(end.directory, end.incomplete),
            Record::Walked(_) => {
                self.walked = true;
                Ok(())
            }
            Record::Root(_) => Err(Error::Protocol("the tree has two roots")),
        }
    }

    fn attributes(&self, entry: &TreeEntry) -> Attributes {
        let copied = entry
            .attributes
            .iter()
            .filter(|one| xattrs::is_copied(&one.name, self.is_root));
        // Copies: they would hold the whole message.
        let owned = copied.map(|one| TreeAttribute {
            name: one.name.to_vec().into(),
            value: one.value.to_vec().into(),
        });
        let mut xattrs: Vec<_> = owned.collect();
        xattrs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Attributes {
            mode: entry.mode & PERMISSION_BITS,
            owner: (self.is_root && !self.options.no_owner).then(|| self.owner_ids.local(entry.uid, entry.gid)),
            mtime_ns: entry.mtime_ns,
            xattrs,
        }
    }

    /// Attributes that wait; until they are given.
    fn hold_attributes(&mut self, attributes: &Attributes) -> Result<(), Error> {
        self.held += attributes.memory_size();
        if self.held > MAX_HELD_ATTRIBUTES {
            Err(Error::Protocol("there are too many extended attributes"))
        } else {
            Ok(())
        }
    }
}

fn records(sent: TreeSent, decompressor: &mut Decompressor) -> Result<impl Iterator<Item = Record> + use<>, Error> {
    let sent = match (&sent.zstd[..], &sent.zstd_stream[..]) {
        ([], []) => sent,
        ([], chunk) => decode::<TreeSent>(decompressor.decompress_chunk(chunk)?.into())?,
        (frame, _) => decode::<TreeSent>(decompressor.decompress_frame(frame)?.into())?,
    };
    Ok(sent.records.into_iter().filter_map(|record| record.record))
}
