//! The mark on every process of an exec's tree: a process that left the session of its leader is still found by it. A command's
//! environment is the container's alone, so the mark is a limit that processes inherit and that the kernel has ignored since Linux 2.4.25:
//! the soft limit on file locks. A variable is the mark only where that limit is of no use. `process` sets it, `process_tree` looks for it.

use std::sync::LazyLock;

use super::ExecId;
use crate::env::EXEC_ID;
use crate::sys::proc;

/// Bit that is set in every mark, so that no usual limit is one.
const MARK_BIT: u64 = 1 << 62;

/// Tells whether the limit can be the mark: the hard limit is infinite, and /proc shows it.
static LIMIT_IS_USABLE: LazyLock<bool> = LazyLock::new(|| {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    proc::file_lock_limits(own).is_some_and(|(_, hard)| hard.is_none())
});

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Mark {
    /// Soft limit on file locks.
    FileLocks(u64),
    /// `NAME=value` in the environment.
    Variable(Vec<u8>),
}

impl Mark {
    pub(crate) fn new(id: ExecId) -> Self {
        if *LIMIT_IS_USABLE {
            let [a, b, c, d, e, f, g, h, ..] = id.0;
            Self::FileLocks(u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 2 | MARK_BIT)
        } else {
            Self::Variable(format!("{EXEC_ID}={id}").into_bytes())
        }
    }

    /// Returns the mark of a process; `None` if it has none, or the agent may not see it.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        if *LIMIT_IS_USABLE {
            let (soft, _) = proc::file_lock_limits(pid)?;
            soft.filter(|limit| limit & MARK_BIT != 0).map(Self::FileLocks)
        } else {
            proc::environment_entry(pid, EXEC_ID).map(Self::Variable)
        }
    }
}
