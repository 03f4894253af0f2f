//! Names of temporary files that are written beside their target and then renamed over it.
//!
//! Single files in the agent, downloads of `podbridge cp` and tree copies all use this one form, because a tree copy with `delete` must
//! recognize the files that another copy is still writing.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Name of a temporary file: `.podbridge-` and 16 lower-case hexadecimal digits.
///
/// The length is fixed: a suffix to the target's own name could exceed NAME_MAX for a target of 255 bytes.
pub type TemporaryName = [u8; PREFIX.len() + DIGITS];

const PREFIX: &str = ".podbridge-";
const DIGITS: usize = 16;

/// Returns a number that is unlikely to be in use for a temporary name; [`create`] refuses a name that exists.
pub fn random_number() -> u64 {
    let mut random = [0; 8];
    // getrandom cannot fail for so few bytes (getrandom(2)).
    let _ = getrandom(&mut random, GetRandomFlags::empty());
    u64::from_ne_bytes(random)
}

/// Returns the temporary name with this number.
pub fn name(number: u64) -> TemporaryName {
    let text = format!("{PREFIX}{number:016x}");
    text.as_bytes().try_into().expect("prefix and 16 digits")
}

/// Returns whether a name has the form of a temporary name, whichever process made it.
pub fn is_temporary(name: &[u8]) -> bool {
    let digits = name.strip_prefix(PREFIX.as_bytes());
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit))
}

/// Creates a file of this name for reading and writing; `EXIST` if anything has the name already, also a symbolic link.
pub fn create(directory: impl AsFd, name: &[u8], mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognized_by_their_form_alone() {
        assert_eq!(&name(0xab), b".podbridge-00000000000000ab");
        assert!(is_temporary(&name(u64::MAX)));
        assert!(is_temporary(b".podbridge-0123456789ABCDEF"));
        for other in [
            &b".podbridge-new"[..],
            b".podbridge-00000000000000a",
            b".podbridge-00000000000000abc",
            b"x",
        ] {
            assert!(!is_temporary(other), "{other:?}");
        }
    }

    #[test]
    fn a_name_that_exists_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(dir.path()).unwrap();
        let name = name(random_number());
        create(&directory, &name, Mode::RUSR).unwrap();
        assert_eq!(create(&directory, &name, Mode::RUSR).unwrap_err(), Errno::EXIST);
    }
}
