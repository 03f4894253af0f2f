//! Replacement of a local file by a finished temporary file, and creation of files without content: links, devices, sockets, FIFOs.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use podbridge_proto::v1::TreeChangeKind;
use rustix::fs::{AtFlags, FileType, statat, unlinkat};
use rustix::io::Errno;

use super::state::Receiver;
use crate::attributes::{Attributes, file_type};
use crate::directory::Directory;
use crate::error::{Error, reason};
use crate::temporaries::Temporary;

impl<W: Write> Receiver<'_, W> {
    /// Renames a temporary file over its target. A directory of that name is removed first: with its content if `delete` is set, else only
    /// an empty one.
    pub(super) fn rename_over(
        &mut self,
        temporary: &Temporary,
        directory: &Rc<Directory>,
        name: &[u8],
    ) -> Result<(), Errno> {
        match temporary.rename(name) {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {}
            placed => return placed,
        }
        if self.options.delete {
            // Failures were reported; the directory then still exists, and the second rename fails.
            let _ = self.remove(directory, name, FileType::Directory);
        } else {
            unlinkat(&*self.directories.open(directory)?, name, AtFlags::REMOVEDIR)?;
        }
        temporary.rename(name)
    }

    /// Reports a replacement in a dry run, with the removals that it needs.
    pub(super) fn report_replacement(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
        change: TreeChangeKind,
    ) -> Result<(), Error> {
        let is_directory = change == TreeChangeKind::Changed
            && self.directories.open(directory).is_ok_and(|open| {
                let stat = statat(&open, name, AtFlags::SYMLINK_NOFOLLOW);
                stat.is_ok_and(|stat| file_type(stat.st_mode) == FileType::Directory)
            });
        if is_directory && self.options.delete {
            self.remove(directory, name, FileType::Directory)?;
        }
        self.output.report_change(change, directory, name)
    }

    /// Creates a file without content with `make` under a temporary name, sets its attributes, and renames it over its target.
    pub(super) fn create_special(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
        attributes: &Attributes,
        change: TreeChangeKind,
        is: FileType,
        make: impl Fn(&OwnedFd, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), Error> {
        if self.options.dry_run {
            return self.report_replacement(directory, name, change);
        }
        let made = self.directories.open(directory).and_then(|open| {
            let (temporary, ()) = self.temporaries.create(&open, |temporary| make(&open, temporary))?;
            Ok((open, temporary))
        });
        let (open, temporary) = match made {
            Ok(made) => made,
            Err(errno @ (Errno::PERM | Errno::NOTSUP | Errno::INVAL | Errno::NOSYS)) if is != FileType::Symlink => {
                let what = format!(
                    "skipped: devices, sockets or pipes cannot be created on the receiving side: {}",
                    reason(errno)
                );
                return self.output.report_problem(directory, name, what, true);
            }
            Err(errno) => return self.output.report_failure(directory, name, "create it", errno),
        };
        if let Err((operation, errno)) = attributes.apply_by_name(&open, temporary.name(), is) {
            return self.output.report_failure(directory, name, operation, errno);
        }
        match self.rename_over(&temporary, directory, name) {
            Ok(()) => self.output.report_change(change, directory, name),
            Err(errno) => self.output.report_failure(directory, name, "replace it", errno),
        }
    }
}
