//! Where a file is: an open directory and a name in it, so that what is done to the file is done there, whoever moves or
//! replaces directories meanwhile. Below a root no symbolic link is followed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::Error;

/// As the kernel follows.
const MAX_LINKS: usize = 40;

/// What a caller calls a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// The path leads from here, and not out of it.
    pub root: Option<PathBuf>,
    pub path: PathBuf,
}

#[derive(Debug)]
pub(super) struct ResolvedPath {
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
    /// For messages.
    pub(super) path: PathBuf,
}

impl ResolvedPath {
    /// Where the file is written: without a root, where a last symbolic link leads.
    pub(super) fn for_writing(location: &Location) -> Result<Self, Error> {
        let place = match &location.root {
            Some(root) => Self::below_root(root, &location.path),
            None => Self::following_links(&location.path),
        }?;
        place.check_trailing_slash(&location.path)?;
        Ok(place)
    }

    pub(super) fn below_root(root: &Path, path: &Path) -> Result<Self, Error> {
        let outside = || Error::NotBelowRoot(path.to_owned());
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(outside()),
            }
        }
        let name = names.pop().ok_or_else(outside)?;
        let mut directory = open_directory(root).map_err(Error::system("open it", root))?;
        let mut walked = root.to_owned();
        for name in names {
            walked.push(name);
            directory = step(&directory, name, &walked)?;
        }
        Ok(Self {
            directory,
            name: name.to_owned(),
            path: root.join(path),
        })
    }

    fn following_links(path: &Path) -> Result<Self, Error> {
        let path = follow(path)?;
        let Some(name) = path.file_name() else {
            return Err(Error::system("write it", &path)(Errno::ISDIR.into()));
        };
        let name = name.to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = open_directory(parent).map_err(Error::system("write it", &path))?;
        Ok(Self { directory, name, path })
    }

    /// A name with a slash at its end says that it is a directory.
    fn check_trailing_slash(&self, path: &Path) -> Result<(), Error> {
        if !path.as_os_str().as_bytes().ends_with(b"/") {
            return Ok(());
        }
        let errno = match self.stat() {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Errno::ISDIR,
            Some(_) => Errno::NOTDIR,
            None => Errno::NOENT,
        };
        Err(Error::system("write it", &self.path)(errno.into()))
    }

    /// What is there; of a symbolic link, the link.
    pub(super) fn stat(&self) -> Option<Stat> {
        statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// One directory further. What is there is opened first and looked at then, so that nobody can exchange it in between.
fn step(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, Error> {
    let failed = |errno: Errno| Error::system("open it", path)(errno.into());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty()).map_err(failed)?;
    match FileType::from_raw_mode(fstat(&opened).map_err(failed)?.st_mode) {
        FileType::Directory => Ok(opened),
        FileType::Symlink => Err(Error::SymbolicLink(path.to_owned())),
        _ => Err(failed(Errno::NOTDIR)),
    }
}

/// Where a write through `path` would go: symbolic links stay, and what they name is replaced.
fn follow(path: &Path) -> Result<PathBuf, Error> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(link) => path = path.parent().unwrap_or(Path::new("/")).join(link),
            Err(_) => return Ok(path),
        }
    }
    Err(Error::system("write it", &path)(Errno::LOOP.into()))
}
