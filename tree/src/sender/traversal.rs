//! Traversal of the tree: depth first, with a directory's own entries before those of its subdirectories. It holds the names of the
//! subdirectories that are still to be visited, and no others.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeDirectoryEnd, TreeEntry, TreeKept, TreeRoot};
use rustix::fs::{AtFlags, FileType, Stat, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::{AnnouncedFile, Sender};
use crate::attributes::{self, file_type};
use crate::directory::{Directory, list};
use crate::error::{Error, reason};
use crate::wire::MAX_DEPTH;
use crate::xattrs;

/// A directory whose own entries were announced.
struct TraversalFrame {
    /// Entry number.
    number: u64,
    directory: Rc<Directory>,
    /// Relative to the root.
    path: Vec<u8>,
    /// Whether it could not be listed.
    incomplete: bool,
    /// Subdirectories still to visit.
    below: std::vec::IntoIter<Box<[u8]>>,
}

impl Sender<'_> {
    pub(super) fn send_tree(&mut self, root: &Path) -> Result<(), Error> {
        match Directory::root(root) {
            Ok(directory) => self.send_directory_tree(root, directory),
            Err(Errno::NOTDIR | Errno::LOOP) => self.send_single_entry(root),
            // A dangling symbolic link is copied as a link.
            Err(Errno::NOENT) if root.symlink_metadata().is_ok_and(|found| found.is_symlink()) => {
                self.send_single_entry(root)
            }
            Err(errno) => Err(root_error(root, errno)),
        }
    }

    fn send_single_entry(&mut self, root: &Path) -> Result<(), Error> {
        let name = root.file_name().map(OsStr::as_bytes);
        let name = name.ok_or_else(|| Error::Local(format!("{} has no file name", root.display())))?;
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = Directory::root(parent.unwrap_or(Path::new("."))).map_err(|errno| root_error(root, errno))?;
        self.push(Record::Root(TreeRoot { directory: None }))?;
        let descriptor = self.open(&directory, root)?;
        self.send_file(0, &directory, &descriptor, name, &[])?;
        self.send_directory_end(0, false)
    }

    fn send_directory_tree(&mut self, root: &Path, directory: Rc<Directory>) -> Result<(), Error> {
        let descriptor = self.open(&directory, root)?;
        let stat = fstat(&descriptor).map_err(|errno| root_error(root, errno))?;
        let xattrs = xattrs::read(&descriptor, b".", self.xattrs).map_err(|errno| root_error(root, errno))?;
        let entry = self.describe(0, b"", &stat, xattrs)?;
        self.push(Record::Root(TreeRoot { directory: Some(entry) }))?;
        let mut stack = vec![self.send_children(0, directory, Vec::new())?];
        while let Some(top) = stack.last_mut() {
            match top.below.next() {
                Some(name) => {
                    let (number, directory, path) = (top.number, top.directory.clone(), join_path(&top.path, &name));
                    if let Some(visited) = self.send_directory(number, &directory, &name, path)? {
                        stack.push(visited);
                    }
                }
                None => {
                    let (number, incomplete) = (top.number, top.incomplete);
                    stack.pop();
                    self.send_directory_end(number, incomplete)?;
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, directory: &Rc<Directory>, root: &Path) -> Result<std::sync::Arc<OwnedFd>, Error> {
        self.directories
            .open(directory)
            .map_err(|errno| root_error(root, errno))
    }

    fn send_directory_end(&mut self, directory: u64, incomplete: bool) -> Result<(), Error> {
        self.push(Record::DirectoryEnd(TreeDirectoryEnd { directory, incomplete }))
    }

    /// Announces a subdirectory and its entries. `None` if it vanished or cannot be read, which is reported.
    fn send_directory(
        &mut self,
        number: u64,
        parent: &Rc<Directory>,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<Option<TraversalFrame>, Error> {
        if parent.depth() >= MAX_DEPTH {
            let what = format!("not copied: the directory is more than {MAX_DEPTH} levels deep");
            return self.send_kept(number, name, path, what).map(|()| None);
        }
        let child = parent.child(name);
        let examined = self.directories.open(parent).and_then(|above| {
            let directory = self.directories.open(&child)?;
            Ok((fstat(directory)?, xattrs::read(&above, name, self.xattrs)?))
        });
        match examined {
            Ok((stat, xattrs)) => {
                let entry = self.describe(number, name, &stat, xattrs)?;
                let number = self.send_entry(entry)?;
                self.send_children(number, child, path).map(Some)
            }
            Err(Errno::NOENT) => self.report_vanished(path).map(|()| None),
            Err(errno) => {
                let what = format!("cannot be read: {}", reason(errno));
                self.send_kept(number, name, path, what).map(|()| None)
            }
        }
    }

    /// Announces the entries of a directory that are not directories, and returns its subdirectories.
    fn send_children(&mut self, number: u64, directory: Rc<Directory>, path: Vec<u8>) -> Result<TraversalFrame, Error> {
        let listed = self
            .directories
            .open(&directory)
            .and_then(|open| list(&open).map(|names| (open, names)));
        let (descriptor, mut names) = match listed {
            Ok(listed) => listed,
            Err(errno) => {
                self.problem(path.clone(), format!("cannot be listed: {}", reason(errno)), false)?;
                return Ok(TraversalFrame {
                    number,
                    directory,
                    path,
                    incomplete: true,
                    below: Vec::new().into_iter(),
                });
            }
        };
        // Sorted, so that the order does not depend on the file system.
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut below = Vec::new();
        for (name, kind) in names {
            let is_directory = match kind {
                FileType::Unknown => statat(&descriptor, &*name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| attributes::file_type(stat.st_mode) == FileType::Directory),
                kind => kind == FileType::Directory,
            };
            if !self.filters.is_empty() && self.filters.excludes(&join_path(&path, &name), is_directory) {
                continue;
            }
            if is_directory {
                below.push(name);
            } else {
                self.send_file(number, &directory, &descriptor, &name, &path)?;
            }
        }
        Ok(TraversalFrame {
            number,
            directory,
            path,
            incomplete: false,
            below: below.into_iter(),
        })
    }

    /// Announces an entry that is not a directory. A vanished or unreadable entry is reported.
    fn send_file(
        &mut self,
        number: u64,
        directory: &Rc<Directory>,
        descriptor: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), Error> {
        let failed = |this: &mut Self, errno| match errno {
            Errno::NOENT => this.report_vanished(join_path(path, name)),
            errno => this.send_kept(
                number,
                name,
                join_path(path, name),
                format!("cannot be examined: {}", reason(errno)),
            ),
        };
        let stat = match statat(descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) => return failed(self, errno),
        };
        let is_regular = file_type(stat.st_mode) == FileType::RegularFile;
        if !is_regular {
            let mut entry = self.describe(number, name, &stat, Vec::new())?;
            match file_type(stat.st_mode) {
                FileType::Symlink => match readlinkat(descriptor, name, Vec::new()) {
                    Ok(target) => entry.target = target.into_bytes().into(),
                    Err(errno) => return failed(self, errno),
                },
                FileType::CharacterDevice | FileType::BlockDevice => {
                    (entry.major, entry.minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                }
                // A directory replaced the file after the listing; the next copy includes it.
                FileType::Directory => return self.report_vanished(join_path(path, name)),
                _ => {}
            }
            return self.send_entry(entry).map(|_| ());
        }
        let file = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&file).filter(|_| stat.st_nlink > 1) {
            let hard_link_of = *first;
            let entry = self.describe(number, name, &stat, Vec::new())?;
            return self.send_entry(TreeEntry { hard_link_of, ..entry }).map(|_| ());
        }
        let xattrs = match xattrs::read(descriptor, name, self.xattrs) {
            Ok(xattrs) => xattrs,
            Err(errno) => return failed(self, errno),
        };
        let mut entry = self.describe(number, name, &stat, xattrs)?;
        entry.has_links = stat.st_nlink > 1;
        let announced = AnnouncedFile {
            entry: self.last_entry + 1,
            directory: directory.clone(),
            name: name.into(),
            attributes: attributes::memory_size(&entry.attributes),
        };
        if self.options.checksum {
            match self.content_digest(&announced) {
                Ok(digest) => entry.digest = digest.to_vec().into(),
                Err(errno) => return failed(self, errno),
            }
        }
        // Added first, because its content may be requested while the entry is being sent.
        self.announced_attributes += announced.attributes;
        self.announced.push_back(announced);
        let told = self.send_entry(entry)?;
        if stat.st_nlink > 1 {
            self.links.insert(file, told);
        }
        self.await_window()
    }

    /// Returns the entry of a file. Sends the names of its owner and group first if they are new.
    fn describe(
        &mut self,
        directory: u64,
        name: &[u8],
        stat: &Stat,
        xattrs: Vec<podbridge_proto::v1::TreeAttribute>,
    ) -> Result<TreeEntry, Error> {
        let told =
            [(false, stat.st_uid), (true, stat.st_gid)].map(|(group, id)| self.owner_names.take_record(group, id));
        for owner in told.into_iter().flatten() {
            self.push(Record::Owner(owner))?;
        }
        Ok(TreeEntry {
            directory,
            name: name.to_vec().into(),
            mode: stat.st_mode,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime_ns: attributes::mtime_ns(stat),
            uid: stat.st_uid,
            gid: stat.st_gid,
            attributes: xattrs,
            ..TreeEntry::default()
        })
    }

    /// Sends an entry and returns its number.
    fn send_entry(&mut self, entry: TreeEntry) -> Result<u64, Error> {
        self.last_entry += 1;
        let number = self.last_entry;
        self.push(Record::Entry(entry))?;
        Ok(number)
    }

    /// Reports an entry that is not copied; the receiver leaves its own file of this name as it is.
    fn send_kept(&mut self, directory: u64, name: &[u8], path: Vec<u8>, what: String) -> Result<(), Error> {
        self.push(Record::Kept(TreeKept {
            directory,
            name: name.to_vec().into(),
        }))?;
        self.problem(path, what, false)
    }

    /// Reports a file that another process removed during the traversal, as a warning.
    pub(super) fn report_vanished(&mut self, path: Vec<u8>) -> Result<(), Error> {
        self.problem(path, "vanished while the tree was read".into(), true)
    }
}

fn join_path(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, name].join(&b'/')
    }
}

fn root_error(root: &Path, errno: Errno) -> Error {
    Error::Local(format!(
        "{} cannot be read: {}",
        crate::report::escape_for_terminal(root.as_os_str().as_bytes()),
        reason(errno)
    ))
}
