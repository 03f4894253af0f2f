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
use crate::owners::Numbers;
use crate::report::{Event, Report, truncate_path};
use crate::temporaries::Temporaries;
use crate::wire::{ENTRY_WINDOW, MAX_MESSAGE, MessageReader, MessageWriter, decode};
use crate::xattrs;
use content::Content;
use directories::Open;
use links::Link;

/// Wanted files whose content has not come; the sender's window is smaller.
const MAX_PENDING: usize = 65_536;
/// Bytes of extended attributes that wait for their files and directories.
const MAX_HELD: usize = 256 << 20;
/// An answer is sent early when it tells so many things.
const MANY: usize = 1024;
/// It waits for more to tell while there is something to read; entries, a small part of the sender's window.
const SOME: usize = ENTRY_WINDOW / 16;

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
        numbers: Numbers::load(),
        root: rustix::process::geteuid().is_root(),
        single: None,
        last: 0,
        begun: false,
        walked: false,
        open: HashMap::new(),
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
        && let Some(sentence) = last_words(&mut input, &mut decompressor)
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
fn last_words(input: &mut MessageReader<impl Read>, decompressor: &mut Decompressor) -> Option<String> {
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
struct Pending {
    /// Number of its directory.
    parent: u64,
    directory: Rc<Directory>,
    name: Box<[u8]>,
    attributes: Attributes,
    change: TreeChangeKind,
    /// Its other names, which it gets when it is here.
    links: Vec<links::Name>,
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
    numbers: Numbers,
    /// We are root: owners and all attributes are kept.
    root: bool,
    /// The tree is one entry that is no directory, and gets this name.
    single: Option<Box<[u8]>>,
    /// Number of the last entry.
    last: u64,
    begun: bool,
    walked: bool,
    /// OpenDirectories that are not finished.
    open: HashMap<u64, Open>,
    pending: HashMap<u64, Pending>,
    content: Option<Content>,
    /// Files that may get further names.
    links: HashMap<u64, Link>,
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
        self.filters = crate::check(self.options)?;
        self.output.send(&TreeAnswer {
            zstd_streams: true,
            ..TreeAnswer::default()
        })?;
        loop {
            for record in records(input.receive()?, decompressor)? {
                match record {
                    Record::Root(root) if !self.begun => {
                        self.begun = true;
                        self.begin(destination, root.directory)?;
                    }
                    record => self.take(record)?,
                }
            }
            if self.walked && self.open.is_empty() && self.pending.is_empty() && self.content.is_none() {
                return Ok(self.summary);
            }
            if self.has_much_to_tell() || self.has_something_to_tell() && !input.has_more() {
                self.tell_answer()?;
            }
        }
    }

    fn take(&mut self, record: Record) -> Result<(), Error> {
        match record {
            Record::Part(part) => self.part(part),
            Record::Problem(problem) => {
                (self.report)(Event::Problem { problem, remote: true });
                Ok(())
            }
            Record::Fatal(sentence) => Err(Error::Peer(sentence)),
            Record::Owner(owner) => self.numbers.learn(&owner),
            _ if !self.begun => Err(Error::Protocol("the tree has no root")),
            _ if self.walked => Err(Error::Protocol("an entry came after the last one")),
            Record::Entry(entry) => self.entry(entry),
            Record::Kept(kept) => self.keep(kept.directory, &kept.name),
            Record::DirectoryEnd(end) => self.directory_end(end.directory, end.incomplete),
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
        self.last - self.answer.compared >= SOME as u64 || self.answer.wanted.len() >= SOME
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
            owner: (self.root && !self.options.no_owner).then(|| self.numbers.here(entry.uid, entry.gid)),
            mtime_ns: entry.mtime_ns,
            xattrs,
        }
    }

    /// Attributes that wait; until they are given.
    fn keep_attributes(&mut self, attributes: &Attributes) -> Result<(), Error> {
        self.held += attributes.size();
        match self.held > MAX_HELD {
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
        match self.answer.changes.len() + self.answer.problems.len() >= MANY || bytes > MAX_MESSAGE / 4 {
            true => self.tell_answer(),
            false => Ok(()),
        }
    }
}

fn records(sent: TreeSent, decompressor: &mut Decompressor) -> Result<impl Iterator<Item = Record> + use<>, Error> {
    let sent = match (&sent.zstd[..], &sent.zstd_stream[..]) {
        ([], []) => sent,
        ([], piece) => decode::<TreeSent>(decompressor.piece(piece)?.into())?,
        (frame, _) => decode::<TreeSent>(decompressor.frame(frame)?.into())?,
    };
    Ok(sent.records.into_iter().filter_map(|record| record.record))
}
