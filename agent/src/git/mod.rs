//! Runs git's own programs in the pod for a client that pushes or fetches. A push to a repository that does not exist makes the repository
//! first. This domain knows no gRPC: git talks on the standard streams. `commands::git` calls it, in a process of its own.

mod cache;
mod create;
mod error;
mod head;
mod layout;
mod owner;
mod program;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

pub(crate) use error::Error;
use program::Git;

/// Git programs that a client may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    ReceivePack,
    UploadPack,
    UploadArchive,
}

impl Service {
    /// Returns the name that git knows the program by.
    fn name(self) -> &'static str {
        match self {
            Service::ReceivePack => "receive-pack",
            Service::UploadPack => "upload-pack",
            Service::UploadArchive => "upload-archive",
        }
    }
}

/// Runs the service on a repository. Usually this process becomes the service, and the call returns only an error. If HEAD has no commit
/// yet, the service runs as a child, HEAD is set afterwards, and the call returns the exit code.
pub(crate) fn serve(service: Service, caches: &[PathBuf], path: &Path) -> Result<u8, Error> {
    let path = layout::absolute_path(path)?;
    let git = Git::find()?.of(owner::become_owner(&path)?);
    if service != Service::ReceivePack {
        return Err(git.replace(service.name(), &path));
    }
    let directory = layout::git_directory(&path);
    if !layout::is_occupied(&path) {
        create::create_repository(&git, &directory, cache::find(caches, &path).as_ref())?;
    }
    let Some(unborn) = head::open_unborn_marker(&directory) else {
        return Err(git.replace(service.name(), &path));
    };
    let code = git.run(service.name(), &path)?;
    if code == 0 {
        head::adopt_pushed_branch(&git, &directory, &unborn);
    }
    Ok(code)
}
