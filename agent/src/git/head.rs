//! HEAD of a repository that was made here: it follows the first branch that is pushed, as the HEAD of a clone would. Git itself
//! leaves it at a name that may never be pushed, and then shows no files.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::layout::{self, UNBORN};
use super::program::Git;

/// Which of several; otherwise it stays to the user to output.
const USUAL_BRANCHES: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

pub(super) fn open_unborn_marker(directory: &Path) -> Option<File> {
    File::open(directory.join(UNBORN)).ok()
}

/// What was pushed is there, whatever happens here: a failure is said and nothing more.
pub(super) fn adopt_pushed_branch(git: &Git, directory: &Path, unborn: &File) {
    // Of several pushes at once, one after the other; without the lock, git's own keep it right.
    let _ = flock(unborn, FlockOperation::LockExclusive);
    match set_head(git, directory) {
        Ok(true) => {
            // Another push may have done it.
            let _ = fs::remove_file(directory.join(UNBORN));
        }
        Ok(false) => {}
        Err(message) => eprintln!("podbridge-agent: what was pushed is not checked out: {message}"),
    }
}

/// Whether HEAD has a commit now.
fn set_head(git: &Git, directory: &Path) -> Result<bool, String> {
    if git
        .output(directory, &["rev-parse", "--quiet", "--verify", "HEAD"])
        .is_ok()
    {
        return Ok(true);
    }
    let branches = git.output(directory, &["for-each-ref", "--format=%(refname)", "refs/heads"])?;
    let branches: Vec<&str> = branches.lines().collect();
    let branch = match branches[..] {
        [only] => Some(only),
        _ => USUAL_BRANCHES.into_iter().find(|usual| branches.contains(usual)),
    };
    let Some(branch) = branch else { return Ok(false) };
    let commit = || git.output(directory, &["rev-parse", "--verify", branch]);
    let mut shown = commit()?;
    let Some(copy) = layout::working_copy(directory) else {
        return git.output(directory, &["symbolic-ref", "HEAD", branch]).map(|_| true);
    };
    // One that was cut short left files that are in the way of the next, though they are ours.
    let marker = directory.join(UNBORN);
    let is_again = fs::metadata(&marker).is_ok_and(|found| found.len() > 0);
    let _ = fs::write(&marker, "being checked out\n");
    let how = if is_again { "--reset" } else { "-m" };
    let checked_out = git.output_in_copy(Some(copy), directory, &["read-tree", how, "-u", &shown]);
    if checked_out.is_err() && !is_again {
        // Nothing was begun: what is in the way is somebody's.
        let _ = fs::write(&marker, "");
    }
    checked_out?;
    git.output(directory, &["symbolic-ref", "HEAD", branch])?;
    // A push that came meanwhile found another HEAD, and left the files to us.
    loop {
        let now = commit()?;
        if now == shown {
            return Ok(true);
        }
        git.output_in_copy(Some(copy), directory, &["read-tree", "-m", "-u", &shown, &now])?;
        shown = now;
    }
}
