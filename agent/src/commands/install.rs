//! `install DIRECTORY`: an init container brings the agent into an image that has none and has no tools to copy it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use crate::env;

const PROGRAM_NAME: &str = "podbridge-agent";

pub(super) fn run(directory: &Path) -> Result<ExitCode, String> {
    copy(directory).map_err(|error| format!("cannot install into {}: {error}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn copy(directory: &Path) -> io::Result<()> {
    let temporary = directory.join(format!(".{PROGRAM_NAME}.{}", std::process::id()));
    let copied = fs::copy(env::own_program()?, &temporary)
        .and_then(|_| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&temporary, directory.join(PROGRAM_NAME)));
    if copied.is_err() {
        // Whatever failed is what the user hears of.
        let _ = fs::remove_file(&temporary);
    }
    copied
}
