//! State of one copy on the receiving side. The other files of the module change it, each for one kind of record; this file knows none of
//! them but `output`.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use podbridge_files::mounts::Mount;
use podbridge_files::owner_rights::OwnerRights;
use podbridge_proto::v1::{TreeAttribute, TreeChangeKind, TreeEntry, TreeOpen};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::output::Output;
use crate::attributes::{Attributes, PERMISSION_BITS, SET_ID_BITS, file_type, memory_size};
use crate::digest::TransferHasher;
use crate::directory::{Directory, OpenDirectories};
use crate::error::Error;
use crate::filter::Filters;
use crate::memory::Memory;
use crate::owners::OwnerIds;
use crate::temporaries::{Temporaries, Temporary};
use crate::xattrs::Selection;

/// Memory for a directory, bytes, beside its name and extended attributes.
const DIRECTORY_COST: usize = 512;
/// Memory for a file whose content was requested, bytes, beside its name and extended attributes.
const FILE_COST: usize = 384;
/// Memory for a name in a directory, bytes.
const NAME_COST: usize = 16;
/// Memory for a file with several names, or for one of those names, bytes, beside the name itself.
const LINK_COST: usize = 160;

/// State of one copy on the receiving side.
pub(super) struct Receiver<'a, W> {
    pub(super) options: &'a TreeOpen,
    pub(super) filters: Filters,
    pub(super) output: Output<'a, W>,
    pub(super) temporaries: &'a Temporaries,
    pub(super) directories: OpenDirectories,
    pub(super) owner_ids: OwnerIds,
    /// Whether this process is root and thus needs no permissions.
    pub(super) is_root: bool,
    pub(super) xattrs: Selection,
    /// Whether the user knows that bits that give rights were left out.
    pub(super) has_told_of_privileges: bool,
    pub(super) owner_rights: OwnerRights,
    /// The mount of the destination, outside of which nothing is deleted; `None`: nothing is deleted anywhere.
    pub(super) deletable_mount: Option<Mount>,
    /// `Some` if the tree is a single file: its name here; empty: the sender's name.
    pub(super) single_name: Option<Box<[u8]>>,
    /// Whether the root record has arrived.
    pub(super) has_root: bool,
    /// Whether the sender has announced its last entry.
    pub(super) has_all_entries: bool,
    /// Unfinished directories by entry number; 0: the destination.
    pub(super) unfinished: HashMap<u64, UnfinishedDirectory>,
    /// Files whose content was requested and has not begun to arrive, by entry number.
    pub(super) pending: HashMap<u64, PendingFile>,
    /// The content that is arriving.
    pub(super) content: Option<IncomingContent>,
    pub(super) links: Links,
    /// Memory for what the sender said.
    pub(super) memory: Memory,
    /// Hashes names with a key that the sender cannot know.
    pub(super) name_hashes: RandomState,
}

/// A regular file whose content was requested and has not arrived.
#[derive(Debug)]
pub(super) struct PendingFile {
    /// Entry number of its directory.
    pub(super) parent: u64,
    pub(super) directory: Rc<Directory>,
    pub(super) name: Box<[u8]>,
    pub(super) attributes: Attributes,
    pub(super) change: TreeChangeKind,
    /// Other names to link when it has arrived.
    pub(super) links: Vec<WaitingName>,
    /// Later entries may be other names of this file.
    pub(super) has_links: bool,
}

/// A file whose content is arriving.
#[derive(Debug)]
pub(super) struct IncomingContent {
    /// Entry number of the file.
    pub(super) number: u64,
    pub(super) pending: PendingFile,
    /// `None` after an error, which was reported; the rest of the content is skipped.
    pub(super) writing: Option<TemporaryContent>,
}

/// The temporary file that receives the content.
#[derive(Debug)]
pub(super) struct TemporaryContent {
    /// `Err`: no file can be made beside the target, for this reason, so `file` is elsewhere and the target will be written in place.
    pub(super) temporary: Result<Temporary, Errno>,
    pub(super) file: OwnedFd,
    pub(super) hasher: TransferHasher,
    /// Bytes received, holes counted.
    pub(super) size: u64,
    /// End of the last data in the file; only a hole follows, which is not written yet.
    pub(super) written: u64,
}

/// State of a directory on this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DirectoryState {
    /// The directory existed before the copy.
    Present,
    /// This copy made it, so it was empty.
    New,
    /// The directory does not exist; a dry run would make it.
    Absent,
    /// The directory could not be made or entered, which was reported; its entries are skipped.
    Broken,
}

/// A directory with entries or content still to come.
#[derive(Debug)]
pub(super) struct UnfinishedDirectory {
    pub(super) directory: Rc<Directory>,
    pub(super) state: DirectoryState,
    /// Entry number of its parent; `None` for the root.
    pub(super) parent: Option<u64>,
    /// Whether the directory is part of the tree; a directory that gets a single file is not.
    pub(super) is_of_the_tree: bool,
    /// Attributes to set; `None`: the directory keeps its own, as the destination does.
    pub(super) attributes: Option<Attributes>,
    /// Mode that the directory had before this process added permissions, if it keeps its own.
    pub(super) own_mode: Option<u32>,
    /// Extended attributes that it had before the copy; `Some` if any of its attributes differed.
    pub(super) previous_xattrs: Option<Vec<TreeAttribute>>,
    /// Number of events to wait for: its own end, the end of each directory in it, and the content of files in it.
    pub(super) waiting: usize,
    /// Whether the sender has ended it.
    pub(super) ended: bool,
    /// Hashes of the names that the sender has in it; held only if other names shall be removed. Among a million names of each side, one is
    /// kept by mistake in one of ten million copies.
    pub(super) names: Vec<u64>,
}

impl UnfinishedDirectory {
    pub(super) fn new(
        directory: Rc<Directory>,
        state: DirectoryState,
        parent: Option<u64>,
        attributes: Option<Attributes>,
    ) -> Self {
        Self {
            directory,
            state,
            parent,
            is_of_the_tree: true,
            attributes,
            own_mode: None,
            previous_xattrs: None,
            waiting: 1,
            ended: false,
            names: Vec::new(),
        }
    }
}

/// Files with several names.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Each of the sender's files that may get further names, by the number of its entry.
    pub(super) files: HashMap<u64, LinkedFile>,
    /// Device and inode of the local files that stay as they are. Two files of the sender must not share one of them.
    pub(super) kept_inodes: HashSet<(u64, u64)>,
}

/// State of a file that has several names.
#[derive(Debug)]
pub(super) enum LinkedFile {
    /// The file is here, in this directory and of this name.
    Present(Rc<Directory>, Box<[u8]>),
    /// The content has not arrived.
    Pending,
    /// A dry run would make the file.
    WouldBeMade,
    /// The file was not copied, which was reported.
    Failed,
}

/// A name that waits for its file.
#[derive(Debug)]
pub(super) struct WaitingName {
    /// Entry number of `directory`.
    pub(super) parent: u64,
    pub(super) directory: Rc<Directory>,
    pub(super) name: Box<[u8]>,
    pub(super) change: TreeChangeKind,
}

impl<W> Receiver<'_, W> {
    /// Returns the attributes that the local file of an entry shall have.
    pub(super) fn attributes(&self, entry: &TreeEntry) -> Attributes {
        let copied = entry.attributes.iter().filter(|one| self.xattrs.includes(&one.name));
        // Copied, because a slice would keep the whole message in memory.
        let owned = copied.map(|one| TreeAttribute {
            name: one.name.to_vec().into(),
            value: one.value.to_vec().into(),
        });
        let mut xattrs: Vec<_> = owned.collect();
        xattrs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let owner = self.owner_ids.local(entry.uid, entry.gid);
        Attributes {
            mode: self.mode_of(entry),
            owner: (!self.options.no_owner && self.owner_rights.allows(owner.0, owner.1)).then_some(owner),
            mtime_ns: entry.mtime_ns,
            xattrs,
        }
    }

    /// Returns the bits of an entry's mode that are copied. The set-group-ID bit of a directory gives nobody rights: it chooses the group of
    /// new files.
    fn mode_of(&self, entry: &TreeEntry) -> u32 {
        if self.options.no_privileges && file_type(entry.mode) != FileType::Directory {
            entry.mode & PERMISSION_BITS & !SET_ID_BITS
        } else {
            entry.mode & PERMISSION_BITS
        }
    }

    /// Returns the hash of a name in a directory.
    pub(super) fn name_hash(&self, name: &[u8]) -> u64 {
        self.name_hashes.hash_one(name)
    }

    /// Counts a name in a directory.
    pub(super) fn take_memory_for_name(&mut self) -> Result<(), Error> {
        self.memory.take(NAME_COST, "the names in directories")
    }

    /// Counts another name of a file, or a file that may get one.
    pub(super) fn take_memory_for_link(&mut self, name: &[u8]) -> Result<(), Error> {
        self.memory
            .take(LINK_COST + name.len(), "files with several names (hard links)")
    }

    /// Counts a name that no longer waits for its file.
    pub(super) fn release_waiting_name(&mut self, name: &WaitingName) {
        self.memory.release(LINK_COST + name.name.len());
    }

    pub(super) fn take_memory_for_directory(&mut self, name: &[u8], attributes: &Attributes) -> Result<(), Error> {
        let bytes = DIRECTORY_COST + name.len() + memory_size(&attributes.xattrs);
        self.memory.take(bytes, "directories that wait for their content")
    }

    /// Counts a directory that is finished.
    pub(super) fn release_finished_directory(&mut self, unfinished: &UnfinishedDirectory) {
        if let (Some(_), Some(attributes)) = (unfinished.parent, &unfinished.attributes) {
            let name = unfinished.directory.name().len();
            self.memory
                .release(DIRECTORY_COST + name + memory_size(&attributes.xattrs));
        }
    }

    /// Counts the names of a directory that the sender has ended.
    pub(super) fn release_names(&mut self, count: usize) {
        self.memory.release(count * NAME_COST);
    }

    pub(super) fn take_memory_for_file(&mut self, name: &[u8], attributes: &Attributes) -> Result<(), Error> {
        let bytes = FILE_COST + name.len() + memory_size(&attributes.xattrs);
        self.memory.take(bytes, "files that wait for their content")
    }

    /// Counts a file whose content arrives.
    pub(super) fn release_file(&mut self, pending: &PendingFile) {
        self.memory
            .release(FILE_COST + pending.name.len() + memory_size(&pending.attributes.xattrs));
    }
}
