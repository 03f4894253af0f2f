//! The words of a peer that is not trusted, made fit for terminals and logs. Whoever receives a sentence or a name of a peer calls
//! [`clean`] where it arrives. No I/O.

/// Longest text that is kept of a peer's words, bytes.
pub const MAX_WORDS: usize = 1024;
/// Longest name that a message repeats of a peer's words, bytes.
pub const MAX_NAME: usize = 64;
/// Mark at the end of a text that was cut.
const CUT: char = '…';

/// Returns the text as one line without control characters, of at most [`MAX_WORDS`] bytes. White space that moves the cursor becomes a
/// space; other control characters, and characters that change the direction or the visibility of others, become U+FFFD.
pub fn clean(text: &str) -> String {
    clean_within(text, MAX_WORDS)
}

/// Returns a name that a peer has told, made fit as [`clean`] does, of at most [`MAX_NAME`] bytes.
pub fn name(text: &str) -> String {
    clean_within(text, MAX_NAME)
}

/// Does what [`clean`] does, with another limit on the length.
pub fn clean_within(text: &str, longest: usize) -> String {
    let mut cleaned = String::with_capacity(text.len().min(longest));
    for letter in text.trim_end().chars().map(visible) {
        if cleaned.len() + letter.len_utf8() > longest {
            while cleaned.len() + CUT.len_utf8() > longest {
                cleaned.pop();
            }
            cleaned.push(CUT);
            break;
        }
        cleaned.push(letter);
    }
    cleaned
}

/// Returns the character, or what stands for it.
pub fn visible(letter: char) -> char {
    match letter {
        '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
        // Direction marks, embeddings, overrides and isolates; zero-width characters; tags; byte order mark; interlinear annotation.
        '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => char::REPLACEMENT_CHARACTER,
        letter if letter.is_control() => char::REPLACEMENT_CHARACTER,
        letter => letter,
    }
}

/// Returns whether the text is printable ASCII of at most `longest` bytes, as versions and ids are.
pub fn is_plain(text: &str, longest: usize) -> bool {
    text.len() <= longest && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        for (text, expected) in [
            ("", ""),
            ("no such file: grüße", "no such file: grüße"),
            ("one\ntwo\r\nthree\tfour\n", "one two  three four"),
            ("\x1b]0;title\x07", "\u{fffd}]0;title\u{fffd}"),
            ("\0\x7f", "\u{fffd}\u{fffd}"),
            // C1: one of them begins a sequence, as ESC [ does.
            ("\u{9b}31m", "\u{fffd}31m"),
            (
                "a\u{202e}txt.exe\u{2066}\u{200b}\u{feff}",
                "a\u{fffd}txt.exe\u{fffd}\u{fffd}\u{fffd}",
            ),
            ("a\u{2028}podbridge: forged", "a podbridge: forged"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        for unit in ["x", "ü", "…", "\u{1f600}", "\x1b"] {
            let cleaned = clean(&unit.repeat(4 << 20));
            assert!(
                cleaned.len() <= MAX_WORDS && cleaned.len() > MAX_WORDS - 8,
                "{}",
                cleaned.len()
            );
            assert!(cleaned.ends_with(CUT));
        }
        let just = "x".repeat(MAX_WORDS);
        assert_eq!(clean(&just), just);
        assert_eq!(name(&just).len(), MAX_NAME);
    }

    #[test]
    fn versions_and_ids_are_printable_ascii() {
        assert!(is_plain("0.1.0", 256));
        assert!(is_plain("", 256));
        assert!(
            !is_plain("0.1.0\n", 256)
                && !is_plain("ü", 256)
                && !is_plain("\x1b", 256)
                && !is_plain(&"x".repeat(257), 256)
        );
    }
}
