//! What is ready gets its name, over whatever had it before.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use podbridge_proto::v1::TreeChangeKind;
use rustix::fs::{AtFlags, FileType, statat, unlinkat};
use rustix::io::Errno;

use super::Receiver;
use crate::attributes::{Attributes, file_type};
use crate::directory::Directory;
use crate::error::{Error, reason};
use crate::temporaries::Temporary;

impl<W: Write> Receiver<'_, W> {
    /// A directory of this name has to go first.
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
            // What hinders it is said; then the directory is still there.
            let _ = self.remove(directory, name, FileType::Directory);
        } else {
            unlinkat(&*self.directories.open(directory)?, name, AtFlags::REMOVEDIR)?;
        }
        temporary.rename(name)
    }

    /// What a dry run says, with all that would have to go first.
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

    /// What has no content: made beside its name, given its attributes, put in its place.
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
                    "skipped: a device, socket or pipe cannot be made here: {}",
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
