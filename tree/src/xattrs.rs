//! Extended attributes of regular files and directories: selects those that belong to a copy, reads and sets them.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use podbridge_proto::v1::TreeAttribute;
use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::wire::{ATTRIBUTE_COST, MAX_ATTRIBUTES};

/// Size of the first buffer, bytes; nearly always large enough.
const FIRST_BUFFER: usize = 1024;
/// Size of the second buffer, bytes: XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux.
const MAX_VALUE: usize = 64 << 10;
/// Prefixes of attributes that describe the local system and not the file: labels of the host's policy, marks of a union mount.
const LOCAL_PREFIXES: [&[u8]; 5] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"trusted.overlay.",
    b"user.overlay.",
];

/// Prefixes of attributes that give no rights but those of the file's own mode and owner.
const UNPRIVILEGED_PREFIXES: [&[u8]; 2] = [b"user.", b"system.posix_acl_"];

/// The attributes that a copy includes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Selection {
    /// Those in `user.`; others need root.
    User,
    /// All that belong to the file.
    All,
    /// All but those that may give rights, such as `security.capability`.
    Unprivileged,
}

impl Selection {
    /// Returns the attributes that this process may set. `no_privileges`: without those that give rights.
    pub(crate) fn of_this_process(no_privileges: bool) -> Self {
        match (rustix::process::geteuid().is_root(), no_privileges) {
            (false, _) => Self::User,
            (true, false) => Self::All,
            (true, true) => Self::Unprivileged,
        }
    }

    pub(crate) fn includes(self, name: &[u8]) -> bool {
        let begins_with = |prefixes: &[&[u8]]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        match self {
            Self::User => name.starts_with(b"user.") && !begins_with(&LOCAL_PREFIXES),
            Self::All => !begins_with(&LOCAL_PREFIXES),
            Self::Unprivileged => begins_with(&UNPRIVILEGED_PREFIXES) && !begins_with(&LOCAL_PREFIXES),
        }
    }
}

/// Returns the attributes of a directory's entry that a copy includes, sorted by name. Empty if the file system has no attributes or
/// refuses access; `TOOBIG` if they exceed MAX_ATTRIBUTES.
pub(crate) fn read(directory: &OwnedFd, name: &[u8], selection: Selection) -> Result<Vec<TreeAttribute>, Errno> {
    // This path needs neither a descriptor of the file nor the permission to read it, and the calls do not follow a link.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let names = match read_growing(|buffer| llistxattr(&path[..], buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP | Errno::NOENT | Errno::PERM | Errno::ACCESS) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut attributes = Vec::new();
    let mut total = 0;
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && selection.includes(name))
    {
        let value = match read_growing(|buffer| lgetxattr(&path[..], name, buffer)) {
            Ok(value) => value,
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => continue,
            Err(errno) => return Err(errno),
        };
        total += name.len() + value.len() + ATTRIBUTE_COST;
        if total > MAX_ATTRIBUTES {
            return Err(Errno::TOOBIG);
        }
        attributes.push(TreeAttribute {
            name: name.to_vec().into(),
            value: value.into(),
        });
    }
    attributes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(attributes)
}

/// Returns the bytes that `get` writes to a buffer; calls it again with a larger buffer if the first one is too small.
fn read_growing(mut get: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; FIRST_BUFFER];
    match get(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    let mut large = vec![0; MAX_VALUE];
    let length = get(&mut large)?;
    large.truncate(length);
    Ok(large)
}

/// Changes the attributes of a file from `from` to `to`. Attributes that the file system or the kernel refuses are skipped. Returns whether
/// any attribute was changed.
pub(crate) fn set(file: impl AsFd, from: &[TreeAttribute], to: &[TreeAttribute]) -> Result<bool, Errno> {
    let mut is_changed = false;
    let mut refused = |result: Result<(), Errno>| match result {
        Err(Errno::NOTSUP | Errno::PERM | Errno::NODATA) => Ok(()),
        other => other.map(|()| is_changed = true),
    };
    for attribute in to.iter().filter(|attribute| !from.contains(attribute)) {
        refused(fsetxattr(
            &file,
            &attribute.name[..],
            &attribute.value,
            XattrFlags::empty(),
        ))?;
    }
    for attribute in from {
        if !to.iter().any(|kept| kept.name == attribute.name) {
            refused(fremovexattr(&file, &attribute.name[..]))?;
        }
    }
    Ok(is_changed)
}

#[cfg(test)]
mod tests {
    use super::Selection::{All, Unprivileged, User};

    #[test]
    fn attributes_that_give_rights_need_the_option() {
        for (name, expected) in [
            ("user.x", [true, true, true]),
            ("user.overlay.opaque", [false, false, false]),
            ("system.posix_acl_access", [false, true, true]),
            ("system.nfs4_acl", [false, true, false]),
            ("security.capability", [false, true, false]),
            ("security.selinux", [false, false, false]),
            ("trusted.x", [false, true, false]),
            ("trusted.overlay.opaque", [false, false, false]),
        ] {
            let found = [User, All, Unprivileged].map(|selection| selection.includes(name.as_bytes()));
            assert_eq!(found, expected, "{name}");
        }
    }
}
