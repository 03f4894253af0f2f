//! Both sides in one process, connected by sockets, and a look at a tree that shares nothing with the walk under test.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use podbridge_proto::v1::{TreeChangeKind, TreeOpen, TreeProblem, TreeSummary};
use podbridge_tree::{Error, Event, MessageReader, MessageWriter, PROTOCOL_VERSION, Temporaries};

/// What came of a copy.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) result: Result<TreeSummary, Error>,
    pub(crate) changes: Vec<(TreeChangeKind, Vec<u8>)>,
    pub(crate) problems: Vec<TreeProblem>,
}

impl Copied {
    /// Without any problem.
    pub(crate) fn clean(self) -> TreeSummary {
        assert!(self.problems.is_empty(), "{:?}", self.problems);
        self.result.unwrap()
    }

    pub(crate) fn paths(&self, kind: TreeChangeKind) -> Vec<String> {
        let paths = self.changes.iter().filter(|(other, _)| *other == kind);
        let mut paths: Vec<_> = paths
            .map(|(_, path)| String::from_utf8(path.clone()).unwrap())
            .collect();
        paths.sort();
        paths
    }
}

pub(crate) type Serving = thread::JoinHandle<Result<TreeSummary, Error>>;

/// Who calls: the side that has the tree, or the one that gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Push,
    Pull,
}

pub(crate) fn open() -> TreeOpen {
    TreeOpen {
        version: PROTOCOL_VERSION,
        list_changes: true,
        ..TreeOpen::default()
    }
}

/// An agent that sends `root`, and this end of its streams.
pub(crate) fn serve(root: &Path, options: TreeOpen) -> (MessageWriter<UnixStream>, MessageReader<UnixStream>, Serving) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serving =
        thread::spawn(move || podbridge_tree::serve(theirs.try_clone().unwrap(), theirs, &Temporaries::default()));
    let mut output = MessageWriter::new(ours.try_clone().unwrap());
    let open = TreeOpen {
        agent_sends: true,
        root: root.as_os_str().as_bytes().to_vec().into(),
        ..options
    };
    output.send(&open).unwrap();
    (output, MessageReader::new(ours), serving)
}

pub(crate) fn copy(from: &Path, to: &Path, direction: Direction, options: &TreeOpen) -> Copied {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (own, other) = match direction {
        Direction::Push => (from, to),
        Direction::Pull => (to, from),
    };
    let open = TreeOpen {
        agent_sends: direction == Direction::Pull,
        root: other.as_os_str().as_bytes().to_vec().into(),
        ..options.clone()
    };
    let serving = thread::spawn(move || {
        let input = theirs.try_clone().unwrap();
        podbridge_tree::serve(input, theirs, &Temporaries::default())
    });
    let (mut changes, mut problems) = (Vec::new(), Vec::new());
    let input = ours.try_clone().unwrap();
    let result = podbridge_tree::call(
        &open,
        own,
        input,
        ours,
        &Temporaries::default(),
        &mut |event| match event {
            Event::Change(change) => changes.push((change.kind(), change.path.to_vec())),
            Event::Problem { problem, .. } => problems.push(problem),
            Event::Content(_) => {}
        },
    );
    let served = serving.join().unwrap();
    assert_eq!(served.is_ok(), result.is_ok(), "{served:?} {result:?}");
    Copied {
        result,
        changes,
        problems,
    }
}

/// One path of a tree, as far as a copy keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    /// Digest and length, target, device.
    content: Vec<u8>,
    device: u64,
    /// The first path with the same inode.
    same_as: Option<PathBuf>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) type Tree = BTreeMap<PathBuf, Seen>;

/// The root is `""`.
pub(crate) fn look(root: &Path) -> Tree {
    let mut tree = Tree::new();
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
            Seen {
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

/// Fails with the paths that differ, and little else.
pub(crate) fn assert_equal(expected: &Tree, found: &Tree, about: &str) {
    let paths: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let differ = |path: &&&PathBuf| expected.get(**path) != found.get(**path);
    let short = |seen: Option<&Seen>| {
        seen.map(|seen| Seen {
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

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
