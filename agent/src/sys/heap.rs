//! The heap. A serving agent re-executes itself once with `GLIBC_TUNABLES=glibc.malloc.tcache_count=0`, as glibc reads it only at a start.
//!
//! Why: glibc gives each thread a cache of freed blocks. After a thousand commands at once these blocks are scattered, and each one
//! keeps a page from being returned to the system: more than a megabyte that an idle agent holds. A running program cannot turn the
//! caches off.
//!
//! How: `restart_without_thread_caches` appends the setting to the variable and calls execve(2) on its own program with the same
//! arguments; pid, descriptors and working directory stay. The second start finds the setting, removes it again, so that commands do
//! not inherit it, and continues. If the operator has set a `tcache_count`, or the exec fails, the agent runs with thread caches.
//!
//! The other two functions set the heap up and return freed memory. All three are about glibc and do nothing with another C library.
//! `commands` sets the heap up before anything else; `app` trims it when execs, transfers, followers of logs or connections have ended.
//!
//! mimalloc and jemalloc need no re-exec, but an idle agent holds more memory with them (ADR 16).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::env::{self, GLIBC_TUNABLES, OWN_PROGRAM};

/// Setting that turns the caches of the threads off.
const NO_THREAD_CACHES: &[u8] = b"glibc.malloc.tcache_count=0";

/// Smallest block that is a mapping of its own, in bytes: larger than a chunk of a file with its message.
const LARGE_BLOCK: i32 = 512 << 10;
/// Free memory at the end of the heap that is kept for the next chunks, in bytes. By default glibc returns it with each chunk that is
/// freed, and page faults then cost a third of the time that a transfer takes.
const KEPT_MEMORY: i32 = 4 << 20;

/// Makes all threads share one arena: a second one saves little waiting, and keeps its own share of freed memory. Makes the heap keep
/// the memory of freed chunks until `trim`. The caller has allocated nothing that matters yet.
pub(crate) fn set_up() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the calls set numbers in the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_MEMORY);
    }
}

/// Returns freed memory to the system.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the allocator's own locks and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Re-executes this program with the setting, if it does not have it yet; see above. Returns in the second start, or if there is
/// nothing to do. The caller has started no thread yet.
#[expect(
    clippy::disallowed_methods,
    reason = "the agent's only write to the environment; no other thread runs yet"
)]
pub(crate) fn restart_without_thread_caches() {
    // glibc ignores the setting in a program with privileges of its own (set-user-id, file capabilities): it would restart for ever.
    // SAFETY: the call reads a number that the kernel passed at the start.
    if cfg!(not(target_env = "gnu")) || unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return;
    }
    let given = env::variable(GLIBC_TUNABLES).unwrap_or_default();
    match next_step(given.as_bytes()) {
        NextStep::Restart(value) => {
            let mut arguments = env::arguments();
            // `exec` returns only if it fails: the agent then runs with thread caches.
            let _ = Command::new(OWN_PROGRAM)
                .arg0(arguments.next().unwrap_or_default())
                .args(arguments)
                .env(GLIBC_TUNABLES, OsString::from_vec(value))
                .exec();
            // `exec` has reset SIGPIPE to the default; Rust programs ignore it.
            // SAFETY: the call sets no handler.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        }
        // The setting is for the agent and not for its commands.
        NextStep::Restore(value) => {
            // SAFETY: there is no other thread that could read the environment. This is the agent's only write to it.
            unsafe {
                match value {
                    [] => std::env::remove_var(GLIBC_TUNABLES),
                    value => std::env::set_var(GLIBC_TUNABLES, OsStr::from_bytes(value)),
                }
            }
        }
        NextStep::Keep => {}
    }
}

/// Decision from the value of `GLIBC_TUNABLES`.
#[derive(Debug, PartialEq, Eq)]
enum NextStep<'a> {
    /// First start: re-execute with this value.
    Restart(Vec<u8>),
    /// Second start: set the variable back to this value.
    Restore(&'a [u8]),
    /// The operator has set a number of cached blocks: change nothing.
    Keep,
}

/// Decides from the value of `GLIBC_TUNABLES`; empty if it is unset.
fn next_step(given: &[u8]) -> NextStep<'_> {
    match given.strip_suffix(NO_THREAD_CACHES) {
        Some(before) => NextStep::Restore(before.strip_suffix(b":").unwrap_or(before)),
        None if given.windows(12).any(|word| word == b"tcache_count") => NextStep::Keep,
        None if given.is_empty() => NextStep::Restart(NO_THREAD_CACHES.to_owned()),
        None => NextStep::Restart([given, b":", NO_THREAD_CACHES].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_added_once_and_removed_again() {
        for given in [&b""[..], b"glibc.malloc.arena_max=4"] {
            let NextStep::Restart(value) = next_step(given) else {
                panic!("the program is not started again");
            };
            assert_eq!(next_step(&value), NextStep::Restore(given));
        }
        assert_eq!(next_step(b"glibc.malloc.tcache_count=3:a.b.c=1"), NextStep::Keep);
    }
}
