//! Hard links: further names of files that have arrived or are still to arrive.

use std::io::Write;
use std::rc::Rc;

use podbridge_proto::v1::{TreeChangeKind, TreeEntry};
use rustix::fs::{AtFlags, Stat, linkat, statat};

use super::state::{LinkedFile, PendingFile, Receiver, WaitingName};
use crate::directory::Directory;
use crate::error::Error;

impl<W: Write> Receiver<'_, W> {
    /// Adds a file that may get further names. `Err` if there are too many.
    pub(super) fn remember_linked_file(&mut self, number: u64, name: &[u8], file: LinkedFile) -> Result<(), Error> {
        self.take_memory_for_link(name)?;
        self.links.files.insert(number, file);
        Ok(())
    }

    /// Notes that a file that may get further names was not copied.
    pub(super) fn remember_failed_link(&mut self, number: u64, entry: &TreeEntry) -> Result<(), Error> {
        if entry.has_links {
            self.remember_linked_file(number, &[], LinkedFile::Failed)?;
        }
        Ok(())
    }

    /// Makes an entry that is another name of an earlier file, now or when that file has arrived.
    pub(super) fn take_hard_link(
        &mut self,
        entry: &TreeEntry,
        directory: Rc<Directory>,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        let unknown = Error::Protocol("an entry is another name of a file that was not announced");
        let change = match &stat {
            None => TreeChangeKind::New,
            Some(_) => TreeChangeKind::Changed,
        };
        match self.links.files.get(&entry.hard_link_of).ok_or(unknown)? {
            LinkedFile::Present(of, name) => {
                let (of, of_name) = (of.clone(), name.clone());
                self.make_link(&of, &of_name, &directory, &entry.name, change)
            }
            LinkedFile::WouldBeMade => self.output.report_change(change, &directory, &entry.name),
            LinkedFile::Failed => self.report_missing_file(&directory, &entry.name),
            LinkedFile::Pending => {
                self.take_memory_for_link(&entry.name)?;
                let Some(pending) = self.pending_file(entry.hard_link_of) else {
                    return self.report_missing_file(&directory, &entry.name);
                };
                pending.links.push(WaitingName {
                    parent: entry.directory,
                    directory,
                    name: entry.name.to_vec().into(),
                    change,
                });
                self.retain_directory(entry.directory);
                Ok(())
            }
        }
    }

    /// Returns a file whose content was requested and has not arrived completely.
    fn pending_file(&mut self, number: u64) -> Option<&mut PendingFile> {
        match &mut self.content {
            Some(content) if content.number == number => Some(&mut content.pending),
            _ => self.pending.get_mut(&number),
        }
    }

    /// Links the names that waited for a file. `file` is `None` if it was not copied; each name is then reported.
    pub(super) fn finish_waiting_names(
        &mut self,
        names: Vec<WaitingName>,
        file: Option<(&Rc<Directory>, &[u8])>,
    ) -> Result<(), Error> {
        for waiting in names {
            self.release_waiting_name(&waiting);
            match file {
                Some((of, name)) => self.make_link(of, name, &waiting.directory, &waiting.name, waiting.change)?,
                None => self.report_missing_file(&waiting.directory, &waiting.name)?,
            }
            self.release_directory(waiting.parent)?;
        }
        Ok(())
    }

    fn report_missing_file(&mut self, directory: &Directory, name: &[u8]) -> Result<(), Error> {
        let what = "is a hard link to a file that was not copied";
        self.output.report_problem(directory, name, what.into(), false)
    }

    fn make_link(
        &mut self,
        of: &Rc<Directory>,
        of_name: &[u8],
        directory: &Rc<Directory>,
        name: &[u8],
        change: TreeChangeKind,
    ) -> Result<(), Error> {
        let opened = self
            .directories
            .open(of)
            .and_then(|of| Ok((of, self.directories.open(directory)?)));
        let (from, to) = match opened {
            Ok(opened) => opened,
            // A directory that a dry run would make does not exist.
            Err(_) if self.options.dry_run => return self.output.report_change(change, directory, name),
            Err(errno) => return self.output.report_failure(directory, name, "link it", errno),
        };
        let inode = |directory: &_, name: &[u8]| {
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        if inode(&*to, name).is_some_and(|found| inode(&*from, of_name) == Some(found)) {
            return Ok(());
        }
        if self.options.dry_run {
            return self.output.report_change(change, directory, name);
        }
        let made = self.temporaries.create(&to, |temporary| {
            linkat(&from, of_name, &to, temporary, AtFlags::empty())
        });
        let placed = match made {
            Ok((temporary, ())) => self.rename_over(&temporary, directory, name),
            Err(errno) => Err(errno),
        };
        match placed {
            Ok(()) => self.output.report_change(change, directory, name),
            Err(errno) => self.output.report_failure(directory, name, "link it", errno),
        }
    }
}
