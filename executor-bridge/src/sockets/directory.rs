//! Where the files of bridges are, and whether that place can be trusted: a directory of this user alone. Clients and
//! daemons call it; neither touches a file there before it was checked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::geteuid;

use crate::env::{Environment, PODBRIDGE_DIR, Process, XDG_RUNTIME_DIR};
use crate::error::{Failure, Kind};
use crate::protocol::target::Key;

/// `sun_path` less its NUL.
pub(super) const SOCKET_PATH_MAX: usize = 107;

/// A checked directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Opens the directory of this user's bridges; makes it if absent.
    pub(crate) fn open() -> Result<Self, Failure> {
        Self::at(path(&Process))
    }

    fn at(path: PathBuf) -> Result<Self, Failure> {
        let refuse = |why: String| {
            Failure::new(
                Kind::Bridge,
                format!(
                    "the directory {} cannot hold bridge sockets: {why}; fix it or set {PODBRIDGE_DIR} to another one",
                    path.display()
                ),
            )
        };
        if !path.is_absolute() {
            return Err(refuse("it is not an absolute path".into()));
        }
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refuse(error.to_string())),
            _ => {}
        }
        let found = fs::symlink_metadata(&path).map_err(|error| refuse(error.to_string()))?;
        let own = geteuid().as_raw();
        if !found.is_dir() {
            return Err(refuse("it is not a real directory".into()));
        }
        if found.uid() != own {
            return Err(refuse(format!("it belongs to uid {}, not to {own}", found.uid())));
        }
        if found.mode() & 0o777 != 0o700 {
            return Err(refuse(format!("its mode is {:04o}, not 0700", found.mode() & 0o777)));
        }
        Ok(Self(path))
    }

    pub(crate) fn files(&self, key: &Key) -> Result<BridgeFiles, Failure> {
        let file = |extension| self.0.join(format!("{key}.{extension}"));
        let socket = file("sock");
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(Failure::new(
                Kind::Bridge,
                format!(
                    "the socket path {} is longer than {SOCKET_PATH_MAX} bytes; set {PODBRIDGE_DIR} to a shorter one",
                    socket.display()
                ),
            ));
        }
        Ok(BridgeFiles {
            socket,
            lock: file("lock"),
            log: file("log"),
        })
    }

    /// The sockets of all bridges, dead ones included.
    pub(crate) fn sockets(&self) -> io::Result<Vec<PathBuf>> {
        let mut sockets = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            // A link is another name of a socket that is here too.
            let is_socket = path.extension().is_some_and(|extension| extension == "sock");
            if is_socket && !path.is_symlink() {
                sockets.push(path);
            }
        }
        sockets.sort();
        Ok(sockets)
    }
}

/// Returns `$PODBRIDGE_DIR`, else `$XDG_RUNTIME_DIR/podbridge`, else `/tmp/podbridge-<uid>`. The plugin for Ansible does the same
/// (`socket_directory`); both are tested with tests/vectors/socket-directories.json.
fn path(environment: &impl Environment) -> PathBuf {
    let runtime = environment.variable(XDG_RUNTIME_DIR).map(PathBuf::from);
    match (environment.variable(PODBRIDGE_DIR), runtime) {
        (Some(directory), _) => PathBuf::from(directory),
        (None, Some(runtime)) if is_usable(&runtime) => runtime.join("podbridge"),
        (None, _) => format!("/tmp/podbridge-{}", geteuid().as_raw()).into(),
    }
}

/// Returns whether a runtime directory exists and is this user's. After `su` or `sudo -E` the variable may name another user's, or one
/// that the system has removed.
fn is_usable(runtime: &Path) -> bool {
    runtime.is_absolute()
        && fs::metadata(runtime).is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
        && access(runtime, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// The files of one bridge.
#[derive(Debug, Clone)]
pub(crate) struct BridgeFiles {
    pub socket: PathBuf,
    lock: PathBuf,
    log: PathBuf,
}

/// Larger logs are begun anew when a bridge starts.
const LOG_MAX: u64 = 1 << 20;

impl BridgeFiles {
    /// Held while a bridge of this key starts or removes its socket; ends with the file.
    pub(crate) fn lock_file(&self) -> io::Result<File> {
        open(&self.lock)
    }

    pub(crate) fn log_file(&self) -> io::Result<File> {
        let log = open(&self.log)?;
        if log.metadata()?.len() > LOG_MAX {
            log.set_len(0)?;
        }
        Ok(log)
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use std::collections::HashMap;
    use std::ffi::OsString;

    use super::*;

    struct Fake(HashMap<String, String>);

    impl Environment for Fake {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.0.get(name).filter(|value| !value.is_empty()).map(OsString::from)
        }

        fn variables(&self) -> Vec<(OsString, OsString)> {
            Vec::new()
        }

        fn current_directory(&self) -> io::Result<PathBuf> {
            Ok("/".into())
        }
    }

    /// The plugin for Ansible asserts the same vectors. "@NAME" stands for a directory or file of that kind, "@uid" for the own number.
    #[test]
    fn the_directory_of_the_sockets_is_the_first_usable_one() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/socket-directories.json")).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let base = temporary.path();
        for name in ["mine", "read-only"] {
            fs::create_dir(base.join(name)).unwrap();
        }
        fs::set_permissions(base.join("read-only"), fs::Permissions::from_mode(0o500)).unwrap();
        fs::write(base.join("file"), "").unwrap();
        symlink(base.join("mine"), base.join("link")).unwrap();
        let root = geteuid().is_root();
        for vector in vectors.as_array().unwrap() {
            let name = vector["name"].as_str().unwrap();
            if root && vector["not_as_root"] == true {
                continue;
            }
            let text = |value: &serde_json::Value| {
                let uid = geteuid().as_raw().to_string();
                let theirs = if root { "/proc/1/fdinfo-none" } else { "/proc/1" };
                let text = value.as_str().unwrap().replace("@uid", &uid).replace("@theirs", theirs);
                text.replace('@', &format!("{}/", base.display()))
            };
            let variables = vector["environment"].as_object().unwrap();
            let fake = Fake(
                variables
                    .iter()
                    .map(|(name, value)| (name.clone(), text(value)))
                    .collect(),
            );
            assert_eq!(path(&fake), PathBuf::from(text(&vector["directory"])), "{name}");
        }
        if root {
            // Only root can give a directory to another user.
            std::os::unix::fs::chown(base.join("mine"), Some(12345), None).unwrap();
            let variables = [(
                "XDG_RUNTIME_DIR".to_owned(),
                base.join("mine").to_str().unwrap().to_owned(),
            )];
            assert_eq!(path(&Fake(variables.into())), PathBuf::from("/tmp/podbridge-0"));
        }
    }

    #[test]
    fn only_a_real_private_directory_is_trusted() {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name| temporary.path().join(name);
        Directory::at(path("made")).unwrap();
        assert_eq!(fs::metadata(path("made")).unwrap().mode() & 0o777, 0o700);

        symlink(path("made"), path("link")).unwrap();
        assert!(
            Directory::at(path("link"))
                .unwrap_err()
                .message
                .contains("real directory")
        );

        fs::set_permissions(path("made"), fs::Permissions::from_mode(0o750)).unwrap();
        let refused = Directory::at(path("made")).unwrap_err();
        assert!(refused.message.contains("0750"), "{refused}");
        assert_eq!(refused.kind, Kind::Bridge);

        fs::write(path("file"), "").unwrap();
        assert!(Directory::at(path("file")).is_err());
        assert!(Directory::at("relative".into()).is_err());
    }
}
