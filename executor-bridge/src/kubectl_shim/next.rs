//! The program that we stand in front of: the next of our name in PATH, which gets our arguments, environment and process.
//! Reads nothing but PATH's directories and the candidates' first bytes; whatever the shim does not serve ends here.
//!
//! We never run in circles. Files in PATH are taken once each (device and inode, links followed), and of them the first
//! *behind* our own: one podbridge after the other, be it a copy or another version, moves on towards PATH's end. What could
//! still lead back is a script that names us by path: only such a one, anything but an ELF program, gets a variable that counts,
//! so that the real kubectl's environment is its caller's own.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{Access, access};

use crate::env::{self, Environment as _, PATH, PODBRIDGE_KUBECTL_DEPTH, Process};
use crate::kubectl_shim::invocation::Invocation;
use crate::report::say;

/// kubectl's plugins run kubectl, hardly ever deeper than this.
const DEPTH_MAX: u32 = 8;

/// As a shell has it.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;

/// Becomes the next program; returns only if that fails.
pub(super) fn pass_on(invocation: &Invocation) -> ExitCode {
    let name = invocation.name;
    let Ok(own) = fs::metadata("/proc/self/exe") else {
        say(&format!("no {name} can be told from this one without /proc; mount it"));
        return ExitCode::from(NOT_FOUND);
    };
    let path = Process.variable(PATH);
    let next = path.and_then(|path| behind(&own, candidates(&path, name)));
    let Some(next) = next else {
        say(&format!(
            "this {name} serves pods of a Zuul build alone, and no other is behind it in PATH; install {name}"
        ));
        return ExitCode::from(NOT_FOUND);
    };
    let mut command = Command::new(&next);
    command.arg0(&invocation.argv0).args(&invocation.arguments);
    if !is_program(&next) {
        let depth = Process
            .variable(PODBRIDGE_KUBECTL_DEPTH)
            .and_then(|depth| depth.to_str()?.parse().ok());
        let depth: u32 = depth.unwrap_or(0);
        if depth >= DEPTH_MAX {
            say(&format!(
                "{} runs podbridge's {name} again and again; let it run another one",
                next.display()
            ));
            return ExitCode::from(NOT_FOUND);
        }
        command.env(PODBRIDGE_KUBECTL_DEPTH, (depth + 1).to_string());
    }
    let error = command.exec();
    say(&format!("{} cannot be run: {error}", next.display()));
    ExitCode::from(CANNOT_RUN)
}

/// What may be run by that name, in PATH's order.
fn candidates<'a>(path: &'a OsStr, name: &'a str) -> impl Iterator<Item = (PathBuf, Metadata)> + 'a {
    env::split_paths(path).filter_map(move |directory| {
        // Never without a slash: that would be looked up in PATH.
        let directory = match directory.as_os_str().is_empty() {
            true => Path::new("."),
            false => &directory,
        };
        let candidate = directory.join(name);
        let metadata = fs::metadata(&candidate).ok().filter(Metadata::is_file)?;
        access(&candidate, Access::EXEC_OK).ok().map(|()| (candidate, metadata))
    })
}

/// The first file behind our own, or the first of all if ours is not among them.
fn behind(own: &Metadata, candidates: impl Iterator<Item = (PathBuf, Metadata)>) -> Option<PathBuf> {
    let mut files = Vec::new();
    let mut found = None;
    for (path, metadata) in candidates {
        let file = (metadata.dev(), metadata.ino());
        if files.contains(&file) {
            continue;
        }
        files.push(file);
        if file == (own.dev(), own.ino()) {
            found = None;
        } else {
            found = found.or(Some(path));
        }
    }
    found
}

fn is_program(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}
