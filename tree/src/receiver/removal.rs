//! Removal of files that the sender does not have. Files that the filters exclude and temporary files of running copies stay. So does
//! everything on another mount than the destination, and everything in a file system of the kernel (/proc, /sys).

use std::io::Write;
use std::rc::Rc;

use podbridge_files::mounts;
use podbridge_files::temporary::is_temporary;
use podbridge_proto::v1::TreeChangeKind;
use rustix::fs::{AtFlags, FileType, statat, unlinkat};
use rustix::io::Errno;

use super::state::Receiver;
use crate::attributes;
use crate::directory::{Directory, Listing, list};
use crate::error::Error;

/// A directory that is being removed.
struct RemovalFrame {
    parent: Rc<Directory>,
    name: Box<[u8]>,
    directory: Rc<Directory>,
    names: std::vec::IntoIter<(Box<[u8]>, FileType)>,
    /// Whether something in it stays, so that the directory must stay, too.
    stays: bool,
}

impl<W: Write> Receiver<'_, W> {
    /// Removes everything from a directory except names with these hashes, which are sorted.
    pub(super) fn remove_others(&mut self, directory: &Rc<Directory>, hashes: &[u64]) -> Result<(), Error> {
        let listed = self.directories.open(directory).and_then(|open| list(&open));
        let listed = match listed {
            Ok(listed) => listed,
            Err(errno) => return self.output.report_failure(directory, b"", "list it", errno),
        };
        let is_other = |(name, _): &(Box<[u8]>, FileType)| hashes.binary_search(&self.name_hash(name)).is_err();
        let mut others: Vec<_> = listed.into_iter().filter(is_other).collect();
        if !others.is_empty() && !self.is_on_deletable_mount(directory, b".") {
            others.retain(|(name, kind)| !self.is_protected(directory, name, *kind == FileType::Directory));
            if !others.is_empty() {
                let what =
                    "is another mount than the destination, or a file system of the kernel; nothing is deleted in it";
                return self.output.report_problem(directory, b"", what.into(), true);
            }
        }
        for (name, kind) in others {
            self.remove(directory, &name, kind)?;
        }
        Ok(())
    }

    /// Returns whether an entry is on the mount of the destination and thus may be deleted. An entry that cannot be examined may not.
    fn is_on_deletable_mount(&mut self, directory: &Rc<Directory>, name: &[u8]) -> bool {
        let found = self
            .directories
            .open(directory)
            .and_then(|open| mounts::mount_of(&open, name));
        found.is_ok_and(|mount| Some(mount) == self.deletable_mount)
    }

    /// Returns whether a filter excludes an entry, which protects it from deletion.
    fn is_protected(&self, directory: &Rc<Directory>, name: &[u8], is_directory: bool) -> bool {
        !self.filters.is_empty() && self.filters.excludes(&directory.path(name), is_directory)
    }

    /// Reports that a mount point is not deleted.
    fn keep_mount_point(&mut self, parent: &Rc<Directory>, name: &[u8]) -> Result<RemovalStep, Error> {
        let what = "is a mount point, so it is not deleted";
        self.output.report_problem(parent, name, what.into(), true)?;
        Ok(RemovalStep::Stays)
    }

    /// Removes a file, or a directory with everything in it that may be removed. A loop with a stack of its own, because recursion could
    /// overflow the stack of a deep tree.
    pub(super) fn remove(&mut self, directory: &Rc<Directory>, name: &[u8], kind: FileType) -> Result<(), Error> {
        let mut stack: Vec<RemovalFrame> = Vec::new();
        let mut next = Some((directory.clone(), Box::from(name), kind));
        loop {
            if let Some((parent, name, kind)) = next.take() {
                let stays = match self.remove_or_enter(&parent, &name, kind)? {
                    RemovalStep::Gone => false,
                    RemovalStep::Stays => true,
                    RemovalStep::Entered(directory, names) => {
                        stack.push(RemovalFrame {
                            parent,
                            name,
                            directory,
                            names: names.into_iter(),
                            stays: false,
                        });
                        false
                    }
                };
                if let Some(top) = stack.last_mut() {
                    top.stays |= stays;
                }
            }
            let Some(top) = stack.last_mut() else {
                return Ok(());
            };
            if let Some((name, kind)) = top.names.next() {
                next = Some((top.directory.clone(), name, kind));
            } else if let Some(frame) = stack.pop() {
                let stays = frame.stays || !self.unlink(&frame.parent, &frame.name, AtFlags::REMOVEDIR)?;
                if let Some(top) = stack.last_mut() {
                    top.stays |= stays;
                }
            }
        }
    }

    /// Removes a file, or lists a directory that has to be emptied first.
    fn remove_or_enter(&mut self, parent: &Rc<Directory>, name: &[u8], kind: FileType) -> Result<RemovalStep, Error> {
        let mut stat = || {
            let open = self.directories.open(parent)?;
            statat(&open, name, AtFlags::SYMLINK_NOFOLLOW)
        };
        let kind = match kind {
            FileType::Unknown => stat().map_or(FileType::Unknown, |stat| attributes::file_type(stat.st_mode)),
            kind => kind,
        };
        // A recent temporary file is another copy's that is still running.
        let is_being_written = is_temporary(name) && stat().is_ok_and(|stat| attributes::changed_recently(&stat));
        let is_directory = kind == FileType::Directory;
        if self.is_protected(parent, name, is_directory) || is_being_written || self.temporaries.contains(name) {
            return Ok(RemovalStep::Stays);
        }
        // The kernel itself refuses to delete another file that is a mount point.
        if (is_directory || self.options.dry_run) && !self.is_on_deletable_mount(parent, name) {
            return self.keep_mount_point(parent, name);
        }
        if !is_directory {
            return Ok(if self.unlink(parent, name, AtFlags::empty())? {
                RemovalStep::Gone
            } else {
                RemovalStep::Stays
            });
        }
        if !self.is_root && !self.options.dry_run {
            // An error is ignored here: listing the directory reports it.
            let _ = self.directories.open(parent).and_then(|open| {
                let mode = statat(&open, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
                if mode & 0o700 == 0o700 {
                    return Ok(());
                }
                attributes::make_accessible(&open, name, mode)
            });
        }
        let directory = parent.child(name);
        match self.directories.open(&directory).and_then(|open| list(&open)) {
            Ok(names) => Ok(RemovalStep::Entered(directory, names)),
            Err(errno) => {
                self.output.report_failure(parent, name, "delete it", errno)?;
                Ok(RemovalStep::Stays)
            }
        }
    }

    /// Removes one file or empty directory. Returns whether it is gone, or would be after a dry run.
    fn unlink(&mut self, parent: &Rc<Directory>, name: &[u8], flags: AtFlags) -> Result<bool, Error> {
        let unlinked = if self.options.dry_run {
            Ok(())
        } else {
            self.directories
                .open(parent)
                .and_then(|open| unlinkat(&open, name, flags))
        };
        match unlinked {
            Ok(()) => self
                .output
                .report_change(TreeChangeKind::Deleted, parent, name)
                .map(|()| true),
            Err(Errno::NOENT) => Ok(true),
            Err(Errno::BUSY) => self.keep_mount_point(parent, name).map(|_| false),
            Err(errno) => self
                .output
                .report_failure(parent, name, "delete it", errno)
                .map(|()| false),
        }
    }
}

/// Result of the first step to remove a file.
enum RemovalStep {
    Gone,
    Stays,
    /// The file is a directory with these entries.
    Entered(Rc<Directory>, Listing),
}
