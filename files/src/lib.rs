//! Helpers for files that the agent, the bridge and the tree copy share: where a sparse file has data, the name of a temporary file,
//! writing in place, mounts, the users and groups of the system and the right to set them, and the text of a system error.
//!
//! The crate keeps no state, depends on no other podbridge crate, and knows neither gRPC nor an async runtime. All calls block.

pub mod in_place;
pub mod mounts;
pub mod owner_rights;
pub mod sparse;
pub mod temporary;
pub mod users;

use std::io;

/// Returns the system's text for an error in lower case, without the " (os error N)" that the standard library appends.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_no_error_number() {
        let error = io::Error::from(rustix::io::Errno::NOENT);
        assert_eq!(reason(&error), "no such file or directory");
        assert_eq!(reason(&io::Error::other("The disk is gone")), "the disk is gone");
    }
}
