//! The side that has the tree: traverses it, announces each entry, and sends requested content before it continues.
//!
//! This file owns the state and the receiver's answers, `traversal` the order of entries, `content` the reading of files, `batch` the
//! messages, `exchange` the streams.

mod batch;
mod content;
mod exchange;
mod traversal;

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeOpen, TreeProblem, TreeSummary};
use podbridge_proto::words::clean;

use crate::directory::{Directory, OpenDirectories};
use crate::error::Error;
use crate::fields::{Fields, Value, take_number};
use crate::filter::Filters;
use crate::owners::OwnerNames;
use crate::report::{Event, Report, received_change, received_problem, truncate_path};
use crate::request;
use crate::wire::{ATTRIBUTE_WINDOW, ENTRY_WINDOW, MessageReader, MessageWriter, decode};
use crate::xattrs::Selection;
use batch::Batch;
use exchange::Exchange;

/// Most contents that are sent after each record. The receiver then always has entries to compare, and requests the next content before
/// the last one has arrived.
const CONTENTS_PER_RECORD: usize = 2;
/// Time limit for the last words of a copy that cannot continue, to and from the other side.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(10);

/// Sends the tree at `root`. `Err` ends the whole copy; the receiver learns its reason if the stream still works.
pub(crate) fn send(
    root: &Path,
    options: &TreeOpen,
    input: MessageReader<impl Read + Send + 'static>,
    output: MessageWriter<impl Write + Send + 'static>,
    report: Report<'_>,
) -> Result<TreeSummary, Error> {
    let mut sender = Sender {
        options,
        filters: Filters::default(),
        batch: Batch::new(options.compression()),
        exchange: Exchange::new(input, output, is_last_answer),
        report,
        directories: OpenDirectories::default(),
        owner_names: OwnerNames::load(),
        xattrs: Selection::of_this_process(false),
        last_entry: 0,
        announced: VecDeque::new(),
        announced_attributes: 0,
        wanted: VecDeque::new(),
        links: HashMap::new(),
        finished: None,
    };
    let mut sent = sender.run(root);
    if let Err(Error::Stream(_)) = sent
        && let Some(sentence) = sender.exchange.find_in_answers(LAST_WORDS_LIMIT, fatal_sentence)
    {
        sent = Err(Error::Peer(sentence));
    }
    if let Err(error @ (Error::Local(_) | Error::Protocol(_))) = &sent {
        sender.batch.add(Record::Fatal(error.to_string()));
        // A failure is ignored, because the stream itself may be broken.
        if let Ok(Some(message)) = sender.batch.take() {
            sender.exchange.send_last(message, LAST_WORDS_LIMIT);
        }
    }
    sent
}

fn is_last_answer(answer: &Bytes) -> bool {
    Fields::new(answer.clone()).any(|field| matches!(field, Ok((FINISHED, Value::Bytes(_)))))
}

/// Returns the reason in an answer why the receiver stopped; `None` if it tells none.
fn fatal_sentence(answer: Bytes) -> Option<String> {
    Fields::new(answer).find_map(|field| match field {
        Ok((FATAL, Value::Bytes(sentence))) => Some(clean(&String::from_utf8_lossy(&sentence))),
        _ => None,
    })
}

// Numbers of the fields of TreeAnswer.
const COMPARED: u64 = 1;
const WANTED: u64 = 2;
const CHANGES: u64 = 3;
const PROBLEMS: u64 = 4;
const FINISHED: u64 = 5;
const FATAL: u64 = 6;
const ZSTD_STREAMS: u64 = 7;

/// A regular file whose content the receiver may request.
#[derive(Debug)]
struct AnnouncedFile {
    /// Entry number.
    entry: u64,
    directory: Rc<Directory>,
    name: Box<[u8]>,
    /// Bytes of its extended attributes.
    attributes: usize,
}

/// State of one copy on the sending side.
struct Sender<'a> {
    options: &'a TreeOpen,
    filters: Filters,
    batch: Batch,
    exchange: Exchange,
    report: Report<'a>,
    directories: OpenDirectories,
    owner_names: OwnerNames,
    /// The extended attributes that are copied. What is left out of a copy from a pod is the receiver's decision.
    xattrs: Selection,
    /// Number of the last entry.
    last_entry: u64,
    /// Files that the receiver has not compared, in order.
    announced: VecDeque<AnnouncedFile>,
    /// Bytes of their extended attributes.
    announced_attributes: usize,
    /// Files whose content was requested, in order.
    wanted: VecDeque<AnnouncedFile>,
    /// Entry number of the first name of each file with several names, by device and inode.
    links: HashMap<(u64, u64), u64>,
    /// The receiver's last word; `Some` when everything is copied.
    finished: Option<TreeSummary>,
}

impl Sender<'_> {
    fn run(&mut self, root: &Path) -> Result<TreeSummary, Error> {
        self.filters = request::check(self.options)?;
        self.send_tree(root)?;
        self.push(Record::Walked(Default::default()))?;
        loop {
            self.flush()?;
            if let Some(summary) = self.finished.take() {
                return Ok(summary);
            }
            self.await_answer()?;
            self.send_wanted(usize::MAX)?;
        }
    }

    /// Adds a record, then sends some of the content that was requested meanwhile.
    fn push(&mut self, record: Record) -> Result<(), Error> {
        self.add(record)?;
        self.send_wanted(CONTENTS_PER_RECORD)
    }

    /// Adds a record; sends the message if it is large enough.
    fn add(&mut self, record: Record) -> Result<(), Error> {
        if self.batch.add(record) { self.flush() } else { Ok(()) }
    }

    /// Sends the records that were collected. Takes answers until the message before it is written.
    fn flush(&mut self) -> Result<(), Error> {
        let mut next = self.batch.take()?;
        while let Some(message) = next {
            next = self.exchange.try_send(message)?;
            if next.is_some()
                && let Some(answer) = self.exchange.wait()?
            {
                self.take_answer(answer)?;
            }
        }
        Ok(())
    }

    /// Waits until the receiver has compared enough files, so that the list of announced files stays short.
    fn await_window(&mut self) -> Result<(), Error> {
        while self.announced.len() >= ENTRY_WINDOW || self.announced_attributes >= ATTRIBUTE_WINDOW {
            if self.wanted.is_empty() {
                self.flush()?;
                self.await_answer()?;
            }
            self.send_wanted(CONTENTS_PER_RECORD)?;
        }
        Ok(())
    }

    fn await_answer(&mut self) -> Result<(), Error> {
        loop {
            if let Some(answer) = self.exchange.wait()? {
                return self.take_answer(answer);
            }
        }
    }

    /// Sends at most `most` requested contents.
    fn send_wanted(&mut self, most: usize) -> Result<(), Error> {
        for _ in 0..most {
            while let Some(answer) = self.exchange.next_answer()? {
                self.take_answer(answer)?;
            }
            let Some(file) = self.wanted.pop_front() else {
                return Ok(());
            };
            self.send_content(&file)?;
        }
        Ok(())
    }

    /// Takes an answer, field by field.
    fn take_answer(&mut self, answer: Bytes) -> Result<(), Error> {
        let mut compared = 0;
        let mut fatal = None;
        for field in Fields::new(answer) {
            match field? {
                (COMPARED, Value::Number(number)) => compared = number,
                (WANTED, Value::Number(number)) => self.take_wanted(number)?,
                (WANTED, Value::Bytes(mut numbers)) => {
                    while !numbers.is_empty() {
                        let number = take_number(&mut numbers);
                        self.take_wanted(number.ok_or(Error::Protocol("a message cannot be decoded"))?)?;
                    }
                }
                (CHANGES, Value::Bytes(change)) => (self.report)(received_change(decode(change)?)),
                (PROBLEMS, Value::Bytes(problem)) => (self.report)(received_problem(decode(problem)?)),
                (FINISHED, Value::Bytes(summary)) => self.finished = Some(decode(summary)?),
                (FATAL, Value::Bytes(sentence)) => fatal = Some(clean(&String::from_utf8_lossy(&sentence))),
                (ZSTD_STREAMS, Value::Number(1)) => self.batch.use_stream(),
                _ => {}
            }
        }
        while self.announced.front().is_some_and(|file| file.entry <= compared) {
            self.pop_announced();
        }
        match fatal {
            Some(sentence) if !sentence.is_empty() => Err(Error::Peer(sentence)),
            _ => Ok(()),
        }
    }

    /// Notes that a content is requested.
    fn take_wanted(&mut self, number: u64) -> Result<(), Error> {
        loop {
            match self.pop_announced() {
                Some(file) if file.entry == number => {
                    self.wanted.push_back(file);
                    return Ok(());
                }
                Some(file) if file.entry < number => {}
                _ => {
                    return Err(Error::Protocol(
                        "content was requested of a file that was not announced",
                    ));
                }
            }
        }
    }

    fn pop_announced(&mut self) -> Option<AnnouncedFile> {
        let file = self.announced.pop_front()?;
        self.announced_attributes -= file.attributes;
        Some(file)
    }

    fn problem(&mut self, path: Vec<u8>, what: String, warning: bool) -> Result<(), Error> {
        let problem = TreeProblem {
            path: truncate_path(path),
            what,
            warning,
        };
        (self.report)(Event::Problem {
            problem: problem.clone(),
            remote: false,
        });
        // Not `self.push`, which would send other content in the middle of one.
        self.add(Record::Problem(problem))
    }
}
