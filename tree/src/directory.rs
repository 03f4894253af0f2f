//! Directories below a root, each identified by its parent and name. They are opened component by component without following links, so
//! that a process that changes the tree meanwhile cannot redirect the copy out of it. At most 65 are open at a time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

/// Cap of cached file descriptors; the root's is one more.
const MAX_OPEN_DIRECTORIES: usize = 64;

pub(crate) const OPEN_DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory of the tree, open or not.
#[derive(Debug)]
pub(crate) struct Directory {
    parent: Option<Rc<Directory>>,
    name: Box<[u8]>,
    /// Number of directories above it, up to the root.
    depth: usize,
    /// `None` while it is not open; the root's is always `Some`.
    descriptor: RefCell<Option<Arc<OwnedFd>>>,
}

impl Directory {
    /// Opens the root to read it. The user named its path, so links in it are followed.
    pub(crate) fn root(path: &std::path::Path) -> Result<Rc<Self>, Errno> {
        Self::open_root(path, OPEN_DIRECTORY_FLAGS)
    }

    /// Opens the root to write into it. A directory that this process may not read, such as one that users drop files into, is not listed.
    pub(crate) fn destination(path: &std::path::Path) -> Result<Rc<Self>, Errno> {
        match Self::root(path) {
            Err(Errno::ACCESS) => Self::open_root(path, OPEN_DIRECTORY_FLAGS | OFlags::PATH),
            opened => opened,
        }
    }

    fn open_root(path: &std::path::Path, flags: OFlags) -> Result<Rc<Self>, Errno> {
        let descriptor = openat(CWD, path, flags.difference(OFlags::NOFOLLOW), Mode::empty())?;
        Ok(Rc::new(Self {
            parent: None,
            name: [].into(),
            depth: 0,
            descriptor: RefCell::new(Some(Arc::new(descriptor))),
        }))
    }

    pub(crate) fn child(self: &Rc<Self>, name: &[u8]) -> Rc<Self> {
        Rc::new(Self {
            parent: Some(self.clone()),
            name: name.into(),
            depth: self.depth + 1,
            descriptor: RefCell::new(None),
        })
    }

    /// Returns the directory's own name; empty for the root.
    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Returns the path of an entry of this directory, relative to the root. An empty name gives the directory itself.
    pub(crate) fn path(&self, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut ancestor = Some(self);
        while let Some(directory) = ancestor {
            names.push(&directory.name);
            ancestor = directory.parent.as_deref();
        }
        names.retain(|name| !name.is_empty());
        names.reverse();
        names.join(&b'/')
    }
}

impl Drop for Directory {
    /// Drops the ancestors in a loop, as recursion could overflow the stack of a deep tree.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut last) = next.and_then(Rc::into_inner) {
            next = last.parent.take();
        }
    }
}

/// Cache of the open directories, oldest first.
#[derive(Debug, Default)]
pub(crate) struct OpenDirectories {
    open: VecDeque<Weak<Directory>>,
}

impl OpenDirectories {
    /// Returns the file descriptor of a directory; opens the directory and its ancestors if they are not open.
    pub(crate) fn open(&mut self, directory: &Rc<Directory>) -> Result<Arc<OwnedFd>, Errno> {
        let mut closed = Vec::new();
        let mut ancestor = directory;
        let mut descriptor = loop {
            if let Some(open) = &*ancestor.descriptor.borrow() {
                break open.clone();
            }
            closed.push(ancestor);
            ancestor = ancestor.parent.as_ref().expect("the root is always open");
        };
        for directory in closed.into_iter().rev() {
            descriptor = Arc::new(openat(
                &descriptor,
                &*directory.name,
                OPEN_DIRECTORY_FLAGS,
                Mode::empty(),
            )?);
            self.cache_descriptor(directory, descriptor.clone());
        }
        Ok(descriptor)
    }

    fn cache_descriptor(&mut self, directory: &Rc<Directory>, descriptor: Arc<OwnedFd>) {
        if self.open.len() >= MAX_OPEN_DIRECTORIES
            && let Some(oldest) = self.open.pop_front().and_then(|oldest| oldest.upgrade())
        {
            oldest.descriptor.take();
        }
        *directory.descriptor.borrow_mut() = Some(descriptor);
        self.open.push_back(Rc::downgrade(directory));
    }
}

/// Names and types of a directory's entries; the type is `Unknown` on file systems that do not report it.
pub(crate) type Listing = Vec<(Box<[u8]>, FileType)>;

/// Returns names and types of a directory's entries, without `.` and `..`. An error discards the entries read before it.
pub(crate) fn list(directory: &OwnedFd) -> Result<Listing, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.into(), entry.file_type()));
        }
    }
    Ok(names)
}
