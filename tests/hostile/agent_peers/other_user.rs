//! Another user of the container. It cannot reach the agent's socket by its path; the abstract socket is open to all of the network
//! namespace. These attacks need root; another user has no other user to be.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::agent_peers::row::{Held, Row, Target};

const OTHER: u32 = 1000;

/// A process of the other user. The drop ends it.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the name of the agent's abstract socket, as every process of the network namespace can read it.
fn abstract_name(target: &Target<'_>) -> String {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", target.agent)).unwrap().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let sockets: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let name = table.lines().find_map(|line| {
        let (fields, name) = line.split_once(" @podbridge-agent/")?;
        let inode = fields.split_whitespace().nth(6)?;
        let is_own = sockets.contains(&format!("socket:[{inode}]"));
        is_own.then(|| format!("podbridge-agent/{name}"))
    });
    name.unwrap()
}

/// Runs a script of Python as the other user, with the name of the agent's socket in `name`. Python starts as root, because the other user
/// may not be allowed to read root's Python.
fn attack(target: &Target<'_>, script: &str) -> Held {
    if !rustix::process::geteuid().is_root() {
        return Box::new(());
    }
    let become_other = format!("os.setgroups([]); os.setgid({OTHER}); os.setuid({OTHER})");
    let program = format!(
        "import os, socket, sys\n{become_other}\nname = '\\0' + sys.argv[1]\nprint(os.geteuid(), flush=True)\n{script}"
    );
    let mut child = Command::new("python3")
        .args(["-c", &program, &abstract_name(target)])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut begun = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut begun).unwrap();
    assert_eq!(begun.trim(), OTHER.to_string(), "the attack has not begun");
    Box::new(Other(child))
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "refused_connections_without_end",
        start: |_, target| {
            attack(
                target,
                "while True:\n  try:\n    s = socket.socket(socket.AF_UNIX); s.connect(name); s.close()\n  except OSError: pass",
            )
        },
    },
    Row {
        name: "connections_that_are_kept",
        start: |_, target| {
            attack(
                target,
                "kept = []\nwhile True:\n  try:\n    s = socket.socket(socket.AF_UNIX); s.connect(name); s.send(b'x'); kept.append(s)\n  except OSError: kept = kept[-500:]",
            )
        },
    },
];
