//! Resolves a path to an open directory and a name in it: later calls act in that directory even if another process moves or
//! replaces directories meanwhile. Below a root no symbolic link is followed. `get`, `put` and `stat` call it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::Error;

/// Limit of symbolic links in a row; the kernel has the same.
const MAX_LINKS: usize = 40;
/// Mode bits of a directory such as /tmp: the sticky bit, and everybody may write.
const STICKY_FOR_ALL: u32 = 0o1002;

/// Path of a file as the client names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// Absolute directory that `path` must stay below; `None`: no restriction.
    pub root: Option<PathBuf>,
    pub path: PathBuf,
}

/// A file as its open directory and its name there; the file itself may be absent.
#[derive(Debug)]
pub(super) struct ResolvedPath {
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
    /// Whole path, for error messages.
    pub(super) path: PathBuf,
}

impl ResolvedPath {
    /// Resolves the target of a write. Without a root, a symbolic link at the end of the path is followed.
    pub(super) fn for_writing(location: &Location) -> Result<Self, Error> {
        let resolved = match &location.root {
            Some(root) => Self::below_root(root, &location.path),
            None => Self::following_links(&location.path),
        }?;
        resolved.check_trailing_slash(&location.path)?;
        Ok(resolved)
    }

    /// Opens each directory between the root and the file; an error if one is a symbolic link.
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
        let mut parent = root.to_owned();
        for name in names {
            parent.push(name);
            directory = open_child(&directory, name, &parent)?;
        }
        Ok(Self {
            directory,
            name: name.to_owned(),
            path: root.join(path),
        })
    }

    /// Resolves a path whose last component may be a symbolic link: the link stays, and its target is replaced.
    fn following_links(path: &Path) -> Result<Self, Error> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let Some(name) = path.file_name() else {
                return Err(Error::system("write it", &path)(Errno::ISDIR.into()));
            };
            let name = name.to_owned();
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let directory = open_directory(parent).map_err(Error::system("write it", &path))?;
            let resolved = Self { directory, name, path };
            match resolved.link()? {
                Some(target) => path = resolved.path.parent().unwrap_or(Path::new("/")).join(target),
                None => return Ok(resolved),
            }
        }
        Err(Error::system("write it", &path)(Errno::LOOP.into()))
    }

    /// Returns the target if this is a symbolic link. `Err` if another user has put the link there.
    fn link(&self) -> Result<Option<PathBuf>, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(link) = openat(&self.directory, &self.name, flags, Mode::empty()) else {
            return Ok(None);
        };
        let Ok(target) = readlinkat(&link, "", Vec::new()) else {
            return Ok(None);
        };
        let stat = fstat(&link).map_err(|errno| Error::system("write it", &self.path)(errno.into()))?;
        self.check_owner(&stat, None)?;
        Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes()))))
    }

    /// Refuses what another user has put into a directory where everybody may make files: its maker would choose what is written, or get
    /// to read it. Sets the kernel's rules (protected_symlinks, protected_regular) also where the node does not have them. `user` may own
    /// the file as well.
    pub(super) fn check_owner(&self, stat: &Stat, user: Option<u32>) -> Result<(), Error> {
        let directory = fstat(&self.directory).map_err(|errno| Error::system("write it", &self.path)(errno.into()))?;
        let is_for_all = directory.st_mode & STICKY_FOR_ALL == STICKY_FOR_ALL;
        let trusted = [Some(geteuid().as_raw()), Some(directory.st_uid), user];
        if is_for_all && !trusted.contains(&Some(stat.st_uid)) {
            return Err(Error::Foreign {
                path: self.path.clone(),
                owner: stat.st_uid,
            });
        }
        Ok(())
    }

    /// Refuses a path that ends with a slash: it names a directory, and a write needs a file.
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

    /// Returns the attributes of the file; of a symbolic link, those of the link. `None`: it is absent or out of reach.
    pub(super) fn stat(&self) -> Option<Stat> {
        statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Opens a directory in `directory`. It is opened first and checked afterwards, so that no process can exchange it in between.
fn open_child(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, Error> {
    let failed = |errno: Errno| Error::system("open it", path)(errno.into());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(directory, name, flags, Mode::empty()).map_err(failed)?;
    match FileType::from_raw_mode(fstat(&opened).map_err(failed)?.st_mode) {
        FileType::Directory => Ok(opened),
        FileType::Symlink => Err(Error::SymbolicLink(path.to_owned())),
        _ => Err(failed(Errno::NOTDIR)),
    }
}
