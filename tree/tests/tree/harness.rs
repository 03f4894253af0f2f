//! Runs both sides in one process, connected by sockets. Takes snapshots of trees with code that shares nothing with the crate under test.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use podbridge_proto::v1::{TreeChangeKind, TreeOpen, TreeProblem, TreeSummary};
use podbridge_tree::{Error, Event, MessageReader, MessageWriter, PROTOCOL_VERSION, Temporaries};

/// Result of a copy, and the events that the caller received.
#[derive(Debug)]
pub(crate) struct CopyResult {
    pub(crate) result: Result<TreeSummary, Error>,
    pub(crate) changes: Vec<(TreeChangeKind, Vec<u8>)>,
    pub(crate) problems: Vec<TreeProblem>,
}

impl CopyResult {
    /// Returns the summary; fails if there was any problem or error.
    pub(crate) fn without_problems(self) -> TreeSummary {
        assert!(self.problems.is_empty(), "{:?}", self.problems);
        self.result.unwrap()
    }

    /// Returns the sorted paths of the changes of one kind.
    pub(crate) fn paths(&self, kind: TreeChangeKind) -> Vec<String> {
        let paths = self.changes.iter().filter(|(other, _)| *other == kind);
        let mut paths: Vec<_> = paths
            .map(|(_, path)| String::from_utf8(path.clone()).unwrap())
            .collect();
        paths.sort();
        paths
    }
}

pub(crate) type ServerThread = thread::JoinHandle<Result<TreeSummary, Error>>;

/// Side that calls: the sender (push) or the receiver (pull).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Push,
    Pull,
}

pub(crate) fn options() -> TreeOpen {
    TreeOpen {
        version: PROTOCOL_VERSION,
        list_changes: true,
        // The snapshots contain the root; tests/tree/destinations.rs tests a destination that keeps its own attributes.
        preserve_root_attributes: true,
        ..TreeOpen::default()
    }
}

/// Starts an agent's side that sends `root`. Returns the caller's ends of its streams and its thread.
pub(crate) fn serve(
    root: &Path,
    options: TreeOpen,
) -> (MessageWriter<UnixStream>, MessageReader<UnixStream>, ServerThread) {
    let (caller_end, server_end) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        podbridge_tree::serve(server_end.try_clone().unwrap(), server_end, &Temporaries::default())
    });
    let mut output = MessageWriter::new(caller_end.try_clone().unwrap());
    let open = TreeOpen {
        agent_sends: true,
        root: root.as_os_str().as_bytes().to_vec().into(),
        ..options
    };
    output.send(&open).unwrap();
    (output, MessageReader::new(caller_end), server)
}

pub(crate) fn copy(from: &Path, to: &Path, direction: Direction, options: &TreeOpen) -> CopyResult {
    let (caller_end, server_end) = UnixStream::pair().unwrap();
    let (own, other) = match direction {
        Direction::Push => (from, to),
        Direction::Pull => (to, from),
    };
    let open = TreeOpen {
        agent_sends: direction == Direction::Pull,
        root: other.as_os_str().as_bytes().to_vec().into(),
        ..options.clone()
    };
    let server = thread::spawn(move || {
        let input = server_end.try_clone().unwrap();
        podbridge_tree::serve(input, server_end, &Temporaries::default())
    });
    let (mut changes, mut problems) = (Vec::new(), Vec::new());
    let input = caller_end.try_clone().unwrap();
    let result = podbridge_tree::call(
        &open,
        own,
        input,
        caller_end,
        &Temporaries::default(),
        &mut |event| match event {
            Event::Change(change) => changes.push((change.kind(), change.path.to_vec())),
            Event::Problem { problem, .. } => problems.push(problem),
            Event::Content(_) => {}
        },
    );
    let served = server.join().unwrap();
    assert_eq!(served.is_ok(), result.is_ok(), "{served:?} {result:?}");
    CopyResult {
        result,
        changes,
        problems,
    }
}

/// State of one path of a tree, as far as a copy preserves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotEntry {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    /// Bytes of a file or target of a symbolic link.
    content: Vec<u8>,
    device: u64,
    /// First path with the same inode.
    same_as: Option<PathBuf>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) type Snapshot = BTreeMap<PathBuf, SnapshotEntry>;

/// Returns the state of every path below a root; the root itself is `""`.
pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let mut tree = Snapshot::new();
    let mut inodes = BTreeMap::new();
    let mut stack = vec![PathBuf::new()];
    while let Some(path) = stack.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
        } else if kind.is_file() {
            fs::read(&full).unwrap()
        } else {
            Vec::new()
        };
        let is_special = kind.is_block_device() || kind.is_char_device();
        tree.insert(
            path.clone(),
            SnapshotEntry {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                mtime: (meta.mtime(), meta.mtime_nsec()),
                content,
                device: if is_special { meta.rdev() } else { 0 },
                same_as: None,
                xattrs: xattrs(&full),
            },
        );
        if kind.is_file() && meta.nlink() > 1 {
            inodes
                .entry((meta.dev(), meta.ino()))
                .or_insert_with(Vec::new)
                .push(path.clone());
        }
        if kind.is_dir() {
            stack.extend(
                fs::read_dir(&full)
                    .unwrap()
                    .map(|entry| path.join(entry.unwrap().file_name())),
            );
        }
    }
    for mut names in inodes.into_values() {
        names.sort();
        for name in &names[1..] {
            tree.get_mut(name).unwrap().same_as = Some(names[0].clone());
        }
    }
    tree
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut found: Vec<_> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."))
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// Fails with the first paths that differ, with their content shortened.
pub(crate) fn assert_equal(expected: &Snapshot, found: &Snapshot, about: &str) {
    let paths: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let differ = |path: &&&PathBuf| expected.get(**path) != found.get(**path);
    let short = |seen: Option<&SnapshotEntry>| {
        seen.map(|seen| SnapshotEntry {
            content: seen.content.iter().take(40).copied().collect(),
            ..seen.clone()
        })
    };
    let differing: Vec<_> = paths.iter().filter(differ).take(3).collect();
    assert!(
        differing.is_empty(),
        "{about}: {:#?}",
        differing
            .iter()
            .map(|path| (path, short(expected.get(**path)), short(found.get(**path))))
            .collect::<Vec<_>>()
    );
}

/// Returns the sorted names in a directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
