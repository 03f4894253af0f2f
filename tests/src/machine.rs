//! The machine on which the commands of a soak run, behind a link that can be cut: this one, or a pod of a cluster. `soak` calls it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::pair::{self, Pair};
use crate::proxy::Proxy;

/// Where commands run, and how a soak looks at their files without the link that is cut.
pub trait Machine {
    /// Returns `podbridge exec` with this command, over the link.
    fn exec(&self, argv: &[&str]) -> Command;
    /// Returns the processes of the bridges that use the link.
    fn bridges(&self) -> Vec<u32>;
    /// Returns a directory on this machine for the files of the soak.
    fn directory(&self) -> PathBuf;
    fn make_directory(&self, path: &Path);
    fn write(&self, path: &Path, data: &[u8]);
    /// Returns a file's content; `None` if it cannot be read.
    fn read(&self, path: &Path) -> Option<Vec<u8>>;
    fn remove(&self, directory: &Path);
}

impl Machine for Pair {
    fn exec(&self, argv: &[&str]) -> Command {
        self.exec(argv)
    }
    fn bridges(&self) -> Vec<u32> {
        self.bridges()
    }
    fn directory(&self) -> PathBuf {
        self.dir().to_owned()
    }
    fn make_directory(&self, path: &Path) {
        std::fs::create_dir(path).unwrap();
    }
    fn write(&self, path: &Path, data: &[u8]) {
        std::fs::write(path, data).unwrap();
    }
    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        std::fs::read(path).ok()
    }
    fn remove(&self, directory: &Path) {
        std::fs::remove_dir_all(directory).unwrap();
    }
}

/// A pod. The link to it goes to its API server through a proxy; a second bridge, without the proxy, looks at the files.
#[derive(Debug)]
pub struct Pod {
    /// Directory here for the files of both bridges.
    dir: TempDir,
    name: String,
    /// Port of the proxy.
    port: u16,
}

/// Directory of the bridge whose link is cut.
const CUT_BRIDGE: &str = "bridges";
/// Directory of the bridge whose link is never cut.
const STEADY_BRIDGE: &str = "steady";

/// Returns a variable that the scripts of the cluster set.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

impl Pod {
    /// Takes PODBRIDGE_EXECUTABLE, KUBECONFIG, NAMESPACE and API_SERVER (address and port) from the environment.
    pub fn with_proxy(name: &str, seed: u64) -> (Self, Proxy) {
        let (proxy, port) = Proxy::tcp(variable("API_SERVER").parse().unwrap(), seed);
        let pod = Self {
            dir: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            port,
        };
        pod.make_directory(&pod.directory());
        (pod, proxy)
    }

    fn podbridge(&self, bridge: &str, options: &[&str], argv: &[&str]) -> Command {
        let mut command = Command::new(variable("PODBRIDGE_EXECUTABLE"));
        command
            .args(["exec", "-i", "-n", &variable("NAMESPACE")])
            .args(options)
            .args([&self.name, "--"])
            .args(argv)
            .stdin(Stdio::null())
            .env("PODBRIDGE_DIR", self.dir.path().join(bridge))
            .env("PODBRIDGE_LOG", "error");
        command
    }

    fn exec_steadily(&self, argv: &[&str]) -> Command {
        self.podbridge(STEADY_BRIDGE, &[], argv)
    }
}

impl Machine for Pod {
    fn exec(&self, argv: &[&str]) -> Command {
        let server = format!("https://127.0.0.1:{}", self.port);
        self.podbridge(CUT_BRIDGE, &["--server", &server], argv)
    }
    fn bridges(&self) -> Vec<u32> {
        pair::bridges_of(&self.dir.path().join(CUT_BRIDGE))
    }
    fn directory(&self) -> PathBuf {
        Path::new("/tmp").join(self.dir.path().file_name().unwrap())
    }
    fn make_directory(&self, path: &Path) {
        let mut mkdir = self.exec_steadily(&["mkdir", path.to_str().unwrap()]);
        assert!(mkdir.status().unwrap().success());
    }
    fn write(&self, path: &Path, data: &[u8]) {
        let mut command = self.exec_steadily(&["sh", "-c", r#"cat >"$0""#, path.to_str().unwrap()]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(data).unwrap();
        assert!(child.wait().unwrap().success());
    }
    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let output = self.exec_steadily(&["cat", path.to_str().unwrap()]).output().unwrap();
        output.status.success().then_some(output.stdout)
    }
    fn remove(&self, directory: &Path) {
        let mut rm = self.exec_steadily(&["rm", "-r", directory.to_str().unwrap()]);
        assert!(rm.status().unwrap().success());
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // If this fails, the files go with the pod.
        let _ = self
            .exec_steadily(&["rm", "-rf", self.directory().to_str().unwrap()])
            .status();
        for bridge in [CUT_BRIDGE, STEADY_BRIDGE] {
            for process in pair::bridges_of(&self.dir.path().join(bridge)) {
                pair::send_signal(process, Signal::TERM);
            }
        }
    }
}
