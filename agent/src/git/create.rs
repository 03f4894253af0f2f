//! Makes a new repository: completely or not at all, and once for all pushes that arrive at the same moment. Never changes an existing
//! repository. `git::serve` calls it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Error;
use super::cache::CachedRepository;
use super::layout::{self, UNBORN, UNFINISHED};
use super::program::Git;

/// Time limit to get the lock. Making a repository takes far less time.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two attempts to get the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);
/// Branch of HEAD until a branch is pushed, unless a cached repository has another one.
const FIRST_BRANCH: &str = "master";

/// Makes a repository; `directory` is the directory of git's own files.
pub(super) fn create_repository(git: &Git, directory: &Path, cached: Option<&CachedRepository>) -> Result<(), Error> {
    let failed = |source| Error::Create {
        path: directory.to_owned(),
        source,
    };
    // An empty directory stays, and the files move into it: it may be a mount point, or its parent may belong to another user.
    let exists = directory.is_dir();
    let workspace = if exists {
        directory
    } else {
        directory.parent().unwrap_or(Path::new("/"))
    };
    let new_directories = make_directories(workspace).map_err(failed)?;
    let result = lock(workspace).map_err(failed).and_then(|_lock| {
        if is_finished(directory) {
            return Ok(());
        }
        let unfinished = workspace.join(UNFINISHED);
        let completed = remove_all(&unfinished)
            // Where everybody may make files, another user may have made this one meanwhile.
            .and_then(|()| DirBuilder::new().mode(0o755).create(&unfinished))
            .map_err(failed)
            .and_then(|()| fill(git, &unfinished, directory, cached))
            .and_then(|()| {
                let moved = if exists {
                    move_into(&unfinished, directory)
                } else {
                    fs::rename(&unfinished, directory)
                };
                moved.map_err(failed)
            });
        if completed.is_err() {
            // The first failure is the one that the user must read, so an error here is ignored.
            let _ = fs::remove_dir_all(&unfinished);
        }
        completed
    });
    if result.is_err() {
        // Directories that another process uses by now are not empty: their removal fails.
        for directory in new_directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
    result
}

/// Makes the complete repository in `unfinished`, which becomes `directory`.
fn fill(git: &Git, unfinished: &Path, directory: &Path, cached: Option<&CachedRepository>) -> Result<(), Error> {
    let branch = cached
        .and_then(|cached| cached.branch.as_deref())
        .unwrap_or(FIRST_BRANCH);
    // A setting, because old versions of git have no option for it. Without the setting, git prints a long hint about branch names.
    let branch = format!("init.defaultBranch={branch}");
    let made = git.output(unfinished, &["-c", &branch, "init", "--quiet", "--bare"]);
    let made = made.and_then(|_| match layout::working_copy(directory) {
        Some(_) => enable_checkout_on_push(git, unfinished),
        None => Ok(()),
    });
    made.map_err(|message| Error::Init {
        path: directory.to_owned(),
        message,
    })?;
    let mut written = fs::write(unfinished.join(UNBORN), "");
    if let Some(cached) = cached {
        let mut line = cached.objects.clone().into_os_string().into_encoded_bytes();
        line.push(b'\n');
        written = written.and_then(|()| fs::write(unfinished.join("objects/info/alternates"), line));
    }
    written.map_err(|source| Error::Create {
        path: directory.to_owned(),
        source,
    })
}

/// Moves the files of a repository. HEAD comes last: without it, git sees no repository.
fn move_into(unfinished: &Path, directory: &Path) -> io::Result<()> {
    let names = fs::read_dir(unfinished)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_by_key(|name| name == "HEAD");
    for name in names {
        fs::rename(unfinished.join(&name), directory.join(&name))?;
    }
    fs::remove_dir(unfinished)
}

/// Makes git check out every push to the current branch, unless a file in the working copy was changed.
fn enable_checkout_on_push(git: &Git, unfinished: &Path) -> Result<(), String> {
    for [name, value] in [["core.bare", "false"], ["receive.denyCurrentBranch", "updateInstead"]] {
        git.output(unfinished, &["config", name, value])?;
    }
    Ok(())
}

/// Makes the directory and its parents; returns those that did not exist before.
fn make_directories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let missing = directory.ancestors().take_while(|path| !path.exists());
    let mut missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
    missing.reverse();
    fs::create_dir_all(directory)?;
    Ok(missing)
}

/// Locks the directory against other processes that make a repository there. The lock ends with the file, even after SIGKILL.
fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => sleep(LOCK_INTERVAL),
            // Everybody who may read the directory can lock it. Two pushes at once make the repository twice, and one of them fails.
            Err(Errno::WOULDBLOCK) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Returns whether the directory has a complete repository.
fn is_finished(directory: &Path) -> bool {
    let is_other = |entry: fs::DirEntry| entry.file_name() != UNFINISHED;
    fs::read_dir(directory).is_ok_and(|entries| entries.flatten().any(is_other))
}

/// Removes what a killed process has left; success if nothing is there.
fn remove_all(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
