//! What a receiver reports: answers to the sender, and the same events to the caller of this side.

use std::io::Write;

use podbridge_proto::v1::{TreeAnswer, TreeChange, TreeChangeKind, TreeProblem, TreeSummary};
use rustix::io::Errno;

use crate::directory::Directory;
use crate::error::{Error, reason};
use crate::report::{Event, Report, truncate_path};
use crate::wire::{ENTRY_WINDOW, MAX_MESSAGE, MessageWriter};

/// Number of changes and problems from which an answer is sent at once.
const MAX_REPORTS: usize = 1024;
/// Compared entries or wanted files that are worth an answer although more input is readable: a small part of the sender's window.
const EARLY_ANSWER: usize = ENTRY_WINDOW / 16;

pub(super) struct Output<'a, W> {
    stream: MessageWriter<W>,
    pub(super) report: Report<'a>,
    /// Whether each change is reported, as TreeOpen.list_changes asks.
    list_changes: bool,
    /// The next answer, as far as it is filled.
    pub(super) answer: TreeAnswer,
    /// Bytes of paths and texts in `answer`.
    reported: usize,
    /// Number of the last entry that was received; the next answer reports all entries up to it as compared.
    pub(super) last_entry: u64,
    pub(super) summary: TreeSummary,
}

impl<'a, W: Write> Output<'a, W> {
    pub(super) fn new(stream: MessageWriter<W>, report: Report<'a>, list_changes: bool) -> Self {
        Self {
            stream,
            report,
            list_changes,
            answer: TreeAnswer::default(),
            reported: 0,
            last_entry: 0,
            summary: TreeSummary::default(),
        }
    }

    /// Sends the first answer, which announces the optional parts of the protocol that this receiver reads.
    pub(super) fn send_first_answer(&mut self) -> Result<(), Error> {
        self.stream.send(&TreeAnswer {
            zstd_streams: true,
            ..TreeAnswer::default()
        })
    }

    /// Returns whether the next answer contains anything new.
    pub(super) fn has_answer(&self) -> bool {
        self.answer.compared != self.last_entry
            || !self.answer.wanted.is_empty()
            || !self.answer.changes.is_empty()
            || !self.answer.problems.is_empty()
    }

    /// Returns whether an answer is due although more input is readable. The sender should learn early what to send next, but each
    /// answer wakes every process between the two sides.
    pub(super) fn is_worth_an_early_answer(&self) -> bool {
        self.last_entry - self.answer.compared >= EARLY_ANSWER as u64 || self.answer.wanted.len() >= EARLY_ANSWER
    }

    pub(super) fn send_answer(&mut self) -> Result<(), Error> {
        self.answer.compared = self.last_entry;
        self.stream.send(&self.answer)?;
        self.answer.wanted.clear();
        self.answer.changes.clear();
        self.answer.problems.clear();
        self.reported = 0;
        Ok(())
    }

    /// Counts a change, and reports it if changes are listed. In a dry run it is a change that a copy would make.
    pub(super) fn report_change(
        &mut self,
        kind: TreeChangeKind,
        directory: &Directory,
        name: &[u8],
    ) -> Result<(), Error> {
        match kind {
            TreeChangeKind::New => self.summary.new += 1,
            TreeChangeKind::Changed => self.summary.changed += 1,
            TreeChangeKind::Attributes => self.summary.attributes += 1,
            TreeChangeKind::Deleted => self.summary.deleted += 1,
            TreeChangeKind::Unspecified => {}
        }
        if !self.list_changes {
            return Ok(());
        }
        let change = TreeChange {
            kind: kind.into(),
            path: truncate_path(directory.path(name)),
        };
        (self.report)(Event::Change(change.clone()));
        self.reported += change.path.len();
        self.answer.changes.push(change);
        self.send_large_answer()
    }

    /// Reports something that was not done. A `warning` does not make the copy fail.
    pub(super) fn report_problem(
        &mut self,
        directory: &Directory,
        name: &[u8],
        what: String,
        warning: bool,
    ) -> Result<(), Error> {
        let problem = TreeProblem {
            path: truncate_path(directory.path(name)),
            what,
            warning,
        };
        (self.report)(Event::Problem {
            problem: problem.clone(),
            remote: false,
        });
        self.reported += problem.path.len() + problem.what.len();
        self.answer.problems.push(problem);
        self.send_large_answer()
    }

    /// Reports an operation that the system refused. `operation` completes the sentence "cannot ...".
    pub(super) fn report_failure(
        &mut self,
        directory: &Directory,
        name: &[u8],
        operation: &str,
        errno: Errno,
    ) -> Result<(), Error> {
        self.report_problem(directory, name, format!("cannot {operation}: {}", reason(errno)), false)
    }

    /// Sends the answer before it exceeds the largest message.
    fn send_large_answer(&mut self) -> Result<(), Error> {
        let count = self.answer.changes.len() + self.answer.problems.len();
        if count >= MAX_REPORTS || self.reported > MAX_MESSAGE / 4 {
            self.send_answer()
        } else {
            Ok(())
        }
    }
}
