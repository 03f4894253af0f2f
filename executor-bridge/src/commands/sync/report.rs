//! The output of `podbridge sync`: changed paths on standard output; problems and one line of summary on standard error.

use std::io::Write as _;
use std::path::Path;

use indicatif::HumanBytes;
use podbridge_proto::v1::{TreeChange, TreeChangeKind, TreeOpen, TreeProblem, TreeSummary};
use podbridge_tree::{Event, escape_for_terminal};

use crate::commands::progress::Progress;
use crate::error::Kind;
use crate::report::say;

/// Problems that are printed; further ones are only counted.
const PROBLEMS_PRINTED_MAX: u64 = 20;

/// Prints the events of a copy and counts its problems.
#[derive(Debug)]
pub(super) struct CopyReport {
    progress: Progress,
    quiet: bool,
    dry_run: bool,
    /// Problems printed, and problems only counted.
    printed: u64,
    omitted: u64,
    /// Failures on this side, and in the pod. Warnings are not among them.
    local_failures: u64,
    remote_failures: u64,
}

impl CopyReport {
    pub(super) fn new(open: &TreeOpen, local: &Path, quiet: bool) -> Self {
        let name = local.file_name().unwrap_or(local.as_os_str());
        Self {
            progress: Progress::start(&escape_for_terminal(name.as_encoded_bytes()), None, quiet),
            quiet,
            dry_run: open.dry_run,
            printed: 0,
            omitted: 0,
            local_failures: 0,
            remote_failures: 0,
        }
    }

    /// Reports an event at once.
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Content(bytes) => self.progress.advance(usize::try_from(bytes).unwrap_or_default()),
            Event::Change(change) => self.progress.print_above(|| print(&change)),
            Event::Problem { problem, remote } => self.problem(&problem, remote),
        }
    }

    fn problem(&mut self, problem: &TreeProblem, remote: bool) {
        if !problem.warning {
            let failures = if remote {
                &mut self.remote_failures
            } else {
                &mut self.local_failures
            };
            *failures += 1;
        }
        if self.printed >= PROBLEMS_PRINTED_MAX {
            self.omitted += 1;
            return;
        }
        self.printed += 1;
        let side = if remote { "in the pod" } else { "here" };
        // The path may come from the pod. The copy has made the text fit for terminals.
        let (path, what) = (display_path(&problem.path), &problem.what);
        self.progress.print_above(|| say(&format!("{path} {side}: {what}")));
    }

    /// Prints the summary; returns the exit code.
    pub(super) fn conclude(self, summary: &TreeSummary) -> u8 {
        drop(self.progress);
        if self.omitted > 0 {
            say(&format!("{} more problems of this kind", self.omitted));
        }
        let failed = self.local_failures + self.remote_failures;
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
        match (self.local_failures, self.remote_failures) {
            (0, 0) => 0,
            (0, _) => Kind::RemoteFile.code(),
            (_, _) => Kind::LocalFile.code(),
        }
    }
}

/// Returns a path for the terminal. The root of the copy has an empty path, shown as `.`.
fn display_path(path: &[u8]) -> String {
    if path.is_empty() {
        ".".into()
    } else {
        escape_for_terminal(path)
    }
}

/// Prints the line of a changed path.
fn print(change: &TreeChange) {
    let kind = match change.kind() {
        TreeChangeKind::New => "new",
        TreeChangeKind::Changed => "changed",
        TreeChangeKind::Attributes => "attributes",
        TreeChangeKind::Deleted => "deleted",
        TreeChangeKind::Unspecified => "other",
    };
    // A failure is ignored: the reader has closed standard output.
    let _ = writeln!(std::io::stdout(), "{kind} {}", display_path(&change.path));
}
