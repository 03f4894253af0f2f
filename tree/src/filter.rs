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
            .any(|from| matches(&self.tokens, from))
    }
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
                // As in rsync, a class without an end matches nothing.
                None => Token::Class {
                    negated: false,
                    ranges: Vec::new(),
                },
            },
            b'\\' if !rest.is_empty() => {
                pattern = &rest[1..];
                Token::Byte(rest[0])
            }
            byte => Token::Byte(*byte),
        });
    }
    tokens
}

/// Parses the text after `[`. Returns the class and the text after its `]`; `None` without a `]`.
fn parse_class(text: &[u8]) -> Option<(Token, &[u8])> {
    let (negated, text) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        match &text[at..] {
            // A `]` at the beginning is a member of the class.
            [b']', rest @ ..] if at > 0 => return Some((Token::Class { negated, ranges }, rest)),
            [b'[', b':', rest @ ..] if let Some((name, length)) = named_class(rest) => {
                ranges.extend((0..128).filter(name).map(|byte| (byte, byte)));
                at += 2 + length;
            }
            [low, b'-', high, ..] if *high != b']' => {
                ranges.push((*low, *high));
                at += 3;
            }
            [b'\\', byte, ..] | [byte, ..] => {
                ranges.push((*byte, *byte));
                at += if text[at] == b'\\' && text.len() > at + 1 { 2 } else { 1 };
            }
            [] => return None,
        }
    }
}

type ByteTest = fn(&u8) -> bool;

/// Parses the text after `[:`. Returns the test of the class and the length of its name with `:]`; `None` for an unknown name.
fn named_class(text: &[u8]) -> Option<(ByteTest, usize)> {
    let classes: [(&[u8], ByteTest); 12] = [
        (b"alnum:]", u8::is_ascii_alphanumeric),
        (b"alpha:]", u8::is_ascii_alphabetic),
        (b"blank:]", |byte| matches!(byte, b' ' | b'\t')),
        (b"cntrl:]", u8::is_ascii_control),
        (b"digit:]", u8::is_ascii_digit),
        (b"graph:]", u8::is_ascii_graphic),
        (b"lower:]", u8::is_ascii_lowercase),
        (b"print:]", |byte| matches!(byte, b' '..=b'~')),
        (b"punct:]", u8::is_ascii_punctuation),
        (b"space:]", |byte| matches!(byte, b' ' | b'\t'..=b'\r')),
        (b"upper:]", u8::is_ascii_uppercase),
        (b"xdigit:]", u8::is_ascii_hexdigit),
    ];
    let found = classes.into_iter().find(|(name, _)| text.starts_with(name));
    found.map(|(name, matches_byte)| (matches_byte, name.len()))
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
