//! `install DIRECTORY`: copies this program, so that an init container can bring the agent into a container whose image has neither an
//! agent nor tools to copy one.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use crate::env;

/// Name of the installed file.
const PROGRAM_NAME: &str = "podbridge-agent";

pub(super) fn run(directory: &Path) -> Result<ExitCode, String> {
    copy(directory).map_err(|error| {
        format!(
            "cannot install podbridge-agent into the directory {}: {error}",
            directory.display()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Copies under a temporary name and renames, so that the installed file is always complete.
fn copy(directory: &Path) -> io::Result<()> {
    let temporary = directory.join(format!(".{PROGRAM_NAME}.{}", std::process::id()));
    let copied = fs::copy(env::own_program()?, &temporary)
        .and_then(|_| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&temporary, directory.join(PROGRAM_NAME)));
    if copied.is_err() {
        // The user gets the first error; a failed removal adds nothing.
        let _ = fs::remove_file(&temporary);
    }
    copied
}
