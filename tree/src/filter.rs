//! Include and exclude patterns with rsync's rules, on bytes. The sender skips excluded paths; the receiver does not remove them.

use std::borrow::Cow;

use podbridge_proto::v1::TreeFilter;

#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Filter>);

#[derive(Debug)]
struct Filter {
    include: bool,
    /// `/` at the beginning: the pattern matches from the root. Otherwise it matches from any component.
    anchored: bool,
    /// `/` at the end: the pattern matches directories only.
    directories_only: bool,
    /// `**` at the beginning: `**/x` also matches an `x` in the root.
    starts_with_stars: bool,
    /// `***` at the end: `x/***` also matches the directory `x` itself.
    ends_with_three_stars: bool,
    /// Slashes in the pattern, those of a class too: it matches this many components and one. `None` for a pattern with `**`.
    slashes: Option<usize>,
    tokens: Vec<Token>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`: any byte except `/`.
    AnyByte,
    /// `*`: any bytes except `/`.
    AnyName,
    /// `**`: any bytes.
    AnyPath,
    /// `[...]`: any byte of these inclusive ranges except `/`.
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
}

impl Filters {
    /// Parses the patterns. `Err` is a sentence that names the invalid one.
    pub(crate) fn new(filters: &[TreeFilter]) -> Result<Self, String> {
        filters.iter().map(Filter::new).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether the first pattern that matches is an exclude pattern. `path` is relative to the root.
    pub(crate) fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        let first = self.0.iter().find(|filter| filter.matches(path, is_directory));
        first.is_some_and(|filter| !filter.include)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Filter {
    fn new(filter: &TreeFilter) -> Result<Self, String> {
        let pattern = &filter.pattern[..];
        let (anchored, rest) = match pattern.strip_prefix(b"/") {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        let (directories_only, rest) = match rest.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.is_empty() {
            Err(format!(
                "the pattern {:?} is empty and matches nothing",
                crate::escape_for_terminal(pattern)
            ))
        } else {
            Ok(Self {
                include: filter.include,
                anchored,
                directories_only,
                starts_with_stars: pattern.starts_with(b"**"),
                ends_with_three_stars: rest.ends_with(b"***"),
                slashes: (!rest.windows(2).any(|pair| pair == b"**")).then(|| slashes_in(rest)),
                tokens: if rest.iter().any(|byte| b"*?[".contains(byte)) {
                    parse_tokens(rest)
                } else {
                    // A backslash escapes only in a pattern with wildcards, as in rsync.
                    rest.iter().copied().map(Token::Byte).collect()
                },
            })
        }
    }

    fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        if self.directories_only && !is_directory {
            return false;
        }
        let (before, after) = (self.starts_with_stars, self.ends_with_three_stars && is_directory);
        let padded = if before || after {
            Cow::from([&b"/"[..usize::from(before)], path, &b"/"[..usize::from(after)]].concat())
        } else {
            Cow::from(path)
        };
        let path = &*padded;
        if self.anchored {
            return matches(&self.tokens, path);
        }
        let later = (0..path.len()).filter(|at| path[*at] == b'/').map(|at| &path[at + 1..]);
        std::iter::once(path)
            .chain(later)
            .filter(|from| self.slashes.is_none_or(|count| count == slashes_in(from)))
            .any(|from| matches(&self.tokens, from))
    }
}

fn slashes_in(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'/').count()
}

fn parse_tokens(mut pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    while let [first, rest @ ..] = pattern {
        pattern = rest;
        tokens.push(match first {
            b'*' if rest.starts_with(b"*") => {
                let stars = rest.iter().take_while(|byte| **byte == b'*').count();
                pattern = &rest[stars..];
                Token::AnyPath
            }
            b'*' => Token::AnyName,
            b'?' => Token::AnyByte,
            b'[' => match parse_class(rest) {
                Some((class, after)) => {
                    pattern = after;
                    class
                }
                None => Token::NOTHING,
            },
            b'\\' => match rest {
                [byte, after @ ..] => {
                    pattern = after;
                    Token::Byte(*byte)
                }
                [] => Token::NOTHING,
            },
            byte => Token::Byte(*byte),
        });
    }
    tokens
}

/// Parses the text after `[`. Returns the class and the text after its `]`; `None` if it has no end or names an unknown class.
fn parse_class(text: &[u8]) -> Option<(Token, &[u8])> {
    let (negated, mut rest) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut ranges = Vec::new();
    // The byte before, with which a range can begin.
    let mut low = None;
    loop {
        match rest {
            // A `]` at the beginning is a member of the class.
            [b']', after @ ..] if !ranges.is_empty() => return Some((Token::Class { negated, ranges }, after)),
            [b'-', high @ ..]
                if let Some(start) = low
                    && high.first().is_some_and(|byte| *byte != b']') =>
            {
                let (end, after) = unescape(high)?;
                ranges.push((start, end));
                (low, rest) = (None, after);
            }
            [b'[', b':', after @ ..]
                if let Some(end) = after.iter().position(|byte| *byte == b']')
                    && let [name @ .., b':'] = &after[..end] =>
            {
                let matches_byte = named_class(name)?;
                ranges.extend((0..128).filter(matches_byte).map(|byte| (byte, byte)));
                (low, rest) = (None, &after[end + 1..]);
            }
            _ => {
                let (byte, after) = unescape(rest)?;
                ranges.push((byte, byte));
                (low, rest) = (Some(byte), after);
            }
        }
    }
}

/// Returns the first byte of a class, or the one after its backslash, and the text after it.
fn unescape(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'\\', byte, after @ ..] => Some((*byte, after)),
        [b'\\'] | [] => None,
        [byte, after @ ..] => Some((*byte, after)),
    }
}

type ByteTest = fn(&u8) -> bool;

/// Returns the test of the class with this name, such as `alpha`.
fn named_class(name: &[u8]) -> Option<ByteTest> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

/// Returns whether the tokens match the whole text. All positions that are reachable advance together, so that no pattern takes
/// exponential time.
fn matches(tokens: &[Token], text: &[u8]) -> bool {
    let mut reached = vec![false; tokens.len() + 1];
    reached[0] = true;
    skip_stars(tokens, &mut reached);
    for byte in text {
        let mut next = vec![false; tokens.len() + 1];
        for (at, token) in tokens.iter().enumerate().filter(|(at, _)| reached[*at]) {
            match token {
                Token::AnyPath => next[at] = true,
                Token::AnyName => next[at] |= *byte != b'/',
                _ => next[at + 1] |= token.matches_byte(*byte),
            }
        }
        skip_stars(tokens, &mut next);
        reached = next;
    }
    reached[tokens.len()]
}

/// Marks the positions after reached stars, as a star also matches the empty text.
fn skip_stars(tokens: &[Token], reached: &mut [bool]) {
    for (at, token) in tokens.iter().enumerate() {
        if matches!(token, Token::AnyName | Token::AnyPath) && reached[at] {
            reached[at + 1] = true;
        }
    }
}

impl Token {
    /// As in rsync, a class without an end and a backslash at the end match nothing.
    const NOTHING: Self = Self::Class {
        negated: false,
        ranges: Vec::new(),
    };

    fn matches_byte(&self, byte: u8) -> bool {
        match self {
            Token::Byte(own) => *own == byte,
            Token::Class { negated, ranges } => {
                byte != b'/' && *negated != ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte))
            }
            _ => byte != b'/',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(patterns: &[&str]) -> Filters {
        let parse = |pattern: &&str| TreeFilter {
            include: pattern.starts_with('+'),
            pattern: pattern.as_bytes()[1..].to_vec().into(),
        };
        Filters::new(&patterns.iter().map(parse).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn patterns_match_as_in_rsync() {
        for (pattern, path, excluded) in [
            ("-*.o", "a.o", true),
            ("-*.o", "d/e/a.o", true),
            ("-*.o", "a.o/x", false),
            ("-/a", "a", true),
            ("-/a", "d/a", false),
            ("-d/a", "x/d/a", true),
            ("-d/a", "xd/a", false),
            ("-/d/*", "d/e/f", false),
            ("-/d/**", "d/e/f", true),
            ("-a**z", "x/a/b/z", true),
            ("-?", "ab", false),
            ("-[a-c]x", "bx", true),
            ("-[!a-c]x", "bx", false),
            ("-[]]", "]", true),
            ("-**/a", "a", true),
            ("-**/a", "d/e/a", true),
            ("-**/a", "xa", false),
            ("-**a", "xa", true),
            ("-/**/a", "a", false),
            ("-d/***", "d", false),
            ("-d/***", "x/d/e", true),
            ("-[[:digit:]x]", "7", true),
            ("-[[:digit:]x]", "x", true),
            ("-[^[:alpha:]]", "a", false),
            ("-a\\b", "a\\b", true),
            ("-a\\b*", "ab", true),
            ("-\\*", "*", true),
            ("-\\*", "a", false),
            ("-[", "[", false),
            ("-[a", "a", false),
            ("-[\\a-c]", "b", true),
            ("-[a-\\c]", "b", true),
            ("-[a-\\c]", "Z", false),
            ("-[a-c-e]", "d", false),
            ("-[a-c-e]", "-", true),
            ("-[[:digit:]-z]", "a", false),
            ("-[[:digit:]-z]", "-", true),
            ("-[[:foo:]a]", "a", false),
            ("-[[:foo:]a]", ":]", false),
            ("-[[:a]", ":", true),
            ("-[[::]a]", "a", false),
            ("-[a\\", "a", false),
            ("-?\\", "a\\", false),
            ("-[/a]b", "ab", false),
            ("-[/a]b", "d/ab", false),
            ("-/[/a]b", "ab", true),
            ("-*[**]", "d/a*", true),
            // A slash at the end of the path marks a directory.
            ("-d/***", "d/", true),
            ("-d/***", "x/d/", true),
            ("-/d/***", "x/d/", false),
            ("-d/**", "d/", false),
            ("-build/", "a/build/", true),
            ("-build/", "a/build", false),
        ] {
            let name = path.trim_end_matches('/');
            let excludes = filters(&[pattern]).excludes(name.as_bytes(), name != path);
            assert_eq!(excludes, excluded, "{pattern} {path}");
        }
    }

    #[test]
    fn the_first_matching_pattern_decides() {
        let keep = filters(&["+keep.o", "-*.o"]);
        assert!(!keep.excludes(b"d/keep.o", false) && keep.excludes(b"d/other.o", false));
        assert!(filters(&["-*.o", "+keep.o"]).excludes(b"keep.o", false));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let stars = format!("-{}b", "*a".repeat(200));
        assert!(!filters(&[&stars]).excludes(&[b'a'; 255], false));
    }
}
