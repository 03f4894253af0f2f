//! Entries that are not directories: compares each with the local file of its name, and changes, requests or creates what differs.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use podbridge_proto::digest::{ContentDigest, ContentHasher};
use podbridge_proto::v1::{Digest, TreeChangeKind, TreeEntry};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, makedev, mknodat, openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use super::state::{DirectoryState, LinkedFile, PendingFile, Receiver};
use crate::attributes::{Attributes, SET_ID_BITS, StepError, file_type, mtime_ns};
use crate::directory::{Directory, list};
use crate::error::Error;
use crate::wire::MAX_NAME;
use crate::xattrs;

/// Difference between a local regular file and the sender's.
enum Difference {
    None,
    Attributes,
    Content,
}

impl<W: Write> Receiver<'_, W> {
    /// Handles the next entry of the sender.
    pub(super) fn take_entry(&mut self, mut entry: TreeEntry) -> Result<(), Error> {
        check_name(&entry.name)?;
        self.output.last_entry += 1;
        if let Some(name) = &self.single_name {
            if self.output.last_entry > 1 {
                return Err(Error::Protocol("a single entry is followed by another"));
            }
            if !name.is_empty() {
                entry.name = name.to_vec().into();
            }
        }
        let number = self.output.last_entry;
        if file_type(entry.mode) == FileType::Directory {
            return self.take_directory(number, &entry);
        }
        let parent = self.parent_directory(entry.directory, &entry.name)?;
        let (directory, state) = (parent.directory.clone(), parent.state);
        if state == DirectoryState::Broken {
            return self.remember_failed_link(number, &entry);
        }
        let stat = match self.stat_entry(&directory, &entry.name, state) {
            Ok(stat) => stat,
            Err(errno) => {
                self.remember_failed_link(number, &entry)?;
                return self.output.report_failure(&directory, &entry.name, "examine it", errno);
            }
        };
        if let Some(stat) = &stat
            && file_type(stat.st_mode) == FileType::Directory
            && !self.may_replace_directory(&directory, &entry.name)
        {
            self.remember_failed_link(number, &entry)?;
            let what = "is a directory that is not empty on the receiving side; use --delete to replace it";
            return self.output.report_problem(&directory, &entry.name, what.into(), false);
        }
        match file_type(entry.mode) {
            FileType::RegularFile if entry.hard_link_of != 0 => self.take_hard_link(&entry, directory, stat),
            FileType::RegularFile => self.take_regular_file(number, entry, directory, stat),
            FileType::Symlink => self.take_symlink(&entry, &directory, stat),
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                self.take_special_file(&entry, &directory, stat)
            }
            _ => Err(Error::Protocol("an entry has an unknown type")),
        }
    }

    /// Notes a name that the sender has but could not examine, so that the local file of this name stays.
    pub(super) fn keep_name(&mut self, directory: u64, name: &[u8]) -> Result<(), Error> {
        check_name(name)?;
        self.parent_directory(directory, name).map(|_| ())
    }

    /// Returns the attributes of the local file of a name; `None` if there is none.
    pub(super) fn stat_entry(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
        state: DirectoryState,
    ) -> Result<Option<Stat>, Errno> {
        if state != DirectoryState::Present {
            return Ok(None);
        }
        let descriptor = self.directories.open(directory)?;
        match statat(&descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Returns whether a file of another type may replace a directory: only an empty one, unless `delete` is set.
    fn may_replace_directory(&mut self, directory: &Rc<Directory>, name: &[u8]) -> bool {
        self.options.delete
            || self
                .directories
                .open(&directory.child(name))
                .and_then(|open| list(&open))
                .is_ok_and(|names| names.is_empty())
    }

    /// Compares a regular file; requests its content if it is missing or differs.
    fn take_regular_file(
        &mut self,
        number: u64,
        entry: TreeEntry,
        directory: Rc<Directory>,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        self.report_left_out_bits(&entry, &directory)?;
        let attributes = self.attributes(&entry);
        let mut change = TreeChangeKind::New;
        if let Some(stat) = stat {
            change = TreeChangeKind::Changed;
            let mut difference = match self.compare(&entry, &attributes, &directory, &stat) {
                Ok(difference) => difference,
                // A file that cannot be compared is replaced.
                Err(_) => Difference::Content,
            };
            if let Difference::Attributes = difference
                && !self.options.dry_run
            {
                difference = match self.change_file(&attributes, &directory, &entry.name, &stat) {
                    Ok(true) => Difference::Attributes,
                    // Only what the system refuses differs.
                    Ok(false) => Difference::None,
                    // The file is unreadable or another user's, or another process replaced it.
                    Err((_, Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NOENT | Errno::STALE)) => {
                        Difference::Content
                    }
                    Err((operation, errno)) => {
                        return self.output.report_failure(&directory, &entry.name, operation, errno);
                    }
                };
            }
            if !matches!(difference, Difference::Content) {
                if matches!(difference, Difference::Attributes) {
                    self.output
                        .report_change(TreeChangeKind::Attributes, &directory, &entry.name)?;
                }
                if entry.has_links {
                    let name = entry.name.to_vec().into();
                    self.remember_linked_file(number, &entry.name, LinkedFile::Present(directory, name))?;
                }
                return Ok(());
            }
        }
        if self.options.dry_run {
            if entry.has_links {
                self.remember_linked_file(number, &entry.name, LinkedFile::WouldBeMade)?;
            }
            return self.report_replacement(&directory, &entry.name, change);
        }
        if entry.has_links {
            self.remember_linked_file(number, &entry.name, LinkedFile::Pending)?;
        }
        self.take_memory_for_file(&entry.name, &attributes)?;
        self.retain_directory(entry.directory);
        self.output.answer.wanted.push(number);
        self.pending.insert(
            number,
            PendingFile {
                parent: entry.directory,
                directory,
                name: entry.name.to_vec().into(),
                attributes,
                change,
                links: Vec::new(),
                has_links: entry.has_links,
            },
        );
        Ok(())
    }

    /// Reports the first file whose set-ID bits are left out.
    fn report_left_out_bits(&mut self, entry: &TreeEntry, directory: &Rc<Directory>) -> Result<(), Error> {
        let are_left_out = self.options.no_privileges && entry.mode & SET_ID_BITS != 0;
        if !are_left_out || std::mem::replace(&mut self.has_told_of_privileges, true) {
            return Ok(());
        }
        let what =
            "its set-user-ID or set-group-ID bit was left out, as in all files of a pod; --privileged copies them";
        self.output.report_problem(directory, &entry.name, what.into(), true)
    }

    /// Returns how a local file differs. `Err` if it cannot be examined.
    fn compare(
        &mut self,
        entry: &TreeEntry,
        attributes: &Attributes,
        directory: &Rc<Directory>,
        stat: &Stat,
    ) -> Result<Difference, Errno> {
        let is_same_kind = file_type(stat.st_mode) == FileType::RegularFile && stat.st_size as u64 == entry.size;
        // A local file with other names is replaced, so that its other names keep their content.
        let is_foreign = stat.st_nlink > 1 && !entry.has_links;
        if !is_same_kind || is_foreign {
            return Ok(Difference::Content);
        }
        let descriptor = self.directories.open(directory)?;
        let is_same = if self.options.checksum {
            content_digest(&descriptor, &entry.name)?[..] == entry.digest
        } else {
            mtime_ns(stat) == entry.mtime_ns
        };
        if !is_same || (entry.has_links && !self.links.kept_inodes.insert((stat.st_dev, stat.st_ino))) {
            return Ok(Difference::Content);
        }
        let have = xattrs::read(&descriptor, &entry.name, self.xattrs)?;
        Ok(if attributes.differ_from(stat, &have) {
            Difference::Attributes
        } else {
            Difference::None
        })
    }

    /// Changes the attributes of a local file. Returns whether any changed. `STALE` if it is no longer the file that was compared.
    fn change_file(
        &mut self,
        attributes: &Attributes,
        directory: &Rc<Directory>,
        name: &[u8],
        stat: &Stat,
    ) -> Result<bool, StepError> {
        let failed = |errno| ("open it", errno);
        let descriptor = self.directories.open(directory).map_err(failed)?;
        let file = openat(&descriptor, name, OPEN_FILE_FLAGS, Mode::empty()).map_err(failed)?;
        let found = fstat(&file).map_err(failed)?;
        if (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(failed(Errno::STALE));
        }
        let have = xattrs::read(&descriptor, name, self.xattrs).map_err(failed)?;
        attributes.update(&file, &have)
    }

    /// Compares a symbolic link; creates it if it is missing or differs.
    fn take_symlink(&mut self, entry: &TreeEntry, directory: &Rc<Directory>, stat: Option<Stat>) -> Result<(), Error> {
        let target = &entry.target[..];
        if target.is_empty() || target.len() > 4096 || target.contains(&0) {
            return Err(Error::Protocol("a symbolic link has an invalid target"));
        }
        let attributes = self.attributes(entry);
        let change = match &stat {
            None => TreeChangeKind::New,
            Some(stat)
                if file_type(stat.st_mode) == FileType::Symlink && self.is_link_to(directory, &entry.name, target) =>
            {
                if attributes.mtime_ns == mtime_ns(stat) && !attributes.differs_in_owner(stat) {
                    return Ok(());
                }
                TreeChangeKind::Attributes
            }
            Some(_) => TreeChangeKind::Changed,
        };
        self.create_special(
            directory,
            &entry.name,
            &attributes,
            change,
            FileType::Symlink,
            |descriptor, temporary| symlinkat(target, descriptor, temporary),
        )
    }

    /// Returns whether a local file is a symbolic link with this target.
    fn is_link_to(&mut self, directory: &Rc<Directory>, name: &[u8], target: &[u8]) -> bool {
        let read = self
            .directories
            .open(directory)
            .and_then(|open| readlinkat(&open, name, Vec::new()));
        read.is_ok_and(|read| read.as_bytes() == target)
    }

    /// Compares a device, socket or FIFO; creates it if it is missing or differs.
    fn take_special_file(
        &mut self,
        entry: &TreeEntry,
        directory: &Rc<Directory>,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        let (kind, attributes) = (file_type(entry.mode), self.attributes(entry));
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if is_device && self.options.no_privileges {
            let what = "skipped: a device is copied out of a pod only with --privileged";
            return self.output.report_problem(directory, &entry.name, what.into(), true);
        }
        let device = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => makedev(entry.major, entry.minor),
            _ => 0,
        };
        let change = match &stat {
            None => TreeChangeKind::New,
            Some(stat) if file_type(stat.st_mode) == kind && stat.st_rdev == device => {
                if !attributes.differ_from(stat, &attributes.xattrs) {
                    return Ok(());
                }
                TreeChangeKind::Attributes
            }
            Some(_) => TreeChangeKind::Changed,
        };
        self.create_special(
            directory,
            &entry.name,
            &attributes,
            change,
            kind,
            |descriptor, temporary| mknodat(descriptor, temporary, kind, Mode::RUSR | Mode::WUSR, device),
        )
    }
}

/// Flags to open a local file that should be a regular file.
pub(super) const OPEN_FILE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    // If a FIFO replaced the file, opening it must not block.
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Returns the BLAKE3 digest of a file's bytes, with holes as zeros.
fn content_digest(directory: &OwnedFd, name: &[u8]) -> Result<ContentDigest, Errno> {
    let file = openat(directory, name, OPEN_FILE_FLAGS, Mode::empty())?;
    let mut hasher = ContentHasher::new(Digest::Blake3);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match rustix::io::read(&file, &mut buffer[..]) {
            Ok(0) => return Ok(hasher.digest()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
    }
}

/// Checks that a name is one component, so that no entry leads out of its directory.
fn check_name(name: &[u8]) -> Result<(), Error> {
    let is_bad = name.is_empty()
        || name.len() > MAX_NAME
        || name == b"."
        || name == b".."
        || name.contains(&b'/')
        || name.contains(&0);
    if is_bad {
        return Err(Error::Protocol("an entry has an invalid name"));
    }
    Ok(())
}
