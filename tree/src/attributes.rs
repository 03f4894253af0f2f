//! Attributes of a file: mode, owner, modification time, extended attributes. Compares them with a file's and sets them, through file
//! descriptors only, so that a path that changes meanwhile cannot redirect a change.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use podbridge_proto::v1::TreeAttribute;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, chmod, chownat, fchmod, fchown,
    fstat, futimens, openat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::xattrs;

const NANOSECONDS: i64 = 1_000_000_000;
pub(crate) const PERMISSION_BITS: u32 = 0o7777;
/// Set-user-ID and set-group-ID.
pub(crate) const SET_ID_BITS: u32 = 0o6000;

pub(crate) fn file_type(mode: u32) -> FileType {
    FileType::from_raw_mode(mode)
}

pub(crate) fn mtime_ns(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
    stat.st_mtime.saturating_mul(NANOSECONDS).saturating_add(nanoseconds)
}

/// Returns whether a file changed within the last hour, or in the future, as after a clock was set back.
pub(crate) fn changed_recently(stat: &Stat) -> bool {
    const HOUR: i64 = 3600;
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    stat.st_ctime.saturating_add(HOUR) >= i64::try_from(now).unwrap_or(i64::MAX)
}

/// Attributes that a local file shall have.
#[derive(Debug)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    /// User and group id; `None`: this process cannot change owners.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mtime_ns: i64,
    pub(crate) xattrs: Vec<TreeAttribute>,
}

/// An operation that the system refused, as the end of "cannot ...", and its error.
pub(crate) type StepError = (&'static str, Errno);

/// Returns the approximate number of bytes that extended attributes occupy in memory.
pub(crate) fn memory_size(xattrs: &[TreeAttribute]) -> usize {
    let size = |xattr: &TreeAttribute| xattr.name.len() + xattr.value.len() + size_of::<TreeAttribute>();
    xattrs.iter().map(size).sum()
}

impl Attributes {
    /// Returns whether any attribute of a file differs. `xattrs` are the file's.
    pub(crate) fn differ_from(&self, stat: &Stat, xattrs: &[TreeAttribute]) -> bool {
        self.mode != stat.st_mode & PERMISSION_BITS
            || self.differs_in_owner(stat)
            || self.mtime_ns != mtime_ns(stat)
            || self.xattrs != xattrs
    }

    pub(crate) fn differs_in_owner(&self, stat: &Stat) -> bool {
        self.owner.is_some_and(|owner| owner != (stat.st_uid, stat.st_gid))
    }

    /// Returns the mode to create a new file with. Most files need no other mode afterwards. A file that still needs another owner can
    /// be read by this user only.
    pub(crate) fn creation_mode(&self) -> Mode {
        let own = (geteuid().as_raw(), getegid().as_raw());
        if self.owner.is_none_or(|owner| owner == own) && self.xattrs.is_empty() {
            Mode::from_raw_mode(self.mode & 0o777)
        } else {
            Mode::RUSR | Mode::WUSR
        }
    }

    /// Sets all attributes of a new file.
    pub(crate) fn apply_to_new(&self, file: impl AsFd) -> Result<(), StepError> {
        let stat = fstat(&file).map_err(|errno| ("examine it", errno))?;
        let mode = stat.st_mode & PERMISSION_BITS;
        if let Some((uid, gid)) = self.owner.filter(|_| self.differs_in_owner(&stat)) {
            ignore_refused_chown(fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))?;
        }
        // Before the mode, which may remove the write permission that this needs.
        xattrs::set(&file, &[], &self.xattrs).map_err(|errno| ("set its extended attributes", errno))?;
        // After the owner: chown clears set-user-ID.
        if mode != self.mode {
            fchmod(&file, Mode::from_raw_mode(self.mode)).map_err(|errno| ("set its mode", errno))?;
        }
        futimens(&file, &self.times()).map_err(|errno| ("set its time", errno))
    }

    /// Changes the attributes of an existing file as far as they differ. `have` are its extended attributes. Returns whether any is another
    /// one now: the system may refuse an owner, at this run and at the next one.
    pub(crate) fn update(&self, file: impl AsFd, have: &[TreeAttribute]) -> Result<bool, StepError> {
        let stat = fstat(&file).map_err(|errno| ("examine it", errno))?;
        let mut is_changed = self.mtime_ns != mtime_ns(&stat);
        let mut mode = stat.st_mode & PERMISSION_BITS;
        let set_mode = |mode| fchmod(&file, Mode::from_raw_mode(mode)).map_err(|errno| ("set its mode", errno));
        if let Some((uid, gid)) = self.owner.filter(|_| self.differs_in_owner(&stat)) {
            ignore_refused_chown(fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))?;
            let now = fstat(&file).map_err(|errno| ("examine it", errno))?;
            is_changed |= (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid);
            mode = now.st_mode & PERMISSION_BITS;
        }
        if self.xattrs != have {
            if mode & 0o200 == 0 {
                mode |= 0o200;
                set_mode(mode)?;
            }
            is_changed |=
                xattrs::set(&file, have, &self.xattrs).map_err(|errno| ("set its extended attributes", errno))?;
        }
        if mode != self.mode {
            set_mode(self.mode)?;
        }
        is_changed |= self.mode != stat.st_mode & PERMISSION_BITS;
        // Always, because the changes above may have changed the time.
        futimens(&file, &self.times()).map_err(|errno| ("set its time", errno))?;
        Ok(is_changed)
    }

    /// Sets the attributes of a temporary file that cannot be opened for reading, such as a link or device. `STALE` if another process
    /// replaced it by a file of another type.
    pub(crate) fn apply_by_name(&self, directory: &OwnedFd, name: &[u8], is: FileType) -> Result<(), StepError> {
        let is_link = is == FileType::Symlink;
        let found = open_without_reading(directory, name, is).map_err(|errno| ("examine it", errno))?;
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            ignore_refused_chown(chownat(&found, "", uid, gid, AtFlags::EMPTY_PATH))?;
        }
        if !is_link {
            change_mode(&found, self.mode).map_err(|errno| ("set its mode", errno))?;
        }
        match utimensat(directory, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW) {
            // Some file systems keep no time for a link.
            Err(errno) if !is_link => Err(("set its time", errno)),
            _ => Ok(()),
        }
    }

    /// Gives the attributes to a file that was written in place, as far as this process may: the file may be another user's.
    pub(crate) fn apply_as_allowed(&self, file: impl AsFd) {
        if let Some((uid, gid)) = self.owner {
            let _ = fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        }
        let _ = fchmod(&file, Mode::from_raw_mode(self.mode));
        let _ = futimens(&file, &self.times());
    }

    fn times(&self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.mtime_ns.div_euclid(NANOSECONDS),
                tv_nsec: self.mtime_ns.rem_euclid(NANOSECONDS),
            },
        }
    }
}

/// Ignores that an owner could not be set: root in a container may lack the right, or the id may be outside of its user namespace. The
/// file then stays this process's own, as it does for any other user.
fn ignore_refused_chown(result: Result<(), Errno>) -> Result<(), StepError> {
    match result {
        Err(Errno::PERM | Errno::INVAL) => Ok(()),
        other => other.map_err(|errno| ("give it its owner", errno)),
    }
}

/// Opens a file with O_PATH, which needs no permission to read it. `STALE` if it is of another type than `is`.
fn open_without_reading(directory: &OwnedFd, name: &[u8], is: FileType) -> Result<OwnedFd, Errno> {
    let found = openat(
        directory,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if file_type(fstat(&found)?.st_mode) == is {
        Ok(found)
    } else {
        Err(Errno::STALE)
    }
}

pub(crate) fn change_mode(found: &OwnedFd, mode: u32) -> Result<(), Errno> {
    // fchmod refuses an O_PATH descriptor; chmod of its /proc path changes the same file.
    chmod(
        format!("/proc/self/fd/{}", found.as_raw_fd()),
        Mode::from_raw_mode(mode),
    )
}

/// Adds all owner permissions to a directory, so that this process can enter and change it.
pub(crate) fn make_accessible(directory: &OwnedFd, name: &[u8], mode: u32) -> Result<(), Errno> {
    change_mode(
        &open_without_reading(directory, name, FileType::Directory)?,
        mode & PERMISSION_BITS | 0o700,
    )
}
