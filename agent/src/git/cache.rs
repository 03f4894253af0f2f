//! Finds a repository of the image whose objects a new repository can borrow, so that a push sends less. Reads the file system and
//! changes nothing. `git::serve` calls it.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// A repository in the image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CachedRepository {
    /// Its objects directory.
    pub(super) objects: PathBuf,
    /// Branch of its HEAD; `None` if HEAD is detached.
    pub(super) branch: Option<String>,
}

/// Returns the repository in the caches whose path is the longest suffix of `path`. For `/zuul/src/example.org/nova` it tries
/// `zuul/src/example.org/nova` first and `nova` last, each with and without `.git`.
pub(super) fn find(caches: &[PathBuf], path: &Path) -> Option<CachedRepository> {
    let names: PathBuf = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    let mut rest = names.components();
    loop {
        let suffix = rest.as_path();
        rest.next()?;
        let found = caches
            .iter()
            .flat_map(|cache| with_and_without_suffix(cache, suffix))
            .find_map(|path| repository(&path));
        if found.is_some() {
            return found;
        }
    }
}

/// Returns the path as it is, and with `.git` added or removed.
fn with_and_without_suffix(cache: &Path, path: &Path) -> [PathBuf; 2] {
    let path = cache.join(path);
    let mut other = path.clone();
    if path.extension().is_some_and(|extension| extension == "git") {
        other.set_extension("");
    } else {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".git");
        other.set_file_name(name);
    }
    [path, other]
}

/// Opens a repository, bare or with a working copy. `None` for a shallow repository or a partial clone, too: git would expect objects
/// that are missing there.
fn repository(path: &Path) -> Option<CachedRepository> {
    [path.join(".git"), path.to_owned()].into_iter().find_map(|directory| {
        let objects = directory.join("objects");
        let head = fs::read_to_string(directory.join("HEAD")).ok()?;
        fs::read_dir(&objects).ok()?;
        let branch = head
            .strip_prefix("ref: refs/heads/")
            .map(|name| name.trim_end().to_owned())
            // Git refuses to make a repository with such a branch name.
            .filter(|name| !name.is_empty() && !name.contains("..") && !name.ends_with('/'));
        (!directory.join("shallow").exists() && !is_partial(&objects)).then_some(CachedRepository {
            objects: fs::canonicalize(objects).ok()?,
            branch,
        })
    })
}

/// Returns whether the repository is a partial clone: its packs have files named `.promisor` (git's technical/partial-clone).
fn is_partial(objects: &Path) -> bool {
    let packs = fs::read_dir(objects.join("pack")).into_iter().flatten().flatten();
    packs
        .into_iter()
        .any(|pack| pack.path().extension().is_some_and(|extension| extension == "promisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(path: &Path) -> PathBuf {
        fs::create_dir_all(path.join("objects")).unwrap();
        fs::write(path.join("HEAD"), "ref: refs/heads/stable/1\n").unwrap();
        path.join("objects")
    }

    #[test]
    fn the_longest_suffix_of_the_path_is_found() {
        let root = tempfile::tempdir().unwrap();
        let cache = fs::canonicalize(root.path()).unwrap();
        let short = make(&cache.join("nova"));
        let long = make(&cache.join("example.org/nova/.git"));
        let bare = make(&cache.join("example.org/a.b.git"));
        let shallow = cache.join("shallow");
        make(&shallow);
        fs::write(shallow.join("shallow"), "").unwrap();
        let packs = make(&cache.join("partial")).join("pack");
        fs::create_dir(&packs).unwrap();
        fs::write(packs.join("pack-1.promisor"), "").unwrap();
        let caches = ["/no/such/cache".into(), cache.clone()];
        let found = |path: &str| find(&caches, Path::new(path)).map(|cached| cached.objects);
        assert_eq!(found("/zuul/src/example.org/nova"), Some(long.clone()));
        assert_eq!(found("/zuul/src/example.org/nova.git"), Some(long));
        assert_eq!(found("/zuul/src/example.com/nova"), Some(short));
        assert_eq!(found("/zuul/example.org/a.b"), Some(bare));
        for path in ["/zuul/example.org", "/", "/shallow", "/partial", "/zuul/nova/x"] {
            assert_eq!(found(path), None, "{path}");
        }
        let branch = find(&caches, Path::new("/nova")).unwrap().branch;
        assert_eq!(branch.as_deref(), Some("stable/1"));
    }
}
