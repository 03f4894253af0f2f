//! The files and directories that a warm interpreter has read: a change of one of them makes the interpreter outdated. Knows stat(2) only;
//! `interpreter` makes them, `mod.rs` compares before each use.

use std::ffi::CString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::stat;

/// Time before the start of the interpreter in which a change is a doubt: the system's clock for files is coarse.
const DOUBT: Duration = Duration::from_millis(50);

/// What stat(2) tells of a file; `None`: there is none. A change of the content changes the times.
type Identity = Option<(u64, u64, i64, i64, i64, i64, i64)>;

/// Paths, each with the file that it leads to.
#[derive(Debug, Default)]
pub(super) struct Dependencies(Vec<(CString, Identity)>);

impl Dependencies {
    /// Looks at the paths, which are separated by NUL bytes.
    pub(super) fn of(paths: &[u8]) -> Self {
        let paths = paths
            .split(|byte| *byte == 0)
            .filter_map(|path| CString::new(path).ok());
        let paths = paths.filter(|path| !path.is_empty());
        Self(paths.map(|path| (path.clone(), identity(&path))).collect())
    }

    /// Returns whether no file has changed since shortly before `start`, when the interpreter was started: it may have read
    /// the file before or after a later change.
    pub(super) fn are_older_than(&self, start: SystemTime) -> bool {
        let limit = start
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(DOUBT);
        let limit = (limit.as_secs() as i64, i64::from(limit.subsec_nanos()));
        let changed = |identity: &Identity| identity.map(|(.., seconds, nanoseconds)| (seconds, nanoseconds));
        self.0.iter().all(|(_, identity)| changed(identity) < Some(limit))
    }

    /// Returns the first path that leads to another file than before; `None` if there is no such path.
    pub(super) fn changed(&self) -> Option<&CString> {
        let (path, _) = self.0.iter().find(|(path, known)| identity(path) != *known)?;
        Some(path)
    }
}

/// Returns whether both paths lead to the same file.
pub(super) fn are_same_file(a: &[u8], b: &[u8]) -> bool {
    let file = |path: &[u8]| stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    file(a).is_some() && file(a) == file(b)
}

fn identity(path: &CString) -> Identity {
    let stat = stat(path.as_c_str()).ok()?;
    Some((
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        stat.st_mtime,
        stat.st_mtime_nsec as i64,
        stat.st_ctime,
        stat.st_ctime_nsec as i64,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_a_removal_and_a_new_file_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (old, missing) = (path("old"), path("missing"));
        std::fs::write(&old, "1").unwrap();
        let look = || Dependencies::of(format!("{old}\0{missing}").as_bytes());
        let before = look();
        assert_eq!(before.changed(), None);
        std::fs::write(&missing, "").unwrap();
        assert_eq!(before.changed().unwrap().to_str().unwrap(), missing);
        let before = look();
        std::fs::write(&old, "22").unwrap();
        assert_eq!(before.changed().unwrap().to_str().unwrap(), old);
        let before = look();
        std::fs::remove_file(&old).unwrap();
        assert_eq!(before.changed().unwrap().to_str().unwrap(), old);
    }

    #[test]
    fn a_file_that_changed_after_the_start_is_a_doubt() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let dependencies = Dependencies::of(file.path().as_os_str().as_encoded_bytes());
        assert!(!dependencies.are_older_than(SystemTime::now() - Duration::from_secs(60)));
        assert!(dependencies.are_older_than(SystemTime::now() + Duration::from_secs(60)));
    }
}
