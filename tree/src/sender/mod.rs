//! The side that has the tree: traverses it, announces each entry, and sends requested content before it continues.
//!
//! This file owns the state and the receiver's answers, `traversal` the order of entries, `content` the reading of files, `batch` the
//! messages.

mod batch;
mod content;
mod traversal;

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeAnswer, TreeOpen, TreeProblem, TreeSummary};

use crate::directory::{Directory, OpenDirectories};
use crate::error::Error;
use crate::filter::Filters;
use crate::owners::OwnerNames;
use crate::report::{Event, Report, truncate_path};
use crate::request;
use crate::wire::{ENTRY_WINDOW, MessageReader, MessageWriter};
use batch::Batch;

/// Most contents that are sent after each record. The receiver then always has entries to compare, and requests the next content before
/// the last one has arrived.
const CONTENTS_PER_RECORD: usize = 2;

/// Sends the tree at `root`. `Err` ends the whole copy; the receiver learns its reason if the stream still works.
pub(crate) fn send(
    root: &Path,
    options: &TreeOpen,
    input: MessageReader<impl Read + Send + 'static>,
    output: MessageWriter<impl Write>,
    report: Report<'_>,
) -> Result<TreeSummary, Error> {
    let mut sender = Sender {
        options,
        filters: Filters::default(),
        batch: Batch::new(output, options.compression()),
        answers: spawn_answer_reader(input),
        report,
        directories: OpenDirectories::default(),
        owner_names: OwnerNames::load(),
        is_root: rustix::process::geteuid().is_root(),
        last_entry: 0,
        announced: VecDeque::new(),
        wanted: VecDeque::new(),
        links: HashMap::new(),
        finished: None,
    };
    let mut sent = sender.run(root);
    if let Err(Error::Stream(_)) = sent
        && let Some(sentence) = sender.fatal_sentence()
    {
        sent = Err(Error::Peer(sentence));
    }
    if let Err(error @ (Error::Local(_) | Error::Protocol(_))) = &sent {
        // An error is ignored, because the stream itself may be broken.
        let _ = sender
            .batch
            .push(Record::Fatal(error.to_string()))
            .and_then(|()| sender.batch.flush());
    }
    sent
}

/// Starts a thread that reads the receiver's answers, so that the receiver can send while this side blocks in a write.
fn spawn_answer_reader(
    mut input: MessageReader<impl Read + Send + 'static>,
) -> mpsc::Receiver<Result<TreeAnswer, Error>> {
    let (queue, answers) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let answer = input.receive::<TreeAnswer>();
            let last = answer.as_ref().map_or(true, |answer| answer.finished.is_some());
            if queue.send(answer).is_err() || last {
                return;
            }
        }
    });
    answers
}

/// A regular file whose content the receiver may request.
#[derive(Debug)]
struct AnnouncedFile {
    /// Entry number.
    entry: u64,
    directory: Rc<Directory>,
    name: Box<[u8]>,
}

/// State of one copy on the sending side.
struct Sender<'a, W> {
    options: &'a TreeOpen,
    filters: Filters,
    batch: Batch<W>,
    answers: mpsc::Receiver<Result<TreeAnswer, Error>>,
    report: Report<'a>,
    directories: OpenDirectories,
    owner_names: OwnerNames,
    /// Whether this process is root and thus copies all extended attributes.
    is_root: bool,
    /// Number of the last entry.
    last_entry: u64,
    /// Files that the receiver has not compared, in order.
    announced: VecDeque<AnnouncedFile>,
    /// Files whose content was requested, in order.
    wanted: VecDeque<AnnouncedFile>,
    /// Entry number of the first name of each file with several names, by device and inode.
    links: HashMap<(u64, u64), u64>,
    /// The receiver's last word; `Some` when everything is copied.
    finished: Option<TreeSummary>,
}

impl<W: Write> Sender<'_, W> {
    fn run(&mut self, root: &Path) -> Result<TreeSummary, Error> {
        self.filters = request::check(self.options)?;
        self.send_tree(root)?;
        self.push(Record::Walked(Default::default()))?;
        loop {
            self.batch.flush()?;
            if let Some(summary) = self.finished.take() {
                return Ok(summary);
            }
            self.await_answer()?;
            self.send_wanted(usize::MAX)?;
        }
    }

    /// Adds a record, then sends some of the content that was requested meanwhile.
    fn push(&mut self, record: Record) -> Result<(), Error> {
        self.batch.push(record)?;
        self.send_wanted(CONTENTS_PER_RECORD)
    }

    /// Waits until the receiver has compared enough files, so that the list of announced files stays short.
    fn await_window(&mut self) -> Result<(), Error> {
        while self.announced.len() >= ENTRY_WINDOW {
            if self.wanted.is_empty() {
                self.batch.flush()?;
                self.await_answer()?;
            }
            self.send_wanted(CONTENTS_PER_RECORD)?;
        }
        Ok(())
    }

    fn await_answer(&mut self) -> Result<(), Error> {
        let answer = self.answers.recv().map_err(|_| Error::Truncated)??;
        self.take_answer(answer)
    }

    /// Returns the reason why the receiver stopped reading; `None` if it sent none.
    fn fatal_sentence(&mut self) -> Option<String> {
        let mut answers = self.answers.iter().map_while(Result::ok);
        answers
            .find(|answer| !answer.fatal.is_empty())
            .map(|answer| answer.fatal)
    }

    /// Sends at most `most` requested contents.
    fn send_wanted(&mut self, most: usize) -> Result<(), Error> {
        for _ in 0..most {
            while let Ok(answer) = self.answers.try_recv() {
                self.take_answer(answer?)?;
            }
            let Some(file) = self.wanted.pop_front() else {
                return Ok(());
            };
            self.send_content(&file)?;
        }
        Ok(())
    }

    fn take_answer(&mut self, answer: TreeAnswer) -> Result<(), Error> {
        if answer.zstd_streams {
            self.batch.use_stream();
        }
        for wanted in answer.wanted {
            loop {
                match self.announced.pop_front() {
                    Some(file) if file.entry == wanted => break self.wanted.push_back(file),
                    Some(file) if file.entry < wanted => {}
                    _ => {
                        return Err(Error::Protocol(
                            "content was requested of a file that was not announced",
                        ));
                    }
                }
            }
        }
        while self.announced.front().is_some_and(|file| file.entry <= answer.compared) {
            self.announced.pop_front();
        }
        for change in answer.changes {
            (self.report)(Event::Change(change));
        }
        for problem in answer.problems {
            (self.report)(Event::Problem { problem, remote: true });
        }
        if !answer.fatal.is_empty() {
            return Err(Error::Peer(answer.fatal));
        }
        self.finished = answer.finished;
        Ok(())
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
        self.batch.push(Record::Problem(problem))
    }
}
