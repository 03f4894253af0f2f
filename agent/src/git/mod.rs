//! Git's own programs, run in the pod for a client that pushes or fetches: a repository that is pushed to is made first if it is
//! not there. Knows no gRPC: its standard streams are git's. `commands::git` calls it.

mod cache;
mod create;
mod error;
mod head;
mod layout;
mod program;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

pub(crate) use error::Error;
use program::Git;

/// What a client may ask for, as git names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    ReceivePack,
    UploadPack,
    UploadArchive,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::ReceivePack => "receive-pack",
            Service::UploadPack => "upload-pack",
            Service::UploadArchive => "upload-archive",
        }
    }
}

/// Becomes the service, or is its parent for the push that gives a new repository its first branch: then its exit code.
pub(crate) fn serve(service: Service, caches: &[PathBuf], path: &Path) -> Result<u8, Error> {
    let git = Git::find()?;
    let path = layout::absolute_path(path)?;
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
