//! Runs the next program of the same name in PATH, for every call that the shim does not serve. The program replaces this process and
//! gets its arguments and environment. Reads only the directories of PATH and the first bytes of the program.
//!
//! The shim never runs itself in a loop. Each file in PATH counts once (by device and inode, with links followed), and the next program
//! is the first file after the shim's own: a copy or another version of podbridge moves on towards the end of PATH. Only a script that
//! calls the shim by its path could lead back. Therefore a program that is no ELF file, and only such a program, gets an environment
//! variable that counts the calls; the environment of the real kubectl stays unchanged.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::env::{Environment as _, PODBRIDGE_KUBECTL_DEPTH, Process};
use crate::kubectl_shim::invocation::Invocation;
use crate::program;
use crate::report::say;

/// Scripts that may run one another. kubectl plugins run kubectl, but hardly ever this deep.
const DEPTH_MAX: u32 = 8;

/// Exit code of a shell if a program does not exist.
const NOT_FOUND: u8 = 127;
/// Exit code of a shell if a program cannot be run.
const CANNOT_RUN: u8 = 126;

/// Becomes the next program. Returns only if that fails, with the exit code.
pub(super) fn pass_on(invocation: &Invocation) -> ExitCode {
    let name = invocation.name;
    if fs::metadata("/proc/self/exe").is_err() {
        say(&format!(
            "/proc is not mounted, so podbridge cannot tell another {name} from itself; mount /proc"
        ));
        return ExitCode::from(NOT_FOUND);
    }
    let next = program::next_in_path(name);
    let Some(next) = next else {
        say(&format!(
            "podbridge's {name} serves only pods of a Zuul build, and PATH has no other {name} after it; install {name}"
        ));
        return ExitCode::from(NOT_FOUND);
    };
    let mut command = Command::new(&next);
    command.arg0(&invocation.argv0).args(&invocation.arguments);
    if !is_elf(&next) {
        let depth = Process
            .variable(PODBRIDGE_KUBECTL_DEPTH)
            .and_then(|depth| depth.to_str()?.parse().ok());
        let depth: u32 = depth.unwrap_or(0);
        if depth >= DEPTH_MAX {
            say(&format!(
                "the script {} runs podbridge's {name} in a loop; let it run another {name}",
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

/// Returns whether the file is an ELF program, not a script.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}
