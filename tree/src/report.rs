//! Events that a copy reports to its caller while it runs, and the form of paths in them.

use std::fmt::Write as _;

use bytes::Bytes;
use podbridge_proto::v1::{TreeChange, TreeProblem};
use podbridge_proto::words::clean;

/// Longest path in a report, bytes: eight times PATH_MAX.
const MAX_PATH: usize = 32 << 10;

/// An event of a running copy, which the caller may show.
#[derive(Debug)]
pub enum Event {
    /// A path changed on the receiving side, or would change in a dry run.
    Change(TreeChange),
    /// Something was not done; `remote`: by the other side.
    Problem { problem: TreeProblem, remote: bool },
    /// This number of bytes of content was sent or received.
    Content(u64),
}

/// The caller's function that receives the events.
pub type Report<'a> = &'a mut dyn FnMut(Event);

/// Returns a path for a report: of a very long one only the end, so that one message holds several.
pub(crate) fn truncate_path(path: Vec<u8>) -> Bytes {
    if path.len() > MAX_PATH {
        [b"...", &path[path.len() - MAX_PATH..]].concat().into()
    } else {
        path.into()
    }
}

/// Makes the event of a problem that the other side reports. Its text is cut and made fit for terminals, its path is cut.
pub(crate) fn received_problem(problem: TreeProblem) -> Event {
    let problem = TreeProblem {
        path: truncate_path(problem.path.into()),
        what: clean(&problem.what),
        ..problem
    };
    Event::Problem { problem, remote: true }
}

/// Makes the event of a change that the other side reports. Its path is cut.
pub(crate) fn received_change(change: TreeChange) -> Event {
    Event::Change(TreeChange {
        path: truncate_path(change.path.into()),
        ..change
    })
}

/// Returns a name as text for people. Control and invisible characters and bytes that are not UTF-8 are escaped, so that a name cannot
/// command the terminal.
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
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Returns whether a character is invisible or changes the direction of writing.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_other_side_are_short_and_clean() {
        let long = vec![b'x'; 1 << 20];
        let problem = TreeProblem {
            path: long.clone().into(),
            what: format!("\x1b[2J\n{}", "x".repeat(1 << 20)),
            warning: true,
        };
        let Event::Problem { problem, remote: true } = received_problem(problem) else {
            panic!("no problem");
        };
        assert!(problem.warning && problem.path.len() <= MAX_PATH + 3 && problem.what.len() <= 1024);
        assert!(problem.what.starts_with("\u{fffd}[2J x"));
        let Event::Change(change) = received_change(TreeChange {
            path: long.into(),
            ..TreeChange::default()
        }) else {
            panic!("no change");
        };
        assert!(change.path.len() <= MAX_PATH + 3);
    }

    #[test]
    fn names_cannot_command_a_terminal() {
        assert_eq!(escape_for_terminal("a b/ä".as_bytes()), "a b/ä");
        assert_eq!(escape_for_terminal(b"\x1b[2J\n\xff\\"), "\\u{1b}[2J\\n\\xff\\\\");
        assert_eq!(escape_for_terminal("\u{202e}x".as_bytes()), "\\u{202e}x");
    }
}
