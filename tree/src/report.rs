//! What is told while a tree is brought over, to whoever called and to the other side, and how names are shown.

use std::fmt::Write as _;

use bytes::Bytes;
use podbridge_proto::v1::{TreeChange, TreeProblem};

/// Eight times what the system takes as a path.
const MAX_PATH: usize = 32 << 10;

/// Something that whoever called may show.
#[derive(Debug)]
pub enum Event {
    Change(TreeChange),
    /// Something that was not done; `remote`: on the other side.
    Problem {
        problem: TreeProblem,
        remote: bool,
    },
    /// So many bytes of content were sent or received.
    Content(u64),
}

/// Takes the events.
pub type Report<'a> = &'a mut dyn FnMut(Event);

/// A path as it is told: of a very long one the end, so that a message holds several.
pub(crate) fn truncate_path(path: Vec<u8>) -> Bytes {
    if path.len() > MAX_PATH {
        [b"...", &path[path.len() - MAX_PATH..]].concat().into()
    } else {
        path.into()
    }
}

/// A name for people: what a terminal would obey, and what is no UTF-8, is escaped.
pub fn escape_for_terminal(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                _ if character.is_control() || is_invisible(character) => text.extend(character.escape_default()),
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Characters that turn the direction of writing, or that nobody sees.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::escape_for_terminal;

    #[test]
    fn names_cannot_command_a_terminal() {
        assert_eq!(escape_for_terminal("a b/ä".as_bytes()), "a b/ä");
        assert_eq!(escape_for_terminal(b"\x1b[2J\n\xff\\"), "\\u{1b}[2J\\n\\xff\\\\");
        assert_eq!(escape_for_terminal("\u{202e}x".as_bytes()), "\\u{202e}x");
    }
}
