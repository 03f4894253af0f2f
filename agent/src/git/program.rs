//! The pod's git: found, and run. The only place here that starts a process; it runs in a process of its own, not in the one
//! that has the reaper.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, access};

use super::Error;
use crate::env;
use crate::sys::lookup;

#[derive(Debug)]
pub(super) struct Git {
    program: PathBuf,
    /// Git looks up itself when it runs its own helpers.
    path: OsString,
}

impl Git {
    pub(super) fn find() -> Result<Self, Error> {
        let beside = lookup::own_directory().unwrap_or_default();
        let candidates = lookup::candidates(c"git", &env::variables(), Some(&beside));
        let mut paths = candidates
            .into_iter()
            .map(|path| PathBuf::from(OsString::from_vec(path.into_bytes())));
        let Some(program) = paths.find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok()) else {
            return Err(Error::NoGit { beside });
        };
        let mut path = env::variable(env::PATH).unwrap_or_default();
        if program.parent() == Some(&beside) && !path.is_empty() {
            path.push(":");
            path.push(&beside);
        }
        Ok(Self { program, path })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if !self.path.is_empty() {
            command.env("PATH", &self.path);
        }
        // Whoever may run commands here asked for this very repository, and a cache is often root's: that another user owns one
        // is no reason to refuse it.
        command.arg("-c").arg("safe.directory=*");
        command
    }

    /// Becomes the service; returns only if that fails.
    pub(super) fn replace(&self, service: &str, repository: &Path) -> Error {
        self.cannot_run(self.command().arg(service).arg(repository).exec())
    }

    /// The service with our own streams, to its end: its exit code.
    pub(super) fn run(&self, service: &str, repository: &Path) -> Result<u8, Error> {
        let status = self.command().arg(service).arg(repository).status();
        let status = status.map_err(|source| self.cannot_run(source))?;
        let signal = || status.signal().map(|number| 128 + number);
        Ok(status.code().or_else(signal).unwrap_or(1) as u8)
    }

    /// What git prints about the repository in `directory`, or what it says is wrong.
    pub(super) fn output(&self, directory: &Path, words: &[&str]) -> Result<String, String> {
        self.output_in_copy(None, directory, words)
    }

    /// The same with a working copy, which is the current directory then.
    pub(super) fn output_in_copy(
        &self,
        copy: Option<&Path>,
        directory: &Path,
        words: &[&str],
    ) -> Result<String, String> {
        let mut command = self.command();
        command.env("GIT_DIR", directory).args(words).stdin(Stdio::null());
        if let Some(copy) = copy {
            command.env("GIT_WORK_TREE", copy).current_dir(copy);
        }
        let output = command.output().map_err(|source| self.cannot_run(source).to_string())?;
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    fn cannot_run(&self, source: std::io::Error) -> Error {
        Error::CannotRun {
            program: self.program.clone(),
            source,
        }
    }
}
