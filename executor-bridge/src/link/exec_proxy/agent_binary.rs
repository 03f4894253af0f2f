//! The agent binaries on this host, one for each machine type: path, machine and digest. `inject` copies one of them into a container
//! that has no agent. Reads files only, and starts nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::env::{Environment as _, PODBRIDGE_AGENT, Process};
use crate::program;

const NAME: &str = "podbridge-agent";

/// Machine names as `uname -m` prints them, with their numbers in an ELF header (`e_machine`).
const MACHINES: &[(&str, u16)] = &[
    ("x86_64", 62),
    ("aarch64", 183),
    ("armv7l", 40),
    ("i686", 3),
    ("ppc64le", 21),
    ("riscv64", 243),
    ("s390x", 22),
];

#[derive(Debug, Clone)]
pub(super) struct AgentBinary {
    pub(super) path: PathBuf,
    /// Machine name as `uname -m` prints it.
    pub(super) machine: String,
    pub(super) sha256: [u8; 32],
    pub(super) length: usize,
}

impl AgentBinary {
    /// Returns the part of file names in a pod that tells this binary from other releases.
    pub(super) fn tag(&self) -> String {
        format!("{}-{}", env!("CARGO_PKG_VERSION"), self.short_digest())
    }

    /// Returns the tag, and the digest by which the whole binary is recognised.
    pub(super) fn tag_and_digest(&self) -> String {
        format!("{}:{}", self.tag(), HEXLOWER.encode(&self.sha256))
    }

    pub(super) fn short_digest(&self) -> String {
        HEXLOWER.encode(&self.sha256[..4])
    }

    /// Reads the binary for one injection; a bridge does not keep it, as it is larger than all else that a bridge holds. Blocks on
    /// the file system. `None`: the file has changed since its digest was taken.
    pub(super) fn content(&self) -> Option<Bytes> {
        let content = fs::read(&self.path).ok()?;
        (Sha256::digest(&content)[..] == self.sha256).then(|| content.into())
    }
}

/// Cache of the binaries that were found; a file is read again only when its modification time has changed.
#[derive(Debug, Default)]
pub(crate) struct AgentBinaries(Mutex<Vec<(PathBuf, SystemTime, Arc<AgentBinary>)>>);

impl AgentBinaries {
    /// Returns one binary for each machine: the first in the order of `candidates`. Blocks on the file system.
    pub(super) fn find(&self) -> Vec<Arc<AgentBinary>> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<(PathBuf, SystemTime, Arc<AgentBinary>)> = Vec::new();
        for path in candidates() {
            let Ok(modified) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else {
                continue;
            };
            let known = cache
                .iter()
                .find(|(cached, when, _)| *cached == path && *when == modified);
            let binary = match known {
                Some((.., binary)) => binary.clone(),
                None => match read(&path) {
                    Some(binary) => Arc::new(binary),
                    None => continue,
                },
            };
            if !found.iter().any(|(.., other)| other.machine == binary.machine) {
                found.push((path, modified, binary));
            }
        }
        let binaries = found.iter().map(|(.., binary)| binary.clone()).collect();
        *cache = found;
        binaries
    }
}

/// Returns the paths at which a binary may be: `$PODBRIDGE_AGENT`, else the directory of this program, else its parent (the shims have a
/// directory of their own), else `../libexec/podbridge`.
fn candidates() -> Vec<PathBuf> {
    if let Some(path) = Process.variable(PODBRIDGE_AGENT) {
        return vec![path.into()];
    }
    let program = program::path().unwrap_or_default();
    let Some(directory) = program.parent() else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    for directory in ["", "..", "../libexec/podbridge"].map(|relative| directory.join(relative)) {
        paths.push(directory.join(NAME));
        paths.extend(
            MACHINES
                .iter()
                .map(|(machine, _)| directory.join(format!("{NAME}-{machine}"))),
        );
    }
    paths
}

fn read(path: &Path) -> Option<AgentBinary> {
    let content = fs::read(path).ok()?;
    let machine = machine(&content)?;
    Some(AgentBinary {
        path: path.to_owned(),
        machine,
        sha256: Sha256::digest(&content).into(),
        length: content.len(),
    })
}

/// Returns the machine of an ELF file; `None` for a file of another kind.
fn machine(content: &[u8]) -> Option<String> {
    if !content.starts_with(b"\x7fELF") {
        return None;
    }
    let number = content.get(18..20)?;
    let number = match content[5] {
        // EI_DATA: 2 is big-endian, and the rest of the header has that byte order.
        2 => u16::from_be_bytes([number[0], number[1]]),
        _ => u16::from_le_bytes([number[0], number[1]]),
    };
    let known = MACHINES.iter().find(|(_, known)| *known == number);
    Some(known.map_or_else(|| format!("machine {number}"), |(name, _)| (*name).to_owned()))
}

/// Returns the sentence for a container for whose machine this host has no binary.
pub(super) fn missing_binary(machine: Option<&str>, found: &[Arc<AgentBinary>]) -> String {
    let wanted = machine.map_or(String::new(), |machine| format!(" for {machine}"));
    let other = match found.first() {
        Some(binary) => format!(" ({} is for {})", binary.path.display(), binary.machine),
        None => String::new(),
    };
    let name = machine.map_or_else(|| NAME.to_owned(), |machine| format!("{NAME}-{machine}"));
    format!(
        "there is no agent binary{wanted} to copy into the container{other}: put {name} beside podbridge or name it in {PODBRIDGE_AGENT}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_of_a_binary_is_read() {
        let own = fs::read("/proc/self/exe").unwrap();
        assert_eq!(machine(&own).as_deref(), Some(std::env::consts::ARCH));
        assert_eq!(machine(b"#!/bin/sh\n"), None);
        assert_eq!(machine(b"\x7fELF"), None);
    }
}
