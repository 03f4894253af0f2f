//! Extended attributes of regular files and directories: which of them belong to a copy, reading and setting them.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use podbridge_proto::v1::TreeAttribute;
use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::wire::MAX_ATTRIBUTES;

/// A first buffer that nearly always does.
const FIRST_BUFFER: usize = 1024;
/// What the kernel gives for a list or a value.
const MAX_VALUE: usize = 64 << 10;
/// What belongs to a place and not to a file: labels of the host's policy, marks of a union mount.
const LOCAL_PREFIXES: [&[u8]; 5] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"trusted.overlay.",
    b"user.overlay.",
];

/// Whether an attribute is one that a process may copy.
pub(crate) fn is_copied(name: &[u8], root: bool) -> bool {
    (root || name.starts_with(b"user.")) && !LOCAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Sorted by name. A file system that has none is no error.
pub(crate) fn read(directory: &OwnedFd, name: &[u8], root: bool) -> Result<Vec<TreeAttribute>, Errno> {
    // Needs neither a descriptor of the file nor the right to read it, and a link in its place is not followed.
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
        .filter(|name| is_copied(name, root) && !name.is_empty())
    {
        let value = match read_growing(|buffer| lgetxattr(&path[..], name, buffer)) {
            Ok(value) => value,
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => continue,
            Err(errno) => return Err(errno),
        };
        total += name.len() + value.len() + 16;
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

/// Makes those of a file what they are to be. One that the file system or the kernel does not take is left out.
pub(crate) fn set(file: impl AsFd, from: &[TreeAttribute], to: &[TreeAttribute]) -> Result<(), Errno> {
    let refused = |result: Result<(), Errno>| match result {
        Err(Errno::NOTSUP | Errno::PERM | Errno::NODATA) => Ok(()),
        other => other,
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
    Ok(())
}
