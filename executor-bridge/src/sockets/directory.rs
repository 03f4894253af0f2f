//! Where the files of bridges are, and whether that place can be trusted: a directory of this user alone. Clients and
//! daemons call it; neither touches a file there before it was checked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::env::{Environment as _, PODBRIDGE_DIR, Process, XDG_RUNTIME_DIR};
use crate::error::{Failure, Kind};
use crate::protocol::target::Key;

/// `sun_path` less its NUL.
pub(super) const SOCKET_PATH_MAX: usize = 107;

/// A checked directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// `$PODBRIDGE_DIR`, else `$XDG_RUNTIME_DIR/podbridge`, else `/tmp/podbridge-<uid>`; made if absent.
    pub(crate) fn open() -> Result<Self, Failure> {
        let set = |name| Process.variable(name);
        let path = match (set(PODBRIDGE_DIR), set(XDG_RUNTIME_DIR)) {
            (Some(directory), _) => PathBuf::from(directory),
            (None, Some(runtime)) => Path::new(&runtime).join("podbridge"),
            (None, None) => format!("/tmp/podbridge-{}", geteuid().as_raw()).into(),
        };
        Self::at(path)
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

    use super::*;

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
