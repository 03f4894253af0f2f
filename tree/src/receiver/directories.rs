//! OpenDirectories on their way: the root, those that are made or entered, and their own attributes after all that is in them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{DirBuilder, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::rc::Rc;

use podbridge_proto::v1::{TreeAttribute, TreeChangeKind, TreeEntry};
use rustix::fs::{AtFlags, FileType, Mode, fstat, fsync, mkdirat, unlinkat};
use rustix::io::Errno;

use super::Receiver;
use crate::attributes::{Attributes, PERMISSION_BITS, kind, unlock};
use crate::directory::Directory;
use crate::error::{Error, reason};
use crate::wire::MAX_DEPTH;
use crate::xattrs;

/// Unfinished ones at a time: the deepest way and those that wait for contents.
const MAX_OPEN: usize = 131_072;
/// Bytes of names in one directory, which are held to know what to remove.
const MAX_NAMES: usize = 256 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Present,
    /// Made by us: nothing is in it.
    New,
    /// It would be made.
    Absent,
    /// It could not be made or entered, as was said; what is in it is passed over.
    Broken,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) directory: Rc<Directory>,
    pub(super) place: Place,
    parent: Option<u64>,
    /// `None`: it is none of the tree.
    attributes: Option<Attributes>,
    /// What it had when it was entered, if that differed.
    differed: Option<Vec<TreeAttribute>>,
    /// Its own end, directories in it, and files that have not come.
    waiting: usize,
    ended: bool,
    names: HashSet<Box<[u8]>>,
    names_size: usize,
}

impl Open {
    fn new(directory: Rc<Directory>, place: Place, parent: Option<u64>, attributes: Option<Attributes>) -> Self {
        Self {
            directory,
            place,
            parent,
            attributes,
            differed: None,
            waiting: 1,
            ended: false,
            names: HashSet::new(),
            names_size: 0,
        }
    }
}

enum Entered {
    Made(Place, TreeChangeKind),
    /// With this mode; if need be it has another one until it is finished.
    Found(u32),
    Broken,
}

/// What is copied is nobody else's to see before it has its own mode.
fn create(path: &Path, is_of_the_tree: bool) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if is_of_the_tree => {
            std::fs::create_dir_all(parent)?;
            DirBuilder::new().mode(0o700).create(path)
        }
        _ => std::fs::create_dir_all(path),
    }
}

/// Makes it a directory that we may enter and change, if it is ours; the mode that it had.
fn unlock_root(path: &Path) -> Option<u32> {
    let found = std::fs::metadata(path).ok()?;
    if found.mode() & 0o700 != 0o700 {
        // What cannot be done there will be said.
        let _ = std::fs::set_permissions(path, Permissions::from_mode(found.mode() & PERMISSION_BITS | 0o700));
    }
    Some(found.mode())
}

impl<W: Write> Receiver<'_, W> {
    /// `entry` is absent if the tree is no directory.
    pub(super) fn begin(&mut self, destination: &Path, entry: Option<TreeEntry>) -> Result<(), Error> {
        let failed = |why: String| {
            let shown = crate::escape_for_terminal(destination.as_os_str().as_bytes());
            Error::Local(format!("{shown} cannot be written: {why}"))
        };
        let path = match entry {
            Some(_) => destination,
            None if destination.is_dir() || destination.as_os_str().as_bytes().ends_with(b"/") => {
                self.single = Some([].into());
                destination
            }
            None => {
                let name = destination.file_name().map(OsStr::as_bytes);
                self.single = Some(name.ok_or_else(|| failed("it names no file".into()))?.into());
                let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
                parent.unwrap_or(Path::new("."))
            }
        };
        let is_new = !path.is_dir();
        let place = match (is_new, self.options.dry_run) {
            (true, true) => Place::Absent,
            (true, false) => Place::New,
            (false, _) => Place::Present,
        };
        if path.exists() && is_new {
            return Err(failed(
                "it is no directory, and what is copied is one; remove it first".into(),
            ));
        }
        let mut mode = None;
        match place {
            Place::New => create(path, entry.is_some()).map_err(|error| failed(podbridge_files::reason(&error)))?,
            Place::Present if !self.root && !self.options.dry_run => mode = unlock_root(path),
            _ => {}
        }
        let directory = match place {
            // It is never entered.
            Place::Absent => Directory::root(Path::new("/")),
            _ => Directory::root(path),
        };
        let directory = directory.map_err(|errno| failed(reason(errno)))?;
        let attributes = entry.map(|entry| self.attributes(&entry));
        let mut open = Open::new(directory.clone(), place, None, attributes);
        if place == Place::Present {
            open.differed = self
                .difference(&directory, b".", open.attributes.as_ref(), mode)
                .map_err(|errno| failed(reason(errno)))?;
        } else if open.attributes.is_some() {
            self.changed(TreeChangeKind::New, &directory, b"")?;
        }
        self.open.insert(0, open);
        Ok(())
    }

    /// The extended attributes that it has, if it differs. `mode`: what it had before it was made one that we may change.
    fn difference(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
        attributes: Option<&Attributes>,
        mode: Option<u32>,
    ) -> Result<Option<Vec<TreeAttribute>>, Errno> {
        let Some(attributes) = attributes else {
            return Ok(None);
        };
        let descriptor = self.directories.open(directory)?;
        let have = xattrs::read(&descriptor, name, self.root)?;
        let mut stat = fstat(&descriptor)?;
        stat.st_mode = mode.unwrap_or(stat.st_mode);
        Ok(attributes.differ(&stat, &have).then_some(have))
    }

    /// The directory that an entry is in, which has one name more.
    pub(super) fn parent(&mut self, number: u64, name: &[u8]) -> Result<&mut Open, Error> {
        let open = self.open.get_mut(&number).filter(|open| !open.ended);
        let open = open.ok_or(Error::Protocol("an entry is in a directory that was not announced"))?;
        if self.options.delete {
            open.names_size += name.len() + size_of::<Box<[u8]>>();
            if open.names_size > MAX_NAMES {
                return Err(Error::Protocol("a directory has too many names"));
            }
            open.names.insert(name.into());
        }
        Ok(open)
    }

    pub(super) fn directory(&mut self, number: u64, entry: &TreeEntry) -> Result<(), Error> {
        if self.single.is_some() {
            return Err(Error::Protocol("a single entry is a directory"));
        }
        let parent = self.parent(entry.directory, &entry.name)?;
        let (above, place) = (parent.directory.clone(), parent.place);
        parent.waiting += 1;
        if above.depth() >= MAX_DEPTH || self.open.len() >= MAX_OPEN {
            return Err(Error::Protocol("there are too many directories in one another"));
        }
        let child = above.child(&entry.name);
        let attributes = self.attributes(entry);
        self.keep_attributes(&attributes)?;
        let entered = match place {
            Place::Broken => Ok(Entered::Broken),
            Place::Absent => Ok(Entered::Made(Place::Absent, TreeChangeKind::New)),
            Place::New | Place::Present => self.enter(&above, &child, &entry.name, place),
        };
        let (place, change, mode) = match entered {
            Ok(Entered::Made(place, change)) => (place, Some(change), None),
            Ok(Entered::Found(mode)) => (Place::Present, None, Some(mode)),
            Ok(Entered::Broken) => (Place::Broken, None, None),
            Err(errno) => {
                self.refused(&above, &entry.name, "make or enter it", errno)?;
                (Place::Broken, None, None)
            }
        };
        let mut open = Open::new(child.clone(), place, Some(entry.directory), Some(attributes));
        if let Some(change) = change {
            self.changed(change, &above, &entry.name)?;
        } else if place == Place::Present {
            open.differed = self
                .difference(&child, b".", open.attributes.as_ref(), mode)
                .unwrap_or(Some(Vec::new()));
        }
        self.open.insert(number, open);
        Ok(())
    }

    fn enter(
        &mut self,
        above: &Rc<Directory>,
        child: &Rc<Directory>,
        name: &[u8],
        place: Place,
    ) -> Result<Entered, Errno> {
        let descriptor = self.directories.open(above)?;
        let change = match self.existing(above, name, place)? {
            Some(stat) if kind(stat.st_mode) == FileType::Directory => {
                if !self.root && stat.st_mode & 0o700 != 0o700 && !self.options.dry_run {
                    // Its own attributes come when it is finished.
                    unlock(&descriptor, name, stat.st_mode)?;
                }
                self.directories.open(child)?;
                return Ok(Entered::Found(stat.st_mode));
            }
            Some(_) => TreeChangeKind::Changed,
            None => TreeChangeKind::New,
        };
        if self.options.dry_run {
            return Ok(Entered::Made(Place::Absent, change));
        }
        if change == TreeChangeKind::Changed {
            unlinkat(&descriptor, name, AtFlags::empty())?;
        }
        mkdirat(&descriptor, name, Mode::RWXU)?;
        self.directories.open(child)?;
        Ok(Entered::Made(Place::New, change))
    }

    pub(super) fn directory_end(&mut self, number: u64, incomplete: bool) -> Result<(), Error> {
        let open = self.open.get_mut(&number).filter(|open| !open.ended);
        let open = open.ok_or(Error::Protocol("a directory ended that was not announced"))?;
        open.ended = true;
        let names = std::mem::take(&mut open.names);
        if self.options.delete && !incomplete && open.place == Place::Present && open.attributes.is_some() {
            let directory = open.directory.clone();
            self.remove_others(&directory, &names)?;
        }
        self.release(number)
    }

    /// One more that waits for something in this directory.
    pub(super) fn hold(&mut self, number: u64) {
        if let Some(open) = self.open.get_mut(&number) {
            open.waiting += 1;
        }
    }

    /// One less; the last one finishes the directory, and that may be the last one of the directory above.
    pub(super) fn release(&mut self, number: u64) -> Result<(), Error> {
        let mut next = Some(number);
        while let Some(number) = next {
            let Some(open) = self.open.get_mut(&number) else {
                return Ok(());
            };
            open.waiting -= 1;
            if open.waiting > 0 {
                return Ok(());
            }
            next = open.parent;
            if let Some(open) = self.open.remove(&number) {
                self.held -= open.parent.and(open.attributes.as_ref()).map_or(0, Attributes::size);
                self.finish(&open)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, open: &Open) -> Result<(), Error> {
        if matches!(open.place, Place::Absent | Place::Broken) {
            return Ok(());
        }
        if !self.options.dry_run
            && let Err((operation, errno)) = self.give_directory(open)
        {
            return self.refused(&open.directory, b"", operation, errno);
        }
        match open.differed {
            Some(_) => self.changed(TreeChangeKind::Attributes, &open.directory, b""),
            None => Ok(()),
        }
    }

    fn give_directory(&mut self, open: &Open) -> Result<(), crate::attributes::StepError> {
        let descriptor = self
            .directories
            .open(&open.directory)
            .map_err(|errno| ("enter it", errno))?;
        if let Some(attributes) = &open.attributes {
            // What was put into it has changed its time.
            let have = match (&open.differed, open.place) {
                (Some(have), _) => have,
                (None, Place::New) => &Vec::new(),
                (None, _) => &attributes.xattrs,
            };
            let stat = fstat(&descriptor).map_err(|errno| ("examine it", errno))?;
            if attributes.differ(&stat, have) {
                attributes.change(&descriptor, have)?;
            }
        }
        match self.options.fsync {
            true => fsync(&descriptor).map_err(|errno| ("sync it", errno)),
            false => Ok(()),
        }
    }
}
