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

/// Returns a sentence made fit as [`clean`] does. Of a longer one the middle is left out: a sentence about a file begins with the path and
/// ends with the reason.
pub fn sentence(text: &str) -> String {
    let text = text.trim_end();
    let (whole, is_whole) = take_within(text.chars(), MAX_WORDS);
    if is_whole {
        return whole;
    }
    let half = (MAX_WORDS - CUT.len_utf8()) / 2;
    let (beginning, _) = take_within(text.chars(), half);
    let (end, _) = take_within(text.chars().rev(), half);
    let mut cut = beginning;
    cut.push(CUT);
    cut.extend(end.chars().rev());
    cut
}

/// Does what [`clean`] does, with another limit on the length.
pub fn clean_within(text: &str, longest: usize) -> String {
    let (mut cleaned, is_whole) = take_within(text.trim_end().chars(), longest);
    if !is_whole {
        while cleaned.len() + CUT.len_utf8() > longest {
            cleaned.pop();
        }
        cleaned.push(CUT);
    }
    cleaned
}

/// Returns as many letters, made visible, as fit, and whether these are all.
fn take_within(letters: impl Iterator<Item = char>, longest: usize) -> (String, bool) {
    let mut taken = String::new();
    for letter in letters.map(visible) {
        if taken.len() + letter.len_utf8() > longest {
            return (taken, false);
        }
        taken.push(letter);
    }
    (taken, true)
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
    fn a_long_sentence_keeps_its_beginning_and_its_end() {
        for unit in ["x", "ü", "\u{1f600}", "\x1b"] {
            let cut = sentence(&format!(
                "/{}: cannot open it: File name too long\n",
                unit.repeat(1 << 18)
            ));
            assert!(cut.len() <= MAX_WORDS && cut.len() > MAX_WORDS - 16, "{}", cut.len());
            assert!(cut.starts_with('/') && cut.contains(CUT), "{cut}");
            assert!(cut.ends_with(": cannot open it: File name too long"), "{cut}");
        }
        assert_eq!(sentence("/x: cannot open it\n"), "/x: cannot open it");
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
