//! The agent's binary on this host, to be brought into a container that has none: where it is, for which machine, and its
//! digest. Reads files only.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::env::{Environment as _, PODBRIDGE_AGENT, Process};
use crate::program;
use crate::protocol::target::hex;

const NAME: &str = "podbridge-agent";

/// Names of machines as `uname -m` has them, with their numbers in an ELF header.
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
pub(super) struct Binary {
    pub(super) path: PathBuf,
    /// As `uname -m` has it.
    pub(super) machine: String,
    pub(super) sha256: [u8; 32],
    pub(super) length: usize,
}

impl Binary {
    /// Names its files in a pod: other releases live beside them.
    pub(super) fn tag(&self) -> String {
        format!("{}-{}", env!("CARGO_PKG_VERSION"), self.short_digest())
    }

    pub(super) fn short_digest(&self) -> String {
        hex(&self.sha256[..4])
    }

    /// Read again whenever it is brought somewhere, not kept: it is larger than all else that a bridge holds. Blocks on the
    /// file system. `None`: it was replaced a moment ago.
    pub(super) fn content(&self) -> Option<Bytes> {
        let content = fs::read(&self.path).ok()?;
        (Sha256::digest(&content)[..] == self.sha256).then(|| content.into())
    }
}

/// Those found; read again only when a file has changed.
#[derive(Debug, Default)]
pub(crate) struct Agents(Mutex<Vec<(PathBuf, SystemTime, Arc<Binary>)>>);

impl Agents {
    /// Blocks on the file system. The first one for a machine is the one to use.
    pub(super) fn find(&self) -> Vec<Arc<Binary>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<(PathBuf, SystemTime, Arc<Binary>)> = Vec::new();
        for path in candidates() {
            let Ok(modified) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else {
                continue;
            };
            let known = held.iter().find(|(held, when, _)| *held == path && *when == modified);
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
        *held = found;
        binaries
    }
}

/// `$PODBRIDGE_AGENT`, else beside this program, else above it (the shims have a directory of their own), else in
/// `../libexec/podbridge`.
fn candidates() -> Vec<PathBuf> {
    if let Some(path) = Process.variable(PODBRIDGE_AGENT) {
        return vec![path.into()];
    }
    let own = program::path().unwrap_or_default();
    let Some(directory) = own.parent() else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    for directory in ["", "..", "../libexec/podbridge"].map(|way| directory.join(way)) {
        paths.push(directory.join(NAME));
        paths.extend(
            MACHINES
                .iter()
                .map(|(machine, _)| directory.join(format!("{NAME}-{machine}"))),
        );
    }
    paths
}

fn read(path: &Path) -> Option<Binary> {
    let content = fs::read(path).ok()?;
    let machine = machine(&content)?;
    Some(Binary {
        path: path.to_owned(),
        machine,
        sha256: Sha256::digest(&content).into(),
        length: content.len(),
    })
}

/// From the ELF header; `None` for anything else.
fn machine(content: &[u8]) -> Option<String> {
    if !content.starts_with(b"\x7fELF") {
        return None;
    }
    let number = content.get(18..20)?;
    let number = match content[5] {
        // The header's own byte order.
        2 => u16::from_be_bytes([number[0], number[1]]),
        _ => u16::from_le_bytes([number[0], number[1]]),
    };
    let known = MACHINES.iter().find(|(_, known)| *known == number);
    Some(known.map_or_else(|| format!("machine {number}"), |(name, _)| (*name).to_owned()))
}

/// What to say when there is none for a container's machine.
pub(super) fn none_for(machine: Option<&str>, found: &[Arc<Binary>]) -> String {
    let wanted = machine.map_or(String::new(), |machine| format!(" for {machine}"));
    let has = match found.first() {
        Some(binary) => format!(" ({} is for {})", binary.path.display(), binary.machine),
        None => String::new(),
    };
    let name = machine.map_or_else(|| NAME.to_owned(), |machine| format!("{NAME}-{machine}"));
    format!(
        "there is no agent binary{wanted} to bring into the container{has}: put {name} beside podbridge or name it in {PODBRIDGE_AGENT}"
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
