//! What `tidy` reads from the text of a Rust file: code without comments, literals and tests, imports, and paths. An approximation that
//! knows no macros and no types. `module_graph` and the rules of `tidy` call it.

/// One name that a `use` declaration brings into a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub line: usize,
    /// Segments as written, from `crate`, `super`, a crate or a module; `*` is the last one of a glob.
    pub path: Vec<String>,
    /// The name in this module.
    pub name: String,
    /// Whether other modules get the name from here.
    pub is_public: bool,
}

/// A path of two segments or more outside of `use` declarations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathUse {
    pub line: usize,
    pub path: Vec<String>,
}

/// Replaces comments and the content of literals by spaces. Line and column of everything else stay.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut blank = |from: usize, to: usize| {
        for byte in &mut code[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let after_name = at > 0 && is_name(bytes[at - 1]);
        let length = match rest {
            [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => block_comment(rest),
            [b'"', ..] => string(rest),
            [b'r', b'"' | b'#', ..] if !after_name || matches!(bytes[at - 1], b'b' | b'c') => raw_string(rest),
            [b'\'', ..] => character(&text[at..]),
            _ => 0,
        };
        blank(at, at + length);
        at += length.max(1);
    }
    String::from_utf8(code).unwrap()
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Returns 0 for a raw identifier such as `r#type`.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [&b"\""[..], &rest[1..=hashes]].concat();
    let content = &rest[hashes + 2..];
    let length = content.windows(end.len()).position(|window| window == end);
    length.map_or(rest.len(), |length| hashes + 2 + length + end.len())
}

/// Returns 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), _) => rest[3..].find('\'').map_or(0, |end| end + 4),
        (_, Some((end, '\''))) => end + 1,
        _ => 0,
    }
}

/// Replaces items behind `#[cfg(test)]` by spaces. Takes and returns what [`code`] made.
pub fn without_tests(code: &str) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut rest = code;
    let mut kept = String::with_capacity(code.len());
    while let Some(start) = rest.find(ATTRIBUTE) {
        let end = item_end(&rest[start..]) + start;
        kept.push_str(&rest[..start]);
        kept.extend(rest[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    kept + rest
}

/// Returns the length of the item: to its semicolon, or to the end of its block.
fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in item.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// Returns the imports in `code`, and `code` without them.
pub fn imports(code: &str) -> (Vec<Import>, String) {
    let mut imports = Vec::new();
    let mut rest = code.to_owned();
    for start in words(code, "use") {
        let body = &code[start + 3..];
        let Some(end) = body.find(';').filter(|_| !body.trim_start().starts_with('<')) else {
            // Precise capturing, as in `impl Trait + use<'a>`.
            continue;
        };
        let before = code[..start].trim_end();
        let statement = before
            .rfind([';', '}', '{', ']'])
            .map_or(before, |at| &before[at + 1..]);
        let is_public = words(statement, "pub").next().is_some();
        let line = line_of(code, start);
        add_tree(&mut imports, &body[..end], &[], line, is_public);
        let blank: String = code[start..start + 3 + end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        rest.replace_range(start..start + 3 + end, &blank);
    }
    (imports, rest)
}

/// Adds the imports of a use tree such as `a::{b, c as d, e::*}` below `prefix`.
fn add_tree(imports: &mut Vec<Import>, tree: &str, prefix: &[String], line: usize, is_public: bool) {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let prefix: Vec<String> = prefix.iter().cloned().chain(segments(head)).collect();
        let group = &group[..group.rfind('}').unwrap_or(group.len())];
        let mut depth = 0;
        let split = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        };
        for branch in group.split(split) {
            add_tree(imports, branch, &prefix, line, is_public);
        }
        return;
    }
    let (path, alias) = match tree.split_once(" as ") {
        Some((path, alias)) => (path, Some(alias.trim().to_owned())),
        None => (tree, None),
    };
    let mut path: Vec<String> = prefix.iter().cloned().chain(segments(path)).collect();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let Some(name) = alias.or_else(|| path.last().cloned()).filter(|_| !tree.is_empty()) else {
        return;
    };
    imports.push(Import {
        line,
        path,
        name,
        is_public,
    });
}

fn segments(path: &str) -> impl Iterator<Item = String> {
    let segments = path.split("::").map(|segment| segment.trim().to_owned());
    segments.filter(|segment| !segment.is_empty())
}

/// Returns the paths in `code`; the caller removes the imports before.
pub fn paths(code: &str) -> Vec<PathUse> {
    let bytes = code.as_bytes();
    let mut paths = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while at < bytes.len() {
        if !is_name(bytes[at]) {
            line += usize::from(bytes[at] == b'\n');
            at += 1;
            continue;
        }
        let length = code[at..]
            .bytes()
            .take_while(|byte| is_name(*byte) || *byte == b':')
            .count();
        let written = &code[at..at + length];
        // `name: Type` ends with a colon and has one segment.
        let path: Vec<String> = segments(written).map(|segment| segment.replace(':', "")).collect();
        let is_continued = at > 0 && (bytes[at - 1] == b'.' || code[..at].ends_with("::"));
        if path.len() > 1 && !is_continued {
            paths.push(PathUse { line, path });
        }
        at += length;
    }
    paths
}

/// Returns the names of the items that `code` defines, at whatever depth.
pub fn definitions(code: &str) -> Vec<String> {
    const KEYWORDS: [&str; 9] = [
        "fn",
        "struct",
        "enum",
        "trait",
        "type",
        "const",
        "static",
        "union",
        "macro_rules",
    ];
    let tokens = code
        .split(|c: char| !(c == '_' || c.is_alphanumeric()))
        .filter(|token| !token.is_empty());
    let mut names = Vec::new();
    let mut is_after_keyword = false;
    for token in tokens {
        if is_after_keyword && !KEYWORDS.contains(&token) {
            names.push(token.to_owned());
        }
        is_after_keyword = KEYWORDS.contains(&token);
    }
    names
}

/// Returns where `word` stands in `text` with no letter, digit or underscore beside it.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).map(|at| text.as_bytes()[at]);
        let after = text.as_bytes().get(at + word.len()).copied();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// Returns the number of the line, from 1, that has this byte.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

fn is_name(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}
