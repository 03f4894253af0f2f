//! The files of this repository as text, for `tidy`. Reads the working tree and needs no git. `module_graph` and the rules of `tidy`
//! work on a [`Repository`]; its tests make one from samples.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Directories that git ignores or owns.
const SKIPPED: [&str; 5] = ["target", "dist", "__pycache__", ".git", ".ruff_cache"];

#[derive(Debug, Default)]
pub struct Repository {
    /// Text by path from the root of the repository; `None` for a file that is not UTF-8.
    files: BTreeMap<String, Option<String>>,
}

impl Repository {
    /// Reads every file below `root`.
    pub fn read(root: &Path) -> Self {
        let mut repository = Self::default();
        repository.add(root, "");
        repository
    }

    /// Makes a repository of samples: path and text.
    pub fn of(samples: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| ((*path).to_owned(), Some((*text).to_owned()));
        Self {
            files: samples.iter().map(file).collect(),
        }
    }

    fn add(&mut self, directory: &Path, prefix: &str) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{prefix}{name}");
            let file_type = entry.file_type().unwrap();
            if file_type.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    self.add(&entry.path(), &format!("{path}/"));
                }
            } else if file_type.is_file() {
                // An editor may have removed its temporary file by now.
                let Ok(bytes) = fs::read(entry.path()) else { continue };
                self.files.insert(path, String::from_utf8(bytes).ok());
            }
        }
    }

    /// Returns path and text of each file that is text.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// Returns path and text of each Rust file that a person has written.
    pub fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts()
            .filter(|(path, _)| path.ends_with(".rs") && !is_generated(path))
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// Tells whether there is a file or a directory of this path; the empty path is the root.
    pub fn contains(&self, path: &str) -> bool {
        let below = format!("{path}/");
        path.is_empty() || self.files.contains_key(path) || self.files.keys().any(|file| file.starts_with(&below))
    }
}

/// Tells whether a tool has written this file; `proto/tests/bootstrap.rs` compares its content.
pub fn is_generated(path: &str) -> bool {
    path.contains("/gen/")
}
