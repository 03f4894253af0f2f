//! HEAD of a repository that the agent made: the first pushed branch becomes HEAD, as in a clone. Git itself would leave HEAD at a
//! branch that may never be pushed, and the working copy would stay empty. `git::serve` calls it after a push.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::process::geteuid;

use super::layout::{self, UNBORN};
use super::program::Git;

/// Branches to choose from if several were pushed, in this order; if none of them was, HEAD stays for the user to set.
const USUAL_BRANCHES: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

/// Opens the marker of a repository whose HEAD has no commit yet; `None` for every other repository.
pub(super) fn open_unborn_marker(directory: &Path) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let marker = open(directory.join(UNBORN), flags, Mode::empty()).ok()?;
    let stat = fstat(&marker).ok()?;
    let is_own = stat.st_uid == geteuid().as_raw() && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_own.then(|| File::from(marker))
}

/// Sets HEAD and checks it out, if a branch was pushed. The push has succeeded already, so a failure is only printed.
pub(super) fn adopt_pushed_branch(git: &Git, directory: &Path, unborn: &File) {
    // Pushes at the same time take turns. If the lock fails, git's own locks keep the repository correct.
    let _ = flock(unborn, FlockOperation::LockExclusive);
    match set_head(git, directory, unborn) {
        Ok(true) => {
            // Fails if another push has removed it.
            let _ = fs::remove_file(directory.join(UNBORN));
        }
        Ok(false) => {}
        Err(message) => eprintln!("podbridge-agent: the pushed branch is not checked out: {message}"),
    }
}

/// Points HEAD to a pushed branch and checks it out. Returns whether HEAD has a commit now; `Err` is git's message.
fn set_head(git: &Git, directory: &Path, marker: &File) -> Result<bool, String> {
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
    let mut checked_out = commit()?;
    let Some(copy) = layout::working_copy(directory) else {
        return git.output(directory, &["symbolic-ref", "HEAD", branch]).map(|_| true);
    };
    // An interrupted checkout left files of its own, which the second one may overwrite.
    let is_second = marker.metadata().is_ok_and(|marker| marker.len() > 0);
    let _ = marker.write_all_at(b"being checked out\n", 0);
    let mode = if is_second { "--reset" } else { "-m" };
    let result = git.output_in_copy(Some(copy), directory, &["read-tree", mode, "-u", &checked_out]);
    if result.is_err() && !is_second {
        // The checkout did not start: the files in its way are not ours.
        let _ = marker.set_len(0);
    }
    result?;
    git.output(directory, &["symbolic-ref", "HEAD", branch])?;
    // A push that arrived before HEAD was set did not update the files: update them here.
    loop {
        let newest = commit()?;
        if newest == checked_out {
            return Ok(true);
        }
        git.output_in_copy(Some(copy), directory, &["read-tree", "-m", "-u", &checked_out, &newest])?;
        checked_out = newest;
    }
}
