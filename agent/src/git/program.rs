//! Finds the container's git and runs it. It starts processes by the standard library, which is safe here: `podbridge-agent git` is a
//! process of its own, without the reaper. The other files of this module call it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, access};

use super::Error;
use super::owner::Owner;
use crate::env;
use crate::sys::lookup;

/// The git program of the container.
#[derive(Debug)]
pub(super) struct Git {
    program: PathBuf,
    /// PATH for git, which looks up itself there when it runs its own helpers. Empty: PATH is not set.
    path: OsString,
    owner: Owner,
}

impl Git {
    /// Finds git in PATH or in the agent's own directory.
    pub(super) fn find() -> Result<Self, Error> {
        let own_directory = lookup::own_directory();
        let candidates = lookup::candidates(c"git", &env::variables(), own_directory.as_deref());
        let mut paths = candidates
            .into_iter()
            .map(|path| PathBuf::from(OsString::from_vec(path.into_bytes())));
        let Some(program) = paths.find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok()) else {
            return Err(Error::NoGit { own_directory });
        };
        let mut path = env::variable(env::PATH).unwrap_or_default();
        if let Some(own) = own_directory.filter(|own| program.parent() == Some(own) && !path.is_empty()) {
            path.push(":");
            path.push(own);
        }
        Ok(Self {
            program,
            path,
            owner: Owner::default(),
        })
    }

    /// Returns git for the repositories of an owner.
    pub(super) fn of(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if !self.path.is_empty() {
            command.env("PATH", &self.path);
        }
        if let Some(home) = &self.owner.home {
            command.env("HOME", home);
        }
        // Git refuses repositories of other users, root's included.
        for directory in &self.owner.safe_directories {
            let mut setting = OsString::from("safe.directory=");
            setting.push(directory);
            command.arg("-c").arg(setting);
        }
        command
    }

    /// Replaces this process by the service; returns only if that fails.
    pub(super) fn replace(&self, service: &str, repository: &Path) -> Error {
        self.cannot_run(self.command().arg(service).arg(repository).exec())
    }

    /// Runs the service on this process's standard streams until it ends; returns its exit code, 128 + N after signal N.
    pub(super) fn run(&self, service: &str, repository: &Path) -> Result<u8, Error> {
        let status = self.command().arg(service).arg(repository).status();
        let status = status.map_err(|source| self.cannot_run(source))?;
        let signal = || status.signal().map(|number| 128 + number);
        Ok(status.code().or_else(signal).unwrap_or(1) as u8)
    }

    /// Runs git on the repository in `directory`; returns its output, or `Err` with its error message.
    pub(super) fn output(&self, directory: &Path, arguments: &[&str]) -> Result<String, String> {
        self.output_in_copy(None, directory, arguments)
    }

    /// Like `output`, with a working copy, which becomes the current directory.
    pub(super) fn output_in_copy(
        &self,
        copy: Option<&Path>,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<String, String> {
        let mut command = self.command();
        command.env("GIT_DIR", directory).args(arguments).stdin(Stdio::null());
        if let Some(copy) = copy {
            command.env("GIT_WORK_TREE", copy).current_dir(copy);
        }
        let output = command.output().map_err(|source| self.cannot_run(source).to_string())?;
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    fn cannot_run(&self, source: std::io::Error) -> Error {
        Error::CannotRun {
            program: self.program.clone(),
            source,
        }
    }
}
