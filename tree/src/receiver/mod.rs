//! The side that receives a tree: compares each entry with what is here, asks for the contents that differ, and trusts nothing that
//! it is told.

mod content;
mod directories;
mod entries;
mod links;
mod removal;
mod replacement;

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{
    TreeAnswer, TreeAttribute, TreeChange, TreeChangeKind, TreeEntry, TreeOpen, TreeProblem, TreeSent, TreeSummary,
};
use rustix::io::Errno;

use crate::attributes::{Attributes, PERMISSION_BITS};
use crate::compression::Decompressor;
use crate::directory::{Directory, OpenDirectories};
use crate::error::{Error, reason};
use crate::filter::Filters;
use crate::owners::OwnerIds;
use crate::report::{Event, Report, truncate_path};
use crate::temporaries::Temporaries;
use crate::wire::{ENTRY_WINDOW, MAX_MESSAGE, MessageReader, MessageWriter, decode};
use crate::xattrs;
use content::IncomingContent;
use directories::UnfinishedDirectory;
use links::LinkedFile;

/// Wanted files whose content has not come; the sender's window is smaller.
const MAX_PENDING: usize = 65_536;
/// Bytes of extended attributes that wait for their files and directories.
const MAX_HELD_ATTRIBUTES: usize = 256 << 20;
/// An answer is sent early when it tells so many things.
const MAX_REPORTS: usize = 1024;
/// It waits for more to tell while there is something to read; entries, a small part of the sender's window.
const EARLY_ANSWER: usize = ENTRY_WINDOW / 16;

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
        output,
        answer: TreeAnswer::default(),
        temporaries,
        report,
        directories: OpenDirectories::default(),
        owner_ids: OwnerIds::load(),
        root: rustix::process::geteuid().is_root(),
        single: None,
        last: 0,
        begun: false,
        walked: false,
        unfinished: HashMap::new(),
        pending: HashMap::new(),
        content: None,
        links: HashMap::new(),
        waiting_links: 0,
        held: 0,
        kept_inodes: HashSet::new(),
        summary: TreeSummary::default(),
    };
    let mut decompressor = Decompressor::default();
    let mut received = receiver.run(destination, &mut input, &mut decompressor);
    if let Err(Error::Stream(_)) = received
        && let Some(sentence) = fatal_sentence(&mut input, &mut decompressor)
    {
        received = Err(Error::Peer(sentence));
    }
    match &received {
        Ok(summary) => receiver.answer.finished = Some(*summary),
        Err(error @ (Error::Local(_) | Error::Protocol(_))) => receiver.answer.fatal = error.to_string(),
        Err(_) => return received,
    }
    let told = receiver.tell_answer();
    received.and_then(|summary| told.map(|()| summary))
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
    output: MessageWriter<W>,
    answer: TreeAnswer,
    temporaries: &'a Temporaries,
    report: Report<'a>,
    directories: OpenDirectories,
    owner_ids: OwnerIds,
    /// We are root: owners and all attributes are kept.
    root: bool,
    /// The tree is one entry that is no directory, and gets this name.
    single: Option<Box<[u8]>>,
    /// Number of the last entry.
    last: u64,
    begun: bool,
    walked: bool,
    /// OpenDirectories that are not finished.
    unfinished: HashMap<u64, UnfinishedDirectory>,
    pending: HashMap<u64, PendingFile>,
    content: Option<IncomingContent>,
    /// Files that may get further names.
    links: HashMap<u64, LinkedFile>,
    waiting_links: usize,
    /// Bytes of extended attributes in `open` and `pending`.
    held: usize,
    /// Files with several names that stay: two of the sender's are not one here.
    kept_inodes: HashSet<(u64, u64)>,
    summary: TreeSummary,
}

impl<W: Write> Receiver<'_, W> {
    fn run(
        &mut self,
        destination: &Path,
        input: &mut MessageReader<impl Read + AsFd>,
        decompressor: &mut Decompressor,
    ) -> Result<TreeSummary, Error> {
        self.filters = crate::check_open(self.options)?;
        self.output.send(&TreeAnswer {
            zstd_streams: true,
            ..TreeAnswer::default()
        })?;
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
                return Ok(self.summary);
            }
            if self.has_much_to_tell() || self.has_something_to_tell() && !input.can_receive_now() {
                self.tell_answer()?;
            }
        }
    }

    fn take_record(&mut self, record: Record) -> Result<(), Error> {
        match record {
            Record::Part(part) => self.take_part(part),
            Record::Problem(problem) => {
                (self.report)(Event::Problem { problem, remote: true });
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

    fn has_something_to_tell(&self) -> bool {
        self.answer.compared != self.last
            || !self.answer.wanted.is_empty()
            || !self.answer.changes.is_empty()
            || !self.answer.problems.is_empty()
    }

    /// Worth an answer though there is more to read: the sender is to know early what comes next, and each answer wakes everybody on its way.
    fn has_much_to_tell(&self) -> bool {
        self.last - self.answer.compared >= EARLY_ANSWER as u64 || self.answer.wanted.len() >= EARLY_ANSWER
    }

    fn tell_answer(&mut self) -> Result<(), Error> {
        self.answer.compared = self.last;
        self.output.send(&self.answer)?;
        self.answer.wanted.clear();
        self.answer.changes.clear();
        self.answer.problems.clear();
        Ok(())
    }

    fn attributes(&self, entry: &TreeEntry) -> Attributes {
        let copied = entry
            .attributes
            .iter()
            .filter(|one| xattrs::is_copied(&one.name, self.root));
        // Copies: they would hold the whole message.
        let owned = copied.map(|one| TreeAttribute {
            name: one.name.to_vec().into(),
            value: one.value.to_vec().into(),
        });
        let mut xattrs: Vec<_> = owned.collect();
        xattrs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Attributes {
            mode: entry.mode & PERMISSION_BITS,
            owner: (self.root && !self.options.no_owner).then(|| self.owner_ids.local(entry.uid, entry.gid)),
            mtime_ns: entry.mtime_ns,
            xattrs,
        }
    }

    /// Attributes that wait; until they are given.
    fn hold_attributes(&mut self, attributes: &Attributes) -> Result<(), Error> {
        self.held += attributes.memory_size();
        match self.held > MAX_HELD_ATTRIBUTES {
            true => Err(Error::Protocol("there are too many extended attributes")),
            false => Ok(()),
        }
    }

    /// A change that was made, or would be.
    fn changed(&mut self, kind: TreeChangeKind, directory: &Directory, name: &[u8]) -> Result<(), Error> {
        match kind {
            TreeChangeKind::New => self.summary.new += 1,
            TreeChangeKind::Changed => self.summary.changed += 1,
            TreeChangeKind::Attributes => self.summary.attributes += 1,
            TreeChangeKind::Deleted => self.summary.deleted += 1,
            TreeChangeKind::Unspecified => {}
        }
        if !self.options.list_changes {
            return Ok(());
        }
        let change = TreeChange {
            kind: kind.into(),
            path: truncate_path(directory.path(name)),
        };
        (self.report)(Event::Change(change.clone()));
        self.answer.changes.push(change);
        self.tell_if_many()
    }

    fn problem(&mut self, directory: &Directory, name: &[u8], what: String, warning: bool) -> Result<(), Error> {
        let problem = TreeProblem {
            path: truncate_path(directory.path(name)),
            what,
            warning,
        };
        (self.report)(Event::Problem {
            problem: problem.clone(),
            remote: false,
        });
        self.answer.problems.push(problem);
        self.tell_if_many()
    }

    fn refused(&mut self, directory: &Directory, name: &[u8], operation: &str, errno: Errno) -> Result<(), Error> {
        self.problem(directory, name, format!("cannot {operation}: {}", reason(errno)), false)
    }

    /// Paths may be long.
    fn tell_if_many(&mut self) -> Result<(), Error> {
        let bytes: usize = match self.answer.changes.len() + self.answer.problems.len() {
            count if count % 16 == 0 => self.answer.changes.iter().map(|change| change.path.len()).sum(),
            _ => 0,
        };
        match self.answer.changes.len() + self.answer.problems.len() >= MAX_REPORTS || bytes > MAX_MESSAGE / 4 {
            true => self.tell_answer(),
            false => Ok(()),
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
