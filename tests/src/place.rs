//! Where the commands of a soak run, behind a link that can be cut: beside it, or in a pod of a cluster.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::pair::{self, Pair};
use crate::proxy::Proxy;

pub trait Place {
    /// `podbridge exec` over the link.
    fn exec(&self, argv: &[&str]) -> Command;
    /// Processes of the bridges of that link.
    fn bridges(&self) -> Vec<u32>;
    /// A directory on the commands' side.
    fn directory(&self) -> PathBuf;
    // On the commands' side, and not over the link.
    fn make_directory(&self, path: &Path);
    fn write(&self, path: &Path, data: &[u8]);
    fn read(&self, path: &Path) -> Option<Vec<u8>>;
    fn remove(&self, directory: &Path);
}

impl Place for Pair {
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

/// A pod; the link to it goes to its API server through a proxy. A second bridge does what is not to be cut.
#[derive(Debug)]
pub struct Pod {
    dir: TempDir,
    name: String,
    port: u16,
}

/// What the cluster's scripts tell: where it is.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

impl Pod {
    /// PODBRIDGE_EXECUTABLE, KUBECONFIG, NAMESPACE and API_SERVER (address and port) come from the environment.
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

    fn podbridge(&self, bridges: &str, options: &[&str], argv: &[&str]) -> Command {
        let mut command = Command::new(variable("PODBRIDGE_EXECUTABLE"));
        command
            .args(["exec", "-i", "-n", &variable("NAMESPACE")])
            .args(options)
            .args([&self.name, "--"])
            .args(argv)
            .stdin(Stdio::null())
            .env("PODBRIDGE_DIR", self.dir.path().join(bridges))
            .env("PODBRIDGE_LOG", "error");
        command
    }

    fn calm(&self, argv: &[&str]) -> Command {
        self.podbridge("calm", &[], argv)
    }
}

impl Place for Pod {
    fn exec(&self, argv: &[&str]) -> Command {
        let server = format!("https://127.0.0.1:{}", self.port);
        self.podbridge("bridges", &["--server", &server], argv)
    }
    fn bridges(&self) -> Vec<u32> {
        pair::bridges_of(&self.dir.path().join("bridges"))
    }
    fn directory(&self) -> PathBuf {
        Path::new("/tmp").join(self.dir.path().file_name().unwrap())
    }
    fn make_directory(&self, path: &Path) {
        assert!(
            self.calm(&["mkdir", path.to_str().unwrap()])
                .status()
                .unwrap()
                .success()
        );
    }
    fn write(&self, path: &Path, data: &[u8]) {
        let mut command = self.calm(&["sh", "-c", r#"cat >"$0""#, path.to_str().unwrap()]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(data).unwrap();
        assert!(child.wait().unwrap().success());
    }
    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let output = self.calm(&["cat", path.to_str().unwrap()]).output().unwrap();
        output.status.success().then_some(output.stdout)
    }
    fn remove(&self, directory: &Path) {
        assert!(
            self.calm(&["rm", "-r", directory.to_str().unwrap()])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // What is left is removed with the pod.
        let _ = self.calm(&["rm", "-rf", self.directory().to_str().unwrap()]).status();
        for bridges in ["bridges", "calm"] {
            for bridge in pair::bridges_of(&self.dir.path().join(bridges)) {
                pair::kill(bridge, Signal::TERM);
            }
        }
    }
}
