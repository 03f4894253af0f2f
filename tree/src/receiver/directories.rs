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
use crate::attributes::{Attributes, PERMISSION_BITS, file_type, make_accessible};
use crate::directory::Directory;
use crate::error::{Error, reason};
use crate::wire::MAX_DEPTH;
use crate::xattrs;

/// Unfinished ones at a time: the deepest way and those that wait for contents.
const MAX_UNFINISHED: usize = 131_072;
/// Bytes of names in one directory, which are held to know what to remove.
const MAX_NAME_BYTES: usize = 256 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DirectoryState {
    Present,
    /// Made by us: nothing is in it.
    New,
    /// It would be made.
    Absent,
    /// It could not be made or entered, as was said; what is in it is passed over.
    Broken,
}

#[derive(Debug)]
pub(super) struct UnfinishedDirectory {
    pub(super) directory: Rc<Directory>,
    pub(super) state: DirectoryState,
    parent: Option<u64>,
    /// `None`: it is none of the tree.
    attributes: Option<Attributes>,
    /// What it had when it was entered, if that previous_xattrs.
    previous_xattrs: Option<Vec<TreeAttribute>>,
    /// Its own end, directories in it, and files that have not come.
    waiting: usize,
    ended: bool,
    names: HashSet<Box<[u8]>>,
    names_size: usize,
}

impl UnfinishedDirectory {
    fn new(
        directory: Rc<Directory>,
        state: DirectoryState,
        parent: Option<u64>,
        attributes: Option<Attributes>,
    ) -> Self {
        Self {
            directory,
            state,
            parent,
            attributes,
            previous_xattrs: None,
            waiting: 1,
            ended: false,
            names: HashSet::new(),
            names_size: 0,
        }
    }
}

enum EnterResult {
    Made(DirectoryState, TreeChangeKind),
    /// With this mode; if difference be it has another one until it is finished.
    Found(u32),
    Broken,
}

/// What is copied is nobody else's to see before it has its own mode.
fn create_root(path: &Path, is_of_the_tree: bool) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if is_of_the_tree => {
            std::fs::create_dir_all(parent)?;
            DirBuilder::new().mode(0o700).create(path)
        }
        _ => std::fs::create_dir_all(path),
    }
}

/// Makes it a directory that we may enter and change, if it is ours; the mode that it had.
fn make_root_accessible(path: &Path) -> Option<u32> {
    let found = std::fs::metadata(path).ok()?;
    if found.mode() & 0o700 != 0o700 {
        // What cannot be done there will be said.
        let _ = std::fs::set_permissions(path, Permissions::from_mode(found.mode() & PERMISSION_BITS | 0o700));
    }
    Some(found.mode())
}

impl<W: Write> Receiver<'_, W> {
    /// `entry` is absent if the tree is no directory.
    pub(super) fn begin_root(&mut self, destination: &Path, entry: Option<TreeEntry>) -> Result<(), Error> {
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
        let state = match (is_new, self.options.dry_run) {
            (true, true) => DirectoryState::Absent,
            (true, false) => DirectoryState::New,
            (false, _) => DirectoryState::Present,
        };
        if path.exists() && is_new {
            return Err(failed(
                "it is no directory, and what is copied is one; remove it first".into(),
            ));
        }
        let mut mode = None;
        match state {
            DirectoryState::New => {
                create_root(path, entry.is_some()).map_err(|error| failed(podbridge_files::reason(&error)))?
            }
            DirectoryState::Present if !self.is_root && !self.options.dry_run => mode = make_root_accessible(path),
            _ => {}
        }
        let directory = match state {
            // It is never entered.
            DirectoryState::Absent => Directory::root(Path::new("/")),
            _ => Directory::root(path),
        };
        let directory = directory.map_err(|errno| failed(reason(errno)))?;
        let attributes = entry.map(|entry| self.attributes(&entry));
        let mut open = UnfinishedDirectory::new(directory.clone(), state, None, attributes);
        if state == DirectoryState::Present {
            open.previous_xattrs = self
                .difference(&directory, b".", open.attributes.as_ref(), mode)
                .map_err(|errno| failed(reason(errno)))?;
        } else if open.attributes.is_some() {
            self.output.report_change(TreeChangeKind::New, &directory, b"")?;
        }
        self.unfinished.insert(0, open);
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
        let have = xattrs::read(&descriptor, name, self.is_root)?;
        let mut stat = fstat(&descriptor)?;
        stat.st_mode = mode.unwrap_or(stat.st_mode);
        Ok(attributes.differ_from(&stat, &have).then_some(have))
    }

    /// The directory that an entry is in, which has one name more.
    pub(super) fn parent_directory(&mut self, number: u64, name: &[u8]) -> Result<&mut UnfinishedDirectory, Error> {
        let open = self.unfinished.get_mut(&number).filter(|open| !open.ended);
        let open = open.ok_or(Error::Protocol("an entry is in a directory that was not announced"))?;
        if self.options.delete {
            open.names_size += name.len() + size_of::<Box<[u8]>>();
            if open.names_size > MAX_NAME_BYTES {
                return Err(Error::Protocol("a directory has too many names"));
            }
            open.names.insert(name.into());
        }
        Ok(open)
    }

    pub(super) fn take_directory(&mut self, number: u64, entry: &TreeEntry) -> Result<(), Error> {
        if self.single.is_some() {
            return Err(Error::Protocol("a single entry is a directory"));
        }
        let parent = self.parent_directory(entry.directory, &entry.name)?;
        let (above, state) = (parent.directory.clone(), parent.state);
        parent.waiting += 1;
        if above.depth() >= MAX_DEPTH || self.unfinished.len() >= MAX_UNFINISHED {
            return Err(Error::Protocol("there are too many directories in one another"));
        }
        let child = above.child(&entry.name);
        let attributes = self.attributes(entry);
        self.hold_attributes(&attributes)?;
        let entered = match state {
            DirectoryState::Broken => Ok(EnterResult::Broken),
            DirectoryState::Absent => Ok(EnterResult::Made(DirectoryState::Absent, TreeChangeKind::New)),
            DirectoryState::New | DirectoryState::Present => self.enter(&above, &child, &entry.name, state),
        };
        let (state, change, mode) = match entered {
            Ok(EnterResult::Made(state, change)) => (state, Some(change), None),
            Ok(EnterResult::Found(mode)) => (DirectoryState::Present, None, Some(mode)),
            Ok(EnterResult::Broken) => (DirectoryState::Broken, None, None),
            Err(errno) => {
                self.output
                    .report_failure(&above, &entry.name, "make or enter it", errno)?;
                (DirectoryState::Broken, None, None)
            }
        };
        let mut open = UnfinishedDirectory::new(child.clone(), state, Some(entry.directory), Some(attributes));
        if let Some(change) = change {
            self.output.report_change(change, &above, &entry.name)?;
        } else if state == DirectoryState::Present {
            open.previous_xattrs = self
                .difference(&child, b".", open.attributes.as_ref(), mode)
                .unwrap_or(Some(Vec::new()));
        }
        self.unfinished.insert(number, open);
        Ok(())
    }

    fn enter(
        &mut self,
        above: &Rc<Directory>,
        child: &Rc<Directory>,
        name: &[u8],
        state: DirectoryState,
    ) -> Result<EnterResult, Errno> {
        let descriptor = self.directories.open(above)?;
        let change = match self.stat_entry(above, name, state)? {
            Some(stat) if file_type(stat.st_mode) == FileType::Directory => {
                if !self.is_root && stat.st_mode & 0o700 != 0o700 && !self.options.dry_run {
                    // Its own attributes come when it is finished.
                    make_accessible(&descriptor, name, stat.st_mode)?;
                }
                self.directories.open(child)?;
                return Ok(EnterResult::Found(stat.st_mode));
            }
            Some(_) => TreeChangeKind::Changed,
            None => TreeChangeKind::New,
        };
        if self.options.dry_run {
            return Ok(EnterResult::Made(DirectoryState::Absent, change));
        }
        if change == TreeChangeKind::Changed {
            unlinkat(&descriptor, name, AtFlags::empty())?;
        }
        mkdirat(&descriptor, name, Mode::RWXU)?;
        self.directories.open(child)?;
        Ok(EnterResult::Made(DirectoryState::New, change))
    }

    pub(super) fn end_directory(&mut self, number: u64, incomplete: bool) -> Result<(), Error> {
        let open = self.unfinished.get_mut(&number).filter(|open| !open.ended);
        let open = open.ok_or(Error::Protocol("a directory ended that was not announced"))?;
        open.ended = true;
        let names = std::mem::take(&mut open.names);
        if self.options.delete && !incomplete && open.state == DirectoryState::Present && open.attributes.is_some() {
            let directory = open.directory.clone();
            self.remove_others(&directory, &names)?;
        }
        self.release_directory(number)
    }

    /// One more that waits for something in this directory.
    pub(super) fn retain_directory(&mut self, number: u64) {
        if let Some(open) = self.unfinished.get_mut(&number) {
            open.waiting += 1;
        }
    }

    /// One less; the last one finishes the directory, and that may be the last one of the directory above.
    pub(super) fn release_directory(&mut self, number: u64) -> Result<(), Error> {
        let mut next = Some(number);
        while let Some(number) = next {
            let Some(open) = self.unfinished.get_mut(&number) else {
                return Ok(());
            };
            open.waiting -= 1;
            if open.waiting > 0 {
                return Ok(());
            }
            next = open.parent;
            if let Some(open) = self.unfinished.remove(&number) {
                self.held -= open
                    .parent
                    .and(open.attributes.as_ref())
                    .map_or(0, Attributes::memory_size);
                self.finish(&open)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, open: &UnfinishedDirectory) -> Result<(), Error> {
        if matches!(open.state, DirectoryState::Absent | DirectoryState::Broken) {
            return Ok(());
        }
        if !self.options.dry_run
            && let Err((operation, errno)) = self.apply_directory_attributes(open)
        {
            return self.output.report_failure(&open.directory, b"", operation, errno);
        }
        match open.previous_xattrs {
            Some(_) => self
                .output
                .report_change(TreeChangeKind::Attributes, &open.directory, b""),
            None => Ok(()),
        }
    }

    fn apply_directory_attributes(&mut self, open: &UnfinishedDirectory) -> Result<(), crate::attributes::StepError> {
        let descriptor = self
            .directories
            .open(&open.directory)
            .map_err(|errno| ("enter it", errno))?;
        if let Some(attributes) = &open.attributes {
            // What was put into it has changed its time.
            let have = match (&open.previous_xattrs, open.state) {
                (Some(have), _) => have,
                (None, DirectoryState::New) => &Vec::new(),
                (None, _) => &attributes.xattrs,
            };
            let stat = fstat(&descriptor).map_err(|errno| ("examine it", errno))?;
            if attributes.differ_from(&stat, have) {
                attributes.update(&descriptor, have)?;
            }
        }
        if self.options.fsync {
            fsync(&descriptor).map_err(|errno| ("sync it", errno))
        } else {
            Ok(())
        }
    }
}
