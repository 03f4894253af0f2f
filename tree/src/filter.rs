//! Which paths of a tree take part: rsync's include and exclude patterns, on bytes. The sender asks when it walks, the
//! receiver before it removes.

use std::borrow::Cow;

use podbridge_proto::v1::TreeFilter;

#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Filter>);

#[derive(Debug)]
struct Filter {
    include: bool,
    /// Matches from the root on, else from any component on.
    anchored: bool,
    directories_only: bool,
    /// `**` at the beginning: `**/x` is also an x at the top.
    starts_with_stars: bool,
    /// `***` at the end: `x/***` is also the directory x itself.
    ends_with_three_stars: bool,
    tokens: Vec<Token>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    AnyByte,
    /// `*`
    AnyName,
    /// `**`
    AnyPath,
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
}

impl Filters {
    /// `Err`: the pattern that is none.
    pub(crate) fn new(filters: &[TreeFilter]) -> Result<Self, String> {
        filters.iter().map(Filter::new).collect::<Result<_, _>>().map(Self)
    }

    /// `path` is relative to the root.
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
                "the pattern {:?} matches nothing",
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
                    // Without a wildcard there is nothing to escape.
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
                None => Token::Byte(b'['),
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

/// After `[`: the class, and what follows its `]`; `None` if there is no end.
fn parse_class(text: &[u8]) -> Option<(Token, &[u8])> {
    let (negated, text) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        match &text[at..] {
            // At the beginning it is one of the class.
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

/// After `[:`: what it matches_byte, and how long it is with its `:]`.
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

/// All of the text. The positions that the text may have reached move on together, so that no pattern matches_byte long.
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

/// Stars also match nothing.
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
    fn patterns_mean_what_they_mean_to_rsync() {
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
            ("-[", "[", true),
            // A directory by its slash.
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
    fn the_first_match_counts() {
        let keep = filters(&["+keep.o", "-*.o"]);
        assert!(!keep.excludes(b"d/keep.o", false) && keep.excludes(b"d/other.o", false));
        assert!(filters(&["-*.o", "+keep.o"]).excludes(b"keep.o", false));
    }

    #[test]
    fn no_pattern_takes_long() {
        let stars = format!("-{}b", "*a".repeat(200));
        assert!(!filters(&[&stars]).excludes(&[b'a'; 255], false));
    }
}
