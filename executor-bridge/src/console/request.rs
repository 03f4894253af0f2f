//! Parses the requests of the console stream. `connection` calls it. No I/O.

use crate::session::LogId;

/// Limit in bytes: a request, with its newline, must be shorter (zuul_console's MAX_REQUEST_LEN).
pub(super) const MAX_LENGTH: usize = 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// `v:<version of the client>`
    Version,
    /// `s:<id>`, or only the id, as before Zuul 6.3.
    Stream(LogId),
    /// `f:<id>`
    Finish(LogId),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParseResult {
    /// A request and its length in bytes, with the newline.
    Request(Request, usize),
    Incomplete,
    Bad,
}

/// Parses the request at the beginning of the received bytes.
pub(super) fn parse(received: &[u8]) -> ParseResult {
    let Some(end) = received.iter().take(MAX_LENGTH - 1).position(|byte| *byte == b'\n') else {
        return if received.len() < MAX_LENGTH {
            ParseResult::Incomplete
        } else {
            ParseResult::Bad
        };
    };
    let Ok(line) = std::str::from_utf8(&received[..end]) else {
        return ParseResult::Bad;
    };
    let line = line.trim();
    let with_id = |id: &str, request: fn(LogId) -> Request| LogId::new(id).map(request);
    let request = match line.split_once(':') {
        Some(("v", _)) => Some(Request::Version),
        Some(("s", id)) => with_id(id, Request::Stream),
        Some(("f", id)) => with_id(id, Request::Finish),
        _ => with_id(line, Request::Stream),
    };
    request.map_or(ParseResult::Bad, |request| ParseResult::Request(request, end + 1))
}

/// Checks any bytes for `fuzzing`: the answer does not depend on how they arrive.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(received: &[u8]) {
    let whole = parse(received);
    let end = match whole {
        ParseResult::Request(_, length) => length,
        ParseResult::Incomplete => received.len(),
        ParseResult::Bad => return,
    };
    assert!(end <= received.len() && end < MAX_LENGTH);
    for length in 0..end {
        assert_eq!(parse(&received[..length]), ParseResult::Incomplete);
    }
    assert_eq!(parse(&received[..end]), whole);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> LogId {
        LogId::new(text).unwrap()
    }

    #[test]
    fn valid_requests_are_parsed() {
        assert_eq!(parse(b"v:0\ns:x"), ParseResult::Request(Request::Version, 4));
        assert_eq!(
            parse(b"s:u-1-node\n"),
            ParseResult::Request(Request::Stream(id("u-1-node")), 11)
        );
        assert_eq!(
            parse(b"u-1-node\r\n"),
            ParseResult::Request(Request::Stream(id("u-1-node")), 10)
        );
        assert_eq!(
            parse(b"f:../../u\n"),
            ParseResult::Request(Request::Finish(id("u")), 10)
        );
        assert_eq!(parse(b"s:u"), ParseResult::Incomplete);
        assert_eq!(parse(b""), ParseResult::Incomplete);
    }

    #[test]
    fn invalid_requests_are_refused() {
        assert_eq!(parse(b"\n"), ParseResult::Bad);
        assert_eq!(parse(b"s:\n"), ParseResult::Bad);
        assert_eq!(parse(b"s:\xff\n"), ParseResult::Bad);
        assert_eq!(parse(b"s:a\0b\n"), ParseResult::Bad);
        assert_eq!(parse(&[b'x'; 1024]), ParseResult::Bad);
        let mut long = [&b"v:"[..], &[b'x'; 1020]].concat();
        assert_eq!(parse(&long), ParseResult::Incomplete);
        long.push(b'\n');
        assert!(matches!(parse(&long), ParseResult::Request(_, 1023)));
        long.insert(0, b'x');
        assert_eq!(parse(&long), ParseResult::Bad);
    }
}
