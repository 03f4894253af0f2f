//! What the user sees of a copy: changed paths on standard output, problems and one line of summary on standard error.

use std::io::Write as _;
use std::path::Path;

use indicatif::HumanBytes;
use podbridge_proto::v1::{TreeChange, TreeChangeKind, TreeOpen, TreeProblem, TreeSummary};
use podbridge_tree::{Event, escape_for_terminal};

use crate::commands::progress::Progress;
use crate::error::Kind;
use crate::report::say;

/// Problems that are told one by one.
const FIRST: u64 = 20;

#[derive(Debug)]
pub(super) struct Shown {
    progress: Progress,
    quiet: bool,
    dry_run: bool,
    told: u64,
    untold: u64,
    local: u64,
    remote: u64,
}

impl Shown {
    pub(super) fn new(open: &TreeOpen, own: &Path, quiet: bool) -> Self {
        let name = own.file_name().unwrap_or(own.as_os_str());
        Self {
            progress: Progress::start(&escape_for_terminal(name.as_encoded_bytes()), None, quiet),
            quiet,
            dry_run: open.dry_run,
            told: 0,
            untold: 0,
            local: 0,
            remote: 0,
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Content(bytes) => self.progress.advance(usize::try_from(bytes).unwrap_or_default()),
            Event::Change(change) => self.progress.beside(|| print(&change)),
            Event::Problem { problem, remote } => self.problem(&problem, remote),
        }
    }

    fn problem(&mut self, problem: &TreeProblem, remote: bool) {
        match remote {
            _ if problem.warning => {}
            true => self.remote += 1,
            false => self.local += 1,
        }
        if self.told >= FIRST {
            self.untold += 1;
            return;
        }
        self.told += 1;
        let side = if remote { "in the pod" } else { "here" };
        // Both may come from the pod.
        let (path, what) = (named(&problem.path), escape_for_terminal(problem.what.as_bytes()));
        self.progress.beside(|| say(&format!("{path} {side}: {what}")));
    }

    /// The exit code.
    pub(super) fn conclude(self, summary: &TreeSummary) -> u8 {
        drop(self.progress);
        if self.untold > 0 {
            say(&format!("{} more problems like these", self.untold));
        }
        let failed = self.local + self.remote;
        if !self.quiet {
            let would = if self.dry_run { "would be " } else { "" };
            let TreeSummary {
                new,
                changed,
                attributes,
                deleted,
                bytes,
            } = summary;
            let failed = match failed {
                0 => String::new(),
                failed => format!("; {failed} failed"),
            };
            say(&format!(
                "{would}{new} new, {changed} changed, {attributes} with other attributes, {deleted} deleted; {} of content{failed}",
                HumanBytes(*bytes)
            ));
        }
        match (self.local, self.remote) {
            (0, 0) => 0,
            (0, _) => Kind::RemoteFile.code(),
            (_, _) => Kind::LocalFile.code(),
        }
    }
}

/// The root has no name of its own.
fn named(path: &[u8]) -> String {
    match path.is_empty() {
        true => ".".into(),
        false => escape_for_terminal(path),
    }
}

fn print(change: &TreeChange) {
    let kind = match change.kind() {
        TreeChangeKind::New => "new",
        TreeChangeKind::Changed => "changed",
        TreeChangeKind::Attributes => "attributes",
        TreeChangeKind::Deleted => "deleted",
        TreeChangeKind::Unspecified => "other",
    };
    // A reader that has gone needs no more.
    let _ = writeln!(std::io::stdout(), "{kind} {}", named(&change.path));
}
