//! What the sender does not have is removed, if that is wanted, except what the filters exclude.

use std::collections::HashSet;
use std::io::Write;
use std::rc::Rc;

use podbridge_files::temporary::is_temporary;
use podbridge_proto::v1::TreeChangeKind;
use rustix::fs::{AtFlags, FileType, statat, unlinkat};
use rustix::io::Errno;

use super::Receiver;
use crate::attributes;
use crate::directory::{Directory, Listing, list};
use crate::error::Error;

/// A directory on its way out.
struct RemovalFrame {
    above: Rc<Directory>,
    name: Box<[u8]>,
    directory: Rc<Directory>,
    names: std::vec::IntoIter<(Box<[u8]>, FileType)>,
    /// Something in it stays, and so does it.
    stays: bool,
}

impl<W: Write> Receiver<'_, W> {
    pub(super) fn remove_others(&mut self, directory: &Rc<Directory>, names: &HashSet<Box<[u8]>>) -> Result<(), Error> {
        let listed = self.directories.open(directory).and_then(|open| list(&open));
        let listed = match listed {
            Ok(listed) => listed,
            Err(errno) => return self.output.report_failure(directory, b"", "list it", errno),
        };
        for (name, kind) in listed {
            if !names.contains(&name) {
                self.remove(directory, &name, kind)?;
            }
        }
        Ok(())
    }

    /// Removes it and all that is in it, as far as that is not protected. Without recursion: it may be deep.
    pub(super) fn remove(&mut self, directory: &Rc<Directory>, name: &[u8], kind: FileType) -> Result<(), Error> {
        let mut stack: Vec<RemovalFrame> = Vec::new();
        let mut next = Some((directory.clone(), Box::from(name), kind));
        loop {
            if let Some((above, name, kind)) = next.take() {
                let stays = match self.remove_or_enter(&above, &name, kind)? {
                    RemovalStep::Gone => false,
                    RemovalStep::Stays => true,
                    RemovalStep::Entered(directory, names) => {
                        stack.push(RemovalFrame {
                            above,
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
                let stays = frame.stays || !self.unlink(&frame.above, &frame.name, AtFlags::REMOVEDIR)?;
                if let Some(top) = stack.last_mut() {
                    top.stays |= stays;
                }
            }
        }
    }

    fn remove_or_enter(&mut self, above: &Rc<Directory>, name: &[u8], kind: FileType) -> Result<RemovalStep, Error> {
        let mut stat = || {
            let open = self.directories.open(above)?;
            statat(&open, name, AtFlags::SYMLINK_NOFOLLOW)
        };
        let kind = match kind {
            FileType::Unknown => stat().map_or(FileType::Unknown, |stat| attributes::file_type(stat.st_mode)),
            kind => kind,
        };
        // Another copy's that is at work here, too.
        let is_anothers = is_temporary(name) && stat().is_ok_and(|stat| attributes::changed_recently(&stat));
        let is_directory = kind == FileType::Directory;
        let is_protected = !self.filters.is_empty() && self.filters.excludes(&above.path(name), is_directory);
        if is_protected || is_anothers || self.temporaries.contains(name) {
            return Ok(RemovalStep::Stays);
        }
        if !is_directory {
            return Ok(if self.unlink(above, name, AtFlags::empty())? {
                RemovalStep::Gone
            } else {
                RemovalStep::Stays
            });
        }
        if !self.is_root && !self.options.dry_run {
            // What hinders it is seen below.
            let _ = self.directories.open(above).and_then(|open| {
                let mode = statat(&open, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
                if mode & 0o700 == 0o700 {
                    return Ok(());
                }
                attributes::make_accessible(&open, name, mode)
            });
        }
        let directory = above.child(name);
        match self.directories.open(&directory).and_then(|open| list(&open)) {
            Ok(names) => Ok(RemovalStep::Entered(directory, names)),
            Err(errno) => {
                self.output.report_failure(above, name, "delete it", errno)?;
                Ok(RemovalStep::Stays)
            }
        }
    }

    /// Whether it is gone, or would be.
    fn unlink(&mut self, above: &Rc<Directory>, name: &[u8], flags: AtFlags) -> Result<bool, Error> {
        let unlinked = if self.options.dry_run {
            Ok(())
        } else {
            self.directories
                .open(above)
                .and_then(|open| unlinkat(&open, name, flags))
        };
        match unlinked {
            Ok(()) => self
                .output
                .report_change(TreeChangeKind::Deleted, above, name)
                .map(|()| true),
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => self
                .output
                .report_failure(above, name, "delete it", errno)
                .map(|()| false),
        }
    }
}

enum RemovalStep {
    Gone,
    Stays,
    Entered(Rc<Directory>, Listing),
}
