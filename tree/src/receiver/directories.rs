//! Directories that a receiver fills: makes or enters each one, and sets its attributes after everything in it has arrived, because
//! each change in a directory changes its modification time.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::rc::Rc;

use podbridge_files::mounts;
use podbridge_proto::v1::{TreeAttribute, TreeChangeKind, TreeEntry};
use rustix::fs::{AtFlags, FileType, Mode, fchmod, fstat, fsync, mkdirat, unlinkat};
use rustix::io::Errno;

use super::state::{DirectoryState, Receiver, UnfinishedDirectory};
use crate::attributes::{Attributes, PERMISSION_BITS, StepError, file_type, make_accessible};
use crate::directory::Directory;
use crate::error::{Error, reason};
use crate::wire::MAX_DEPTH;
use crate::xattrs;

/// Result of making or entering a directory.
enum EnterResult {
    Made(DirectoryState, TreeChangeKind),
    /// The directory existed, with this mode. It may have another mode until it is finished.
    Found(u32),
    Broken,
}

/// Makes the destination and its parents. A destination that is part of the tree has this mode, and this user can change it. It gets its
/// mode at once, because after an interruption the next copy finds it and lets it keep its mode.
fn create_root(path: &Path, mode_in_tree: Option<u32>) -> std::io::Result<()> {
    match (path.parent(), mode_in_tree) {
        (Some(parent), Some(mode)) => {
            std::fs::create_dir_all(parent)?;
            DirBuilder::new().mode(0o700).create(path)?;
            std::fs::set_permissions(path, Permissions::from_mode(mode & 0o777 | 0o700))
        }
        _ => std::fs::create_dir_all(path),
    }
}

/// Adds all owner permissions to an existing destination, so that this process can enter and change it. Returns its mode before that.
fn make_root_accessible(path: &Path) -> Option<u32> {
    let found = std::fs::metadata(path).ok()?;
    if found.mode() & 0o700 != 0o700 {
        // An error is ignored here: the operations that need the permission report theirs.
        let _ = std::fs::set_permissions(path, Permissions::from_mode(found.mode() & PERMISSION_BITS | 0o700));
    }
    Some(found.mode())
}

impl<W: Write> Receiver<'_, W> {
    /// Makes or enters the destination. `entry` is `None` if the tree is a single file.
    pub(super) fn begin_root(&mut self, destination: &Path, entry: Option<TreeEntry>) -> Result<(), Error> {
        let failed = |why: String| {
            let shown = crate::report::escape_for_terminal(destination.as_os_str().as_bytes());
            Error::Local(format!("{shown} cannot be written: {why}"))
        };
        let path = match entry {
            Some(_) => destination,
            None if destination.is_dir() || destination.as_os_str().as_bytes().ends_with(b"/") => {
                self.single_name = Some([].into());
                destination
            }
            None => {
                let name = destination.file_name().map(OsStr::as_bytes);
                self.single_name = Some(name.ok_or_else(|| failed("it has no file name".into()))?.into());
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
                "it is not a directory, but the source is one; remove it first".into(),
            ));
        }
        let mut mode = None;
        match state {
            DirectoryState::New => create_root(path, entry.as_ref().map(|entry| entry.mode))
                .map_err(|error| failed(podbridge_files::reason(&error)))?,
            DirectoryState::Present if !self.is_root && !self.options.dry_run => mode = make_root_accessible(path),
            _ => {}
        }
        let directory = match state {
            // A dry run never enters it, so any directory serves.
            DirectoryState::Absent => Directory::root(Path::new("/")),
            _ => Directory::destination(path),
        };
        let directory = directory.map_err(|errno| failed(reason(errno)))?;
        let descriptor = self
            .directories
            .open(&directory)
            .map_err(|errno| failed(reason(errno)))?;
        if !mounts::is_kernel_file_system(&descriptor) {
            self.deletable_mount = mounts::mount_of(&descriptor, b".").ok();
        }
        let is_of_the_tree = entry.is_some();
        let keeps_attributes = state == DirectoryState::Present && !self.options.preserve_root_attributes;
        let attributes = entry.filter(|_| !keeps_attributes).map(|entry| self.attributes(&entry));
        let mut unfinished = UnfinishedDirectory::new(directory.clone(), state, None, attributes);
        unfinished.is_of_the_tree = is_of_the_tree;
        unfinished.own_mode = mode.filter(|mode| unfinished.attributes.is_none() && mode & 0o700 != 0o700);
        if state == DirectoryState::Present {
            unfinished.previous_xattrs = self
                .difference(&directory, b".", unfinished.attributes.as_ref(), mode)
                .map_err(|errno| failed(reason(errno)))?;
        } else if unfinished.attributes.is_some() {
            self.output.report_change(TreeChangeKind::New, &directory, b"")?;
        }
        self.unfinished.insert(0, unfinished);
        Ok(())
    }

    /// Returns the extended attributes of a directory if any of its attributes differ. `mode` is its mode before this process added
    /// permissions.
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
        let have = xattrs::read(&descriptor, name, self.xattrs)?;
        let mut stat = fstat(&descriptor)?;
        stat.st_mode = mode.unwrap_or(stat.st_mode);
        Ok(attributes.differ_from(&stat, &have).then_some(have))
    }

    /// Returns the directory of an entry and notes the entry's name. `Err` if the directory is unknown or has ended.
    pub(super) fn parent_directory(&mut self, number: u64, name: &[u8]) -> Result<&mut UnfinishedDirectory, Error> {
        let hash = if self.options.delete {
            self.take_memory_for_name()?;
            Some(self.name_hash(name))
        } else {
            None
        };
        let unfinished = self.unfinished.get_mut(&number).filter(|unfinished| !unfinished.ended);
        let unfinished = unfinished.ok_or(Error::Protocol("an entry is in a directory that was not announced"))?;
        unfinished.names.extend(hash);
        Ok(unfinished)
    }

    /// Makes or enters a directory that the sender announced.
    pub(super) fn take_directory(&mut self, number: u64, entry: &TreeEntry) -> Result<(), Error> {
        if self.single_name.is_some() {
            return Err(Error::Protocol("a single entry is a directory"));
        }
        let unfinished_parent = self.parent_directory(entry.directory, &entry.name)?;
        let (parent, state) = (unfinished_parent.directory.clone(), unfinished_parent.state);
        unfinished_parent.waiting += 1;
        if parent.depth() >= MAX_DEPTH {
            return Err(Error::Protocol("the tree is too deep"));
        }
        let child = parent.child(&entry.name);
        let attributes = self.attributes(entry);
        self.take_memory_for_directory(&entry.name, &attributes)?;
        let entered = match state {
            DirectoryState::Broken => Ok(EnterResult::Broken),
            DirectoryState::Absent => Ok(EnterResult::Made(DirectoryState::Absent, TreeChangeKind::New)),
            DirectoryState::New | DirectoryState::Present => self.enter(&parent, &child, &entry.name, state),
        };
        let (state, change, mode) = match entered {
            Ok(EnterResult::Made(state, change)) => (state, Some(change), None),
            Ok(EnterResult::Found(mode)) => (DirectoryState::Present, None, Some(mode)),
            Ok(EnterResult::Broken) => (DirectoryState::Broken, None, None),
            Err(errno) => {
                self.output
                    .report_failure(&parent, &entry.name, "make or enter it", errno)?;
                (DirectoryState::Broken, None, None)
            }
        };
        let mut unfinished = UnfinishedDirectory::new(child.clone(), state, Some(entry.directory), Some(attributes));
        if let Some(change) = change {
            self.output.report_change(change, &parent, &entry.name)?;
        } else if state == DirectoryState::Present {
            unfinished.previous_xattrs = self
                .difference(&child, b".", unfinished.attributes.as_ref(), mode)
                .unwrap_or(Some(Vec::new()));
        }
        self.unfinished.insert(number, unfinished);
        Ok(())
    }

    /// Enters a directory if it exists, and makes it otherwise. Another file of this name is removed first.
    fn enter(
        &mut self,
        parent: &Rc<Directory>,
        child: &Rc<Directory>,
        name: &[u8],
        state: DirectoryState,
    ) -> Result<EnterResult, Errno> {
        let descriptor = self.directories.open(parent)?;
        let change = match self.stat_entry(parent, name, state)? {
            Some(stat) if file_type(stat.st_mode) == FileType::Directory => {
                if !self.is_root && stat.st_mode & 0o700 != 0o700 && !self.options.dry_run {
                    // The directory gets its own mode when it is finished. If it is another user's, the operations that need the permission
                    // report theirs.
                    match make_accessible(&descriptor, name, stat.st_mode) {
                        Err(Errno::PERM) => {}
                        other => other?,
                    }
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

    /// Notes that the sender ended a directory. `incomplete`: the sender does not know all names in it, so nothing is removed.
    pub(super) fn end_directory(&mut self, number: u64, incomplete: bool) -> Result<(), Error> {
        let unfinished = self.unfinished.get_mut(&number).filter(|unfinished| !unfinished.ended);
        let unfinished = unfinished.ok_or(Error::Protocol("a directory ended that was not announced"))?;
        unfinished.ended = true;
        let mut names = std::mem::take(&mut unfinished.names);
        names.sort_unstable();
        if self.options.delete
            && !incomplete
            && unfinished.state == DirectoryState::Present
            && unfinished.is_of_the_tree
        {
            let directory = unfinished.directory.clone();
            self.remove_others(&directory, &names)?;
        }
        self.release_names(names.len());
        self.release_directory(number)
    }

    /// Makes a directory wait for one more event.
    pub(super) fn retain_directory(&mut self, number: u64) {
        if let Some(unfinished) = self.unfinished.get_mut(&number) {
            unfinished.waiting += 1;
        }
    }

    /// Counts one event of a directory. The last event finishes the directory, which is an event of its parent.
    pub(super) fn release_directory(&mut self, number: u64) -> Result<(), Error> {
        let mut next = Some(number);
        while let Some(number) = next {
            let Some(unfinished) = self.unfinished.get_mut(&number) else {
                return Ok(());
            };
            unfinished.waiting -= 1;
            if unfinished.waiting > 0 {
                return Ok(());
            }
            next = unfinished.parent;
            if let Some(unfinished) = self.unfinished.remove(&number) {
                self.release_finished_directory(&unfinished);
                self.finish(&unfinished)?;
            }
        }
        Ok(())
    }

    /// Sets the attributes of a directory in which nothing is left to do.
    fn finish(&mut self, unfinished: &UnfinishedDirectory) -> Result<(), Error> {
        if matches!(unfinished.state, DirectoryState::Absent | DirectoryState::Broken) {
            return Ok(());
        }
        let mut is_changed = true;
        if !self.options.dry_run {
            is_changed = match self.apply_directory_attributes(unfinished) {
                Ok(is_changed) => is_changed,
                // Everything in it is there, and its mode is right: the time is no reason to fail.
                Err(("set its time", Errno::PERM)) if unfinished.state == DirectoryState::Present => {
                    let what = "belongs to another user, so it keeps its own modification time";
                    return self
                        .output
                        .report_problem(&unfinished.directory, b"", what.into(), true);
                }
                Err((operation, errno)) => {
                    return self.output.report_failure(&unfinished.directory, b"", operation, errno);
                }
            };
        }
        match unfinished.previous_xattrs {
            Some(_) if is_changed => self
                .output
                .report_change(TreeChangeKind::Attributes, &unfinished.directory, b""),
            _ => Ok(()),
        }
    }

    /// Sets the attributes of a directory. Returns whether any changed.
    fn apply_directory_attributes(&mut self, unfinished: &UnfinishedDirectory) -> Result<bool, StepError> {
        let descriptor = self
            .directories
            .open(&unfinished.directory)
            .map_err(|errno| ("enter it", errno))?;
        let mut is_changed = false;
        if let Some(mode) = unfinished.own_mode {
            fchmod(&descriptor, Mode::from_raw_mode(mode & PERMISSION_BITS))
                .map_err(|errno| ("set its mode back", errno))?;
        }
        if let Some(attributes) = &unfinished.attributes {
            // The time always differs after entries were made in it.
            let have = match (&unfinished.previous_xattrs, unfinished.state) {
                (Some(have), _) => have,
                (None, DirectoryState::New) => &Vec::new(),
                (None, _) => &attributes.xattrs,
            };
            let stat = fstat(&descriptor).map_err(|errno| ("examine it", errno))?;
            if attributes.differ_from(&stat, have) {
                is_changed = attributes.update(&descriptor, have)?;
            }
        }
        if self.options.fsync {
            match fsync(&descriptor) {
                // The descriptor of a directory that this process may not read cannot be synced.
                Err(Errno::BADF) => {}
                synced => synced.map_err(|errno| ("sync it", errno))?,
            }
        }
        Ok(is_changed)
    }
}
