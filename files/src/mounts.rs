//! Mounts: which one a file is on, and whether a file system is the kernel's own (/proc, /sys). A bind mount may have the device of its
//! parent, so a device number alone does not tell two mounts apart.
//!
//! The tree copy asks it before it deletes, and the agent's `files` before it believes a size.

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstat, fstatfs, openat, statx};
use rustix::io::Errno;

/// Magic numbers of file systems that the kernel fills (statfs(2), linux/magic.h). Deleting in them changes the system and not files,
/// and they produce content while it is read, so that their sizes and times mean nothing. In this order: proc, sysfs, cgroup, cgroup2,
/// debugfs, tracefs, securityfs, configfs, selinuxfs, bpf, efivarfs, fusectl, binfmt_misc, mqueue, devpts.
const KERNEL_FILE_SYSTEMS: [u64; 15] = [
    0x9fa0,
    0x6265_6572,
    0x27_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x6265_6570,
    0xf97c_ff8c,
    0xcafe_4a11,
    0xde5e_81e4,
    0x6573_5543,
    0x4249_4e4d,
    0x1980_0202,
    0x1cd1,
];

/// Identity of a mount; two files are on the same mount if these are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mount {
    /// The kernel's number of the mount.
    Id(u64),
    /// The device, where the kernel does not tell the mount.
    Device(u64),
}

/// Returns the mount of an entry of a directory; a mount point is on the mount that covers it. A symbolic link is not followed.
pub fn mount_of(directory: impl AsFd, name: &[u8]) -> Result<Mount, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(&directory, name, flags, StatxFlags::MNT_ID) {
        Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => return Ok(Mount::Id(found.stx_mnt_id)),
        // An older kernel does not have this field, or this call.
        Ok(_) | Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let opened = openat(
        directory,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd())).unwrap_or_default();
    let id = information.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    match id.and_then(|id| id.trim().parse().ok()) {
        Some(id) => Ok(Mount::Id(id)),
        None => Ok(Mount::Device(fstat(&opened)?.st_dev)),
    }
}

/// Returns whether a file is on a file system that the kernel fills; `false` if the file system is unknown.
pub fn is_kernel_file_system(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|system| KERNEL_FILE_SYSTEMS.contains(&(system.f_type as u64 & 0xffff_ffff)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::*;

    fn mount(directory: &Path, name: &str) -> Mount {
        mount_of(File::open(directory).unwrap(), name.as_bytes()).unwrap()
    }

    #[test]
    fn a_mount_point_is_on_another_mount_than_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for name in ["sub", "file"] {
            assert_eq!(mount(dir.path(), name), mount(dir.path(), "."), "{name}");
        }
        assert_ne!(mount(Path::new("/"), "proc"), mount(Path::new("/"), "."));
    }

    #[test]
    fn file_systems_of_the_kernel_are_known() {
        let dir = tempfile::tempdir().unwrap();
        for (path, expected) in [
            (Path::new("/proc"), true),
            (Path::new("/sys"), true),
            (dir.path(), false),
        ] {
            let found = is_kernel_file_system(File::open(path).unwrap());
            assert_eq!(found, expected, "{}", path.display());
        }
    }
}
