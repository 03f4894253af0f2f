//! A new repository, whole or not at all, once for all who push to it at the same moment. Existing ones are never touched.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Error;
use super::cache::CachedRepository;
use super::layout::{self, UNBORN, UNFINISHED};
use super::program::Git;

/// HEAD until a branch is pushed, if no cache knows better.
const FIRST_BRANCH: &str = "master";

/// Makes the repository whose own files are to be `directory`.
pub(super) fn create_repository(git: &Git, directory: &Path, cached: Option<&CachedRepository>) -> Result<(), Error> {
    let failed = |source| Error::Create {
        path: directory.to_owned(),
        source,
    };
    // An empty directory may be a mount point, or in one of somebody else's: it stays, and what it gets is moved into it.
    let is_there = directory.is_dir();
    let around = match is_there {
        true => directory,
        false => directory.parent().unwrap_or(Path::new("/")),
    };
    let made = make_directories(around).map_err(failed)?;
    let result = lock(around).map_err(failed).and_then(|_lock| {
        if is_finished(directory) {
            return Ok(());
        }
        let unfinished = around.join(UNFINISHED);
        let finished = remove_all(&unfinished)
            .map_err(failed)
            .and_then(|()| fill(git, &unfinished, directory, cached))
            .and_then(|()| match is_there {
                true => move_into(&unfinished, directory).map_err(failed),
                false => fs::rename(&unfinished, directory).map_err(failed),
            });
        if finished.is_err() {
            // Whatever failed is what the user hears of.
            let _ = fs::remove_dir_all(&unfinished);
        }
        finished
    });
    if result.is_err() {
        // Those that somebody else uses are not empty, and stay.
        for directory in made.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
    result
}

fn fill(git: &Git, unfinished: &Path, directory: &Path, cached: Option<&CachedRepository>) -> Result<(), Error> {
    let branch = cached
        .and_then(|cached| cached.branch.as_deref())
        .unwrap_or(FIRST_BRANCH);
    // By a setting, as older ones know no option for it; without it, git explains branch names at length.
    let branch = format!("init.defaultBranch={branch}");
    let message = git.output(unfinished, &["-c", &branch, "init", "--quiet", "--bare"]);
    let message = message.and_then(|_| match layout::working_copy(directory) {
        Some(_) => enable_checkout_on_push(git, unfinished),
        None => Ok(()),
    });
    message.map_err(|message| Error::Init {
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

/// HEAD comes last: without it, it is no repository.
fn move_into(unfinished: &Path, directory: &Path) -> io::Result<()> {
    let names = fs::read_dir(unfinished)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_by_key(|name| name == "HEAD");
    for name in names {
        fs::rename(unfinished.join(&name), directory.join(&name))?;
    }
    fs::remove_dir(unfinished)
}

/// Pushes reach the working copy, unless something in it was changed.
fn enable_checkout_on_push(git: &Git, unfinished: &Path) -> Result<(), String> {
    for [name, value] in [["core.bare", "false"], ["receive.denyCurrentBranch", "updateInstead"]] {
        git.output(unfinished, &["config", name, value])?;
    }
    Ok(())
}

/// Those that were not there before.
fn make_directories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let missing = directory.ancestors().take_while(|path| !path.exists());
    let mut missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
    missing.reverse();
    fs::create_dir_all(directory)?;
    Ok(missing)
}

/// Against others that make a repository there; it ends with the file, also by a kill.
fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

fn is_finished(directory: &Path) -> bool {
    let named = |entry: fs::DirEntry| entry.file_name() != UNFINISHED;
    fs::read_dir(directory).is_ok_and(|entries| entries.flatten().any(named))
}

/// What one that was killed has left.
fn remove_all(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
