//! What the options of a target resolve to: server, authority, user and namespace, as they were when the bridge first needed them. A
//! bridge dials nothing else for its whole life, and `is_current` tells when a fresh bridge would dial something else. Reads files,
//! asks no server. `link` keeps one for each bridge.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use crate::error::Failure;
use crate::pod::flags::Flags;
use crate::pod::kubeconfig;
use crate::pod::overrides::{self, SelectedContext};
use crate::protocol::target::Target;

/// A file whose status changed more recently than this may change again without a visible difference: timestamps have the resolution
/// of the kernel's clock tick, at most 10 ms.
const TIMESTAMP_RESOLUTION: Duration = Duration::from_millis(20);

/// Snapshot of a target's settings and of the files that they came from.
pub(crate) struct Resolution {
    pub(super) context: SelectedContext,
    kubeconfig: Mutex<Vec<WatchedFile>>,
    /// Certificates, keys and tokens that are named by path.
    credentials: Mutex<Vec<WatchedFile>>,
    digest: [u8; 32],
}

impl Resolution {
    /// Reads the files that the target names.
    pub(crate) fn read(target: &Target) -> Result<Self, Failure> {
        let flags = Flags::parse(&target.extra_args)?;
        // Their state is taken before their content: a change between the two is noticed at the next check.
        let kubeconfig = kubeconfig::files(target, &flags)
            .into_iter()
            .map(WatchedFile::new)
            .collect();
        let context = overrides::resolve(target, &flags)?;
        let credentials = context.credential_files().into_iter().map(WatchedFile::new).collect();
        Ok(Self {
            digest: Sha256::digest(context.as_json().to_string().as_bytes()).into(),
            context,
            kubeconfig: Mutex::new(kubeconfig),
            credentials: Mutex::new(credentials),
        })
    }

    /// Refuses a kubeconfig with more than tokens and inline certificates. `directory`: where its files may be.
    pub(crate) fn check_confined(&self, directory: &Path) -> Result<(), Failure> {
        self.context.check_confined(directory)
    }

    /// Returns whether the target still resolves to this. A kubeconfig may have changed in what does not count here; a credential file
    /// must be what it was, as it may have become another user's.
    pub(crate) fn is_current(&self, target: &Target) -> bool {
        let mut credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        if credentials.iter_mut().any(WatchedFile::has_changed) {
            return false;
        }
        drop(credentials);
        let mut kubeconfig = self.kubeconfig.lock().unwrap_or_else(PoisonError::into_inner);
        if !kubeconfig.iter_mut().any(WatchedFile::has_changed) {
            return true;
        }
        match Self::read(target) {
            Ok(now) if now.digest == self.digest => {
                *kubeconfig = now.kubeconfig.into_inner().unwrap_or_else(PoisonError::into_inner);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}

impl std::fmt::Debug for Resolution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolution").finish_non_exhaustive()
    }
}

/// A file by its path: its identity and status, and the digest of its content for the moments when the status cannot tell.
#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    /// `None`: the file is absent or cannot be read.
    state: Option<FileState>,
}

#[derive(Debug, PartialEq, Eq)]
struct FileState {
    status: Status,
    content: [u8; 32],
}

#[derive(Debug, PartialEq, Eq)]
struct Status {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds of the last change of status; the kernel sets it, and no program can set it back.
    changed: (i64, i64),
    /// The change is old enough that a later one has another time.
    settled: bool,
}

impl WatchedFile {
    fn new(path: PathBuf) -> Self {
        let state = FileState::read(&path);
        Self { path, state }
    }

    /// Returns whether the content differs from what it was; keeps what the file is now.
    fn has_changed(&mut self) -> bool {
        let status = fs::metadata(&self.path).map(|metadata| Status::new(&metadata));
        match (&self.state, status) {
            (Some(state), Ok(status)) if state.status.settled && state.status == status => return false,
            (None, Err(error)) if error.kind() == ErrorKind::NotFound => return false,
            _ => {}
        }
        let now = FileState::read(&self.path);
        let content = |state: &Option<FileState>| state.as_ref().map(|state| state.content);
        let changed = content(&now) != content(&self.state);
        self.state = now;
        changed
    }
}

impl FileState {
    fn read(path: &Path) -> Option<Self> {
        let status = Status::new(&fs::metadata(path).ok()?);
        let content = Sha256::digest(fs::read(path).ok()?).into();
        Some(Self { status, content })
    }
}

impl Status {
    fn new(metadata: &Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let change = Duration::new(changed.0.try_into().unwrap_or(0), changed.1.try_into().unwrap_or(0));
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed,
            settled: change + TIMESTAMP_RESOLUTION < since_epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
clusters: [{name: c, cluster: {server: 'https://one:1', certificate-authority: ca.crt}}, {name: d, cluster: {server: 'https://two:2'}}]
users: [{name: u, user: {tokenFile: token}}, {name: v, user: {token: other}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: ci}}, {name: y, context: {cluster: d, user: u}}]
current-context: x
";

    /// Edits of a kubeconfig or of a file that it names, and whether a bridge that was there before may serve on.
    const EDITS: &[(&str, &str, &str, bool)] = &[
        // name, text to replace ("" appends; a path replaces that file), replacement, still current
        ("a comment", "", "# seen\n", true),
        (
            "another context",
            "namespace: ci}}, {name: y, context: {cluster: d",
            "namespace: ci}}, {name: y, context: {cluster: c",
            true,
        ),
        ("another user", "token: other", "token: another", true),
        ("current context", "current-context: x", "current-context: y", false),
        ("namespace", "namespace: ci", "namespace: cd", false),
        ("server", "https://one:1", "https://one:2", false),
        (
            "authority's path",
            "certificate-authority: ca.crt",
            "certificate-authority: cb.crt",
            false,
        ),
        ("user of the context", "user: u, namespace", "user: v, namespace", false),
        ("user removed", "{name: u, user: {tokenFile: token}}, ", "", false),
        ("user's credentials", "tokenFile: token", "token: inline", false),
        ("broken file", "clusters:", "clusters: {", false),
        ("token file", "/token", "another token", false),
        ("authority", "/ca.crt", "another authority", false),
    ];

    /// Each row: an edit of the kubeconfig of a build, and the words of the refusal; empty: it is used. `OTHER` is a directory elsewhere.
    #[test]
    fn in_a_build_nothing_outside_of_the_kubeconfigs_directory_is_read_or_run() {
        for (old, new, refused) in [
            ("", "", ""),
            ("certificate-authority: ca.crt", "certificate-authority-data: YQ==", ""),
            (
                "token: other",
                "exec: {apiVersion: client.authentication.k8s.io/v1, command: ./plugin}",
                "credential plugin",
            ),
            ("token: other", "auth-provider: {name: oidc}", "auth-provider"),
            ("token: other", "tokenFile: token", "tokenFile"),
            (
                "token: other",
                "token: other, client-certificate: OTHER/c.crt",
                "client-certificate",
            ),
            ("token: other", "client-key: OTHER/c.crt", "client-key"),
            ("token: other", "client-key: missing", "client-key"),
            (
                "certificate-authority: ca.crt",
                "certificate-authority: OTHER/c.crt",
                "certificate-authority",
            ),
            (
                "certificate-authority: ca.crt",
                "certificate-authority: link",
                "certificate-authority",
            ),
            (
                "certificate-authority: ca.crt",
                "certificate-authority: ../kube-2/ca.crt",
                "certificate-authority",
            ),
            (
                "certificate-authority: ca.crt",
                "certificate-authority: ca.crt, proxy-url: 'http://127.0.0.1:1'",
                "proxy-url",
            ),
        ] {
            let build = tempfile::tempdir().unwrap();
            let (directory, other) = (build.path().join("kube"), build.path().join("kube-2"));
            fs::create_dir(&directory).unwrap();
            fs::create_dir(&other).unwrap();
            for path in [directory.join("ca.crt"), other.join("ca.crt"), other.join("c.crt")] {
                fs::write(path, "a").unwrap();
            }
            std::os::unix::fs::symlink(other.join("c.crt"), directory.join("link")).unwrap();
            let base = FILE.replace("user: u, namespace", "user: v, namespace");
            assert!(base.contains(old));
            let new = new.replace("OTHER", other.to_str().unwrap());
            fs::write(directory.join("config"), base.replacen(old, &new, 1)).unwrap();
            let target = Target {
                kubeconfig: Some(directory.join("config").to_str().unwrap().into()),
                ..Target::default()
            };
            let checked = Resolution::read(&target).unwrap().check_confined(&directory);
            match (refused, checked) {
                ("", checked) => checked.unwrap(),
                (refused, Err(failure)) => assert!(failure.message.contains(refused), "{refused}: {failure}"),
                (refused, Ok(())) => panic!("{refused} was accepted"),
            }
        }
    }

    #[test]
    fn a_bridge_is_current_as_long_as_its_options_resolve_to_the_same() {
        for (name, old, new, expected) in EDITS {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            for (name, content) in [("config", FILE), ("token", "t"), ("ca.crt", "a")] {
                fs::write(path(name), content).unwrap();
            }
            let target = Target {
                pod: Some("web".into()),
                kubeconfig: Some(path("config").to_str().unwrap().into()),
                ..Target::default()
            };
            let resolution = Resolution::read(&target).unwrap();
            assert!(resolution.is_current(&target), "{name}");
            match (old.strip_prefix('/'), old.is_empty()) {
                (Some(file), _) => fs::write(path(file), new).unwrap(),
                (None, true) => fs::write(path("config"), format!("{FILE}{new}")).unwrap(),
                (None, false) => {
                    assert!(FILE.contains(old), "{name}");
                    fs::write(path("config"), FILE.replace(old, new)).unwrap();
                }
            }
            assert_eq!(resolution.is_current(&target), *expected, "{name}");
        }
    }

    #[test]
    fn an_edit_of_the_same_length_at_the_same_moment_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for round in 0..200 {
            fs::write(&path, format!("{:03}", round)).unwrap();
            let mut file = WatchedFile::new(path.clone());
            assert!(!file.has_changed());
            fs::write(&path, format!("{:03}", round + 500)).unwrap();
            assert!(file.has_changed(), "{round}");
        }
    }

    #[test]
    fn a_file_that_appears_or_disappears_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = WatchedFile::new(path.clone());
        assert!(!file.has_changed());
        fs::write(&path, "").unwrap();
        assert!(file.has_changed());
        fs::remove_file(&path).unwrap();
        assert!(file.has_changed());
    }
}
