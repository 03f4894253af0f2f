//! The agent's own heap: one for all threads, of which a server keeps next to nothing that was freed. `commands` set it up before
//! anything else, and `app` has it given back. All of it is about glibc; a C library without such settings gives memory back by
//! itself, or not at all.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::env::{self, GLIBC_TUNABLES};

/// No freed pieces kept by each thread for itself: scattered as they are after a thousand commands at once, every one keeps a page from
/// being given back, more than a megabyte in all.
const NO_THREAD_CACHES: &[u8] = b"glibc.malloc.tcache_count=0";

/// One heap for all threads: a second one saves little waiting, and keeps its own share of freed memory. To be called first.
pub(crate) fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number in the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives freed memory back to the system.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Starts this program again with the setting, if it does not have it yet. To be called while there is one thread.
pub(crate) fn restart_without_thread_caches() {
    // A program with privileges of its own is not told the setting, however often it is started.
    // SAFETY: it reads what the kernel gave us at the start.
    if cfg!(not(target_env = "gnu")) || unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return;
    }
    let given = env::variable(GLIBC_TUNABLES).unwrap_or_default();
    match next_step(given.as_bytes()) {
        NextStep::Restart(value) => {
            let Ok(own) = env::own_program() else { return };
            let mut arguments = env::arguments();
            // Returns only if it cannot be done: then memory is kept.
            let _ = Command::new(own)
                .arg0(arguments.next().unwrap_or_default())
                .args(arguments)
                .env(GLIBC_TUNABLES, OsString::from_vec(value))
                .exec();
            // It has put this back to what programs expect.
            // SAFETY: it sets no handler of ours.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        }
        // It is our matter, not the commands'.
        NextStep::Restore(value) => {
            // SAFETY: there is no other thread that could read the environment.
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

#[derive(Debug, PartialEq, Eq)]
enum NextStep<'a> {
    /// With this value.
    Restart(Vec<u8>),
    /// This is what was given before us.
    Restore(&'a [u8]),
    /// Somebody has chosen.
    Keep,
}

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
    fn the_setting_is_added_once_and_taken_away_again() {
        for given in [&b""[..], b"glibc.malloc.arena_max=4"] {
            let NextStep::Restart(value) = next_step(given) else {
                panic!("the program is not started again");
            };
            assert_eq!(next_step(&value), NextStep::Restore(given));
        }
        assert_eq!(next_step(b"glibc.malloc.tcache_count=3:a.b.c=1"), NextStep::Keep);
    }
}
