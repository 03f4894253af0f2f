//! HEAD of a repository that was made here: it follows the first branch that is pushed, as the HEAD of a clone would. Git itself
//! leaves it at a name that may never be pushed, and then shows no files.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::place;
use super::program::Git;

/// A file in the repository that is there until HEAD has a commit.
pub(super) const UNBORN: &str = "podbridge-unborn";

/// Which of several; otherwise it stays to the user to say.
const USUAL: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

pub(super) fn unborn(directory: &Path) -> Option<File> {
    File::open(directory.join(UNBORN)).ok()
}

/// What was pushed is there, whatever happens here: a failure is said and nothing more.
pub(super) fn follow(git: &Git, directory: &Path, unborn: &File) {
    // Of several pushes at once, one after the other; without the lock, git's own keep it right.
    let _ = flock(unborn, FlockOperation::LockExclusive);
    match settle(git, directory) {
        Ok(true) => {
            // Another push may have done it.
            let _ = fs::remove_file(directory.join(UNBORN));
        }
        Ok(false) => {}
        Err(said) => eprintln!("podbridge-agent: what was pushed is not checked out: {said}"),
    }
}

/// Whether HEAD has a commit now.
fn settle(git: &Git, directory: &Path) -> Result<bool, String> {
    if git
        .say(directory, &["rev-parse", "--quiet", "--verify", "HEAD"])
        .is_ok()
    {
        return Ok(true);
    }
    let branches = git.say(directory, &["for-each-ref", "--format=%(refname)", "refs/heads"])?;
    let branches: Vec<&str> = branches.lines().collect();
    let branch = match branches[..] {
        [only] => Some(only),
        _ => USUAL.into_iter().find(|usual| branches.contains(usual)),
    };
    let Some(branch) = branch else { return Ok(false) };
    if let Some(copy) = place::working_copy(directory) {
        git.say_in(Some(copy), directory, &["read-tree", "-m", "-u", branch])?;
    }
    git.say(directory, &["symbolic-ref", "HEAD", branch])?;
    Ok(true)
}
