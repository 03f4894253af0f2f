//! Checks of both sides of a copy for any bytes of the other side: an end without a panic, and nothing changed outside of the destination.
//! The fuzzer of `fuzz/` calls them with new inputs, the test below with the corpus. Nothing else calls them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use podbridge_proto::v1::{TreeFilter, TreeOpen};

use crate::filter::Filters;
use crate::wire::{MessageReader, MessageWriter, PROTOCOL_VERSION};
use crate::{Temporaries, receiver, sender};

/// A directory of one input, removed at its end.
struct InputDirectory(PathBuf);

impl InputDirectory {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // In memory: a directory on a disk takes a hundred times as long to make and remove.
        let place = ["/dev/shm", "/tmp"].into_iter().find(|place| Path::new(place).is_dir());
        let name = format!("podbridge-fuzz-{}-{number}", std::process::id());
        let path = Path::new(place.expect("a directory for temporary files")).join(name);
        fs::create_dir(&path).expect("a temporary directory");
        Self(path)
    }

    /// Returns the stream of the other side: a file with these bytes.
    fn stream(&self, data: &[u8]) -> MessageReader<File> {
        let path = self.0.join("stream");
        fs::write(&path, data).expect("a temporary file");
        MessageReader::new(File::open(path).expect("the file that was written"))
    }
}

impl Drop for InputDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options() -> TreeOpen {
    TreeOpen {
        version: PROTOCOL_VERSION,
        delete: true,
        list_changes: true,
        no_privileges: true,
        ..TreeOpen::default()
    }
}

/// The bytes are what a sender sends.
pub fn tree_receiver(data: &[u8]) {
    let directory = InputDirectory::new();
    let (to, beside) = (directory.0.join("to"), directory.0.join("beside"));
    fs::create_dir(&to).expect("a directory");
    fs::write(&beside, "beside").expect("a file");
    let (input, output) = (directory.stream(data), MessageWriter::new(io::sink()));
    let _ = receiver::receive(&to, &options(), input, output, &Temporaries::default(), &mut |_| {});
    let mut names: Vec<_> = fs::read_dir(&directory.0)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["beside", "stream", "to"]);
    assert_eq!(fs::read(&beside).expect("the file"), b"beside");
}

/// The bytes are what a receiver answers.
pub fn tree_sender(data: &[u8]) {
    let directory = InputDirectory::new();
    let from = directory.0.join("from");
    fs::create_dir_all(from.join("d/e")).expect("directories");
    for name in ["a", "d/b", "d/e/c"] {
        fs::write(from.join(name), name).expect("a file");
    }
    let (input, output) = (directory.stream(data), MessageWriter::new(io::sink()));
    let _ = sender::send(&from, &options(), input, output, &mut |_| {});
}

/// A pattern, a line feed, and a path: a pattern that matches a path does so for each way to write the same.
pub fn tree_filter(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (pattern, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let filter = |include| TreeFilter {
        include,
        pattern: pattern.to_vec().into(),
    };
    let Ok(exclude) = Filters::new(&[filter(false)]) else {
        return;
    };
    for is_directory in [false, true] {
        let excludes = exclude.excludes(path, is_directory);
        let include = Filters::new(&[filter(true), filter(false)]).expect("it was valid before");
        assert!(!include.excludes(path, is_directory), "the first pattern decides");
        let twice = Filters::new(&[filter(false), filter(true)]).expect("it was valid before");
        assert_eq!(twice.excludes(path, is_directory), excludes);
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    type Check = fn(&[u8]);

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let files = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn the_corpus_is_replayed() {
        let targets: [(&str, Check); 3] = [
            ("tree_receiver", tree_receiver),
            ("tree_sender", tree_sender),
            ("tree_filter", tree_filter),
        ];
        for (target, check) in targets {
            let inputs = corpus(target);
            assert!(!inputs.is_empty(), "{target} has no corpus");
            inputs.iter().for_each(|input| check(input));
        }
    }
}
