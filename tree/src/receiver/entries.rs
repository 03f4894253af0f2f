//! Entries that are no directories, compared with what is here.

use std::io::Write;
use std::rc::Rc;

use podbridge_proto::v1::{TreeChangeKind, TreeEntry};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, makedev, mknodat, openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use super::directories::Place;
use super::links::Link;
use super::{MAX_PENDING, Pending, Receiver};
use crate::attributes::{Attributes, kind, mtime_ns};
use crate::directory::{Directory, list};
use crate::error::Error;
use crate::wire::MAX_NAME;
use crate::xattrs;

/// What has to be done to a regular file.
enum Need {
    Nothing,
    Attributes,
    Content,
}

impl<W: Write> Receiver<'_, W> {
    pub(super) fn entry(&mut self, mut entry: TreeEntry) -> Result<(), Error> {
        check_name(&entry.name)?;
        self.last += 1;
        if let Some(name) = &self.single {
            if self.last > 1 {
                return Err(Error::Protocol("a single entry is followed by another"));
            }
            if !name.is_empty() {
                entry.name = name.to_vec().into();
            }
        }
        let number = self.last;
        if kind(entry.mode) == FileType::Directory {
            return self.directory(number, &entry);
        }
        let parent = self.parent(entry.directory, &entry.name)?;
        let (directory, place) = (parent.directory.clone(), parent.place);
        if place == Place::Broken {
            self.link_failed(number, &entry);
            return Ok(());
        }
        let stat = match self.existing(&directory, &entry.name, place) {
            Ok(stat) => stat,
            Err(errno) => {
                self.link_failed(number, &entry);
                return self.refused(&directory, &entry.name, "examine it", errno);
            }
        };
        if let Some(stat) = &stat
            && kind(stat.st_mode) == FileType::Directory
            && !self.is_replaceable(&directory, &entry.name)
        {
            self.link_failed(number, &entry);
            let what = "is a directory with something in it on the receiving side; --delete replaces it";
            return self.problem(&directory, &entry.name, what.into(), false);
        }
        match kind(entry.mode) {
            FileType::RegularFile if entry.hard_link_of != 0 => self.link(&entry, directory, stat),
            FileType::RegularFile => self.regular(number, entry, directory, stat),
            FileType::Symlink => self.symlink(&entry, &directory, stat),
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                self.special(&entry, &directory, stat)
            }
            _ => Err(Error::Protocol("an entry is of no known type")),
        }
    }

    /// The sender could not examine it.
    pub(super) fn keep(&mut self, directory: u64, name: &[u8]) -> Result<(), Error> {
        check_name(name)?;
        self.parent(directory, name).map(|_| ())
    }

    pub(super) fn existing(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
        place: Place,
    ) -> Result<Option<Stat>, Errno> {
        if place != Place::Present {
            return Ok(None);
        }
        let descriptor = self.directories.open(directory)?;
        match statat(&descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether what is no directory may take its place.
    fn is_replaceable(&mut self, directory: &Rc<Directory>, name: &[u8]) -> bool {
        self.options.delete
            || self
                .directories
                .open(&directory.child(name))
                .and_then(|open| list(&open))
                .is_ok_and(|names| names.is_empty())
    }

    fn regular(
        &mut self,
        number: u64,
        entry: TreeEntry,
        directory: Rc<Directory>,
        stat: Option<Stat>,
    ) -> Result<(), Error> {
        let attributes = self.attributes(&entry);
        let mut change = TreeChangeKind::New;
        if let Some(stat) = stat {
            change = TreeChangeKind::Changed;
            let mut need = match self.need(&entry, &attributes, &directory, &stat) {
                Ok(need) => need,
                // Whatever cannot be compared is replaced.
                Err(_) => Need::Content,
            };
            if let Need::Attributes = need
                && !self.options.dry_run
            {
                need = match self.change_file(&attributes, &directory, &entry.name, &stat) {
                    Ok(()) => Need::Attributes,
                    // Unreadable, or no longer the same.
                    Err((_, Errno::ACCESS | Errno::LOOP | Errno::NOENT | Errno::STALE)) => Need::Content,
                    Err((operation, errno)) => return self.refused(&directory, &entry.name, operation, errno),
                };
            }
            if !matches!(need, Need::Content) {
                if matches!(need, Need::Attributes) {
                    self.changed(TreeChangeKind::Attributes, &directory, &entry.name)?;
                }
                if entry.has_links {
                    self.remember(number, Link::There(directory, entry.name.to_vec().into()))?;
                }
                return Ok(());
            }
        }
        if self.options.dry_run {
            if entry.has_links {
                self.remember(number, Link::Absent)?;
            }
            return self.would_replace(&directory, &entry.name, change);
        }
        if self.pending.len() >= MAX_PENDING {
            return Err(Error::Protocol("files were announced faster than they were asked for"));
        }
        if entry.has_links {
            self.remember(number, Link::Waiting)?;
        }
        self.keep_attributes(&attributes)?;
        self.hold(entry.directory);
        self.answer.wanted.push(number);
        self.pending.insert(
            number,
            Pending {
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

    fn need(
        &mut self,
        entry: &TreeEntry,
        attributes: &Attributes,
        directory: &Rc<Directory>,
        stat: &Stat,
    ) -> Result<Need, Errno> {
        let is_same_kind = kind(stat.st_mode) == FileType::RegularFile && stat.st_size as u64 == entry.size;
        // Another name of this file is to be left alone.
        let is_foreign = stat.st_nlink > 1 && !entry.has_links;
        if !is_same_kind || is_foreign {
            return Ok(Need::Content);
        }
        let descriptor = self.directories.open(directory)?;
        let is_same = match self.options.checksum {
            true => digest(&descriptor, &entry.name)?.as_bytes()[..] == entry.digest,
            false => mtime_ns(stat) == entry.mtime_ns,
        };
        if !is_same || (entry.has_links && !self.kept_inodes.insert((stat.st_dev, stat.st_ino))) {
            return Ok(Need::Content);
        }
        let have = xattrs::read(&descriptor, &entry.name, self.root)?;
        Ok(match attributes.differ(stat, &have) {
            true => Need::Attributes,
            false => Need::Nothing,
        })
    }

    fn change_file(
        &mut self,
        attributes: &Attributes,
        directory: &Rc<Directory>,
        name: &[u8],
        stat: &Stat,
    ) -> Result<(), crate::attributes::StepError> {
        let failed = |errno| ("open it", errno);
        let descriptor = self.directories.open(directory).map_err(failed)?;
        let file = openat(&descriptor, name, OPEN_FILE, Mode::empty()).map_err(failed)?;
        let found = fstat(&file).map_err(failed)?;
        if (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(failed(Errno::STALE));
        }
        let have = xattrs::read(&descriptor, name, self.root).map_err(failed)?;
        attributes.change(&file, &have)
    }

    fn symlink(&mut self, entry: &TreeEntry, directory: &Rc<Directory>, stat: Option<Stat>) -> Result<(), Error> {
        let target = &entry.target[..];
        if target.is_empty() || target.len() > 4096 || target.contains(&0) {
            return Err(Error::Protocol("a symbolic link points to what is no path"));
        }
        let attributes = self.attributes(entry);
        let change = match &stat {
            None => TreeChangeKind::New,
            Some(stat) if kind(stat.st_mode) == FileType::Symlink && self.reads_as(directory, &entry.name, target) => {
                if attributes.mtime_ns == mtime_ns(stat) && !attributes.owner_differs(stat) {
                    return Ok(());
                }
                TreeChangeKind::Attributes
            }
            Some(_) => TreeChangeKind::Changed,
        };
        self.replace(
            directory,
            &entry.name,
            &attributes,
            change,
            FileType::Symlink,
            |descriptor, temporary| symlinkat(target, descriptor, temporary),
        )
    }

    fn reads_as(&mut self, directory: &Rc<Directory>, name: &[u8], target: &[u8]) -> bool {
        let read = self
            .directories
            .open(directory)
            .and_then(|open| readlinkat(&open, name, Vec::new()));
        read.is_ok_and(|read| read.as_bytes() == target)
    }

    fn special(&mut self, entry: &TreeEntry, directory: &Rc<Directory>, stat: Option<Stat>) -> Result<(), Error> {
        let (kind, attributes) = (kind(entry.mode), self.attributes(entry));
        let device = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => makedev(entry.major, entry.minor),
            _ => 0,
        };
        let change = match &stat {
            None => TreeChangeKind::New,
            Some(stat) if crate::attributes::kind(stat.st_mode) == kind && stat.st_rdev == device => {
                if !attributes.differ(stat, &attributes.xattrs) {
                    return Ok(());
                }
                TreeChangeKind::Attributes
            }
            Some(_) => TreeChangeKind::Changed,
        };
        self.replace(
            directory,
            &entry.name,
            &attributes,
            change,
            kind,
            |descriptor, temporary| mknodat(descriptor, temporary, kind, Mode::RUSR | Mode::WUSR, device),
        )
    }
}

pub(super) const OPEN_FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    // A FIFO that took its place would be waited for.
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

fn digest(directory: &std::os::fd::OwnedFd, name: &[u8]) -> Result<blake3::Hash, Errno> {
    let file = openat(directory, name, OPEN_FILE, Mode::empty())?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match rustix::io::read(&file, &mut buffer[..]) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
    }
}

/// One component, so that no entry leads out of its directory.
fn check_name(name: &[u8]) -> Result<(), Error> {
    let is_bad = name.is_empty()
        || name.len() > MAX_NAME
        || name == b"."
        || name == b".."
        || name.contains(&b'/')
        || name.contains(&0);
    match is_bad {
        true => Err(Error::Protocol("an entry has a name that is none")),
        false => Ok(()),
    }
}
