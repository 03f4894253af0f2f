//! `install DIRECTORY`: copies this program, so that an init container can bring the agent into a container whose image has neither an
//! agent nor tools to copy one.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;

use podbridge_files::temporary;
use rustix::process::geteuid;

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
    protect(directory)?;
    let temporary = directory.join(OsStr::from_bytes(&temporary::name(temporary::random_number())));
    let copied = write(&temporary).and_then(|()| fs::rename(&temporary, directory.join(PROGRAM_NAME)));
    if copied.is_err() {
        // The user gets the first error; a failed removal adds nothing.
        let _ = fs::remove_file(&temporary);
    }
    copied
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    io::copy(&mut File::open(env::OWN_PROGRAM)?, &mut file)?;
    file.set_permissions(Permissions::from_mode(0o755))
}

/// Takes the right to write from others if this is our directory and everybody has it: the kubelet makes volumes like that, and whoever
/// could put another program there would get the rights of all who run it. A directory with the sticky bit, such as /tmp, is meant for all.
fn protect(directory: &Path) -> io::Result<()> {
    let metadata = fs::metadata(directory)?;
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() == geteuid().as_raw() && mode & 0o1002 == 0o002 {
        fs::set_permissions(directory, Permissions::from_mode(mode & !0o022))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_for_all_becomes_a_directory_that_others_cannot_change() {
        for (before, after) in [
            (0o777, 0o755),
            (0o2777, 0o2755),
            (0o1777, 0o1777),
            (0o775, 0o775),
            (0o700, 0o700),
        ] {
            let volume = tempfile::tempdir().unwrap();
            fs::set_permissions(volume.path(), Permissions::from_mode(before)).unwrap();
            copy(volume.path()).unwrap();
            assert_eq!(
                fs::metadata(volume.path()).unwrap().mode() & 0o7777,
                after,
                "{before:o}"
            );
            let program = fs::metadata(volume.path().join(PROGRAM_NAME)).unwrap();
            assert_eq!(program.mode() & 0o7777, 0o755);
            let own = fs::File::open(env::OWN_PROGRAM).unwrap().metadata().unwrap();
            assert_eq!(program.len(), own.len());
            assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 1);
        }
    }
}
