//! The only change to a log's bytes: a newline before the line with the exit code. Zuul's `command` module writes the last
//! line of a command's output as it is. If that line has no newline, Zuul appends the line with the exit code to it, and
//! Zuul's callback removes both together. `connection` uses this filter. No I/O.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// Text after the time stamp of an exit code line.
const EXIT_CODE_MARK: &[u8] = b" | [Zuul] Task exit code";
/// Formats of Python's `str(datetime.now())`, with 0 for any digit. Python omits a fraction of zero.
const STAMPS: [&[u8]; 2] = [b"0000-00-00 00:00:00.000000", b"0000-00-00 00:00:00"];

/// Time for which the first bytes of a time stamp are held: most likely they are output.
const DIGITS_HOLD_TIMEOUT: Duration = Duration::from_millis(50);
/// Time for which a whole time stamp is held: the rest of its line must be on its way.
const STAMP_HOLD_TIMEOUT: Duration = Duration::from_secs(2);

/// Filter that inserts the missing newline.
#[derive(Debug)]
pub(super) struct LastLine {
    /// Whether the next byte is the first of a line.
    at_start: bool,
    /// Bytes in the middle of a line that may be the beginning of an exit code line.
    held: BytesMut,
}

impl Default for LastLine {
    fn default() -> Self {
        Self {
            at_start: true,
            held: BytesMut::new(),
        }
    }
}

/// Returns whether the bytes are the beginning of a time stamp.
fn is_stamp(bytes: &[u8], stamp: &[u8]) -> bool {
    let digit = |(byte, wanted): (&u8, &u8)| match wanted {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    };
    bytes.len() <= stamp.len() && bytes.iter().zip(stamp).all(digit)
}

/// Returns whether more bytes could complete an exit code line.
fn may_begin(bytes: &[u8]) -> bool {
    STAMPS.iter().any(|stamp| match bytes.len().checked_sub(stamp.len()) {
        None | Some(0) => is_stamp(bytes, stamp),
        Some(_) => is_stamp(&bytes[..stamp.len()], stamp) && EXIT_CODE_MARK.starts_with(&bytes[stamp.len()..]),
    })
}

impl LastLine {
    /// Adds bytes and returns those that can be sent now. The rest comes with the next bytes, or with `flush`.
    pub(super) fn push(&mut self, data: Bytes) -> Bytes {
        let data = if self.held.is_empty() {
            data
        } else {
            let mut joined = self.held.split();
            joined.extend_from_slice(&data);
            joined.freeze()
        };
        let mut sent = BytesMut::new();
        let mut from = 0;
        for mark in memmem::find_iter(&data, EXIT_CODE_MARK) {
            let before = &data[..mark];
            let stamp = STAMPS.iter().find(|stamp| {
                let start = before.len().checked_sub(stamp.len());
                start.is_some_and(|start| is_stamp(&before[start..], stamp))
            });
            let Some(start) = stamp.map(|stamp| mark - stamp.len()) else {
                continue;
            };
            let begins_line = match start {
                0 => self.at_start,
                _ => data[start - 1] == b'\n',
            };
            if !begins_line {
                sent.extend_from_slice(&data[from..start]);
                sent.extend_from_slice(b"\n");
                from = start;
            }
        }
        let keep = self.undecided_length(&data[from..]);
        let end = data.len() - keep;
        self.held.extend_from_slice(&data[end..]);
        let rest = data.slice(from..end);
        let all = if sent.is_empty() {
            rest
        } else {
            sent.extend_from_slice(&rest);
            sent.freeze()
        };
        if let Some(last) = all.last() {
            self.at_start = *last == b'\n';
        }
        all
    }

    /// Returns how many bytes at the end may be the beginning of an exit code line that lacks the newline before it.
    fn undecided_length(&self, rest: &[u8]) -> usize {
        let longest = STAMPS[0].len() + EXIT_CODE_MARK.len();
        let from = rest.len().saturating_sub(longest - 1);
        let in_line = |start: usize| match start {
            0 => !self.at_start,
            _ => rest[start - 1] != b'\n',
        };
        let start = (from..rest.len()).find(|start| in_line(*start) && may_begin(&rest[*start..]));
        start.map_or(0, |start| rest.len() - start)
    }

    /// Returns whether bytes are held.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns how long to hold the bytes before `flush`.
    pub(super) fn hold_timeout(&self) -> Duration {
        if self.held.len() < STAMPS[1].len() {
            DIGITS_HOLD_TIMEOUT
        } else {
            STAMP_HOLD_TIMEOUT
        }
    }

    /// Returns whether the next byte is the first of a line.
    pub(super) fn at_start(&self) -> bool {
        self.at_start
    }

    /// Returns the held bytes and treats them as output.
    pub(super) fn flush(&mut self) -> Bytes {
        if self.is_holding() {
            self.at_start = false;
        }
        self.held.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: &str = "2026-11-26 10:20:30.123456 | [Zuul] Task exit code: 0\n";

    fn filter(parts: &[&[u8]]) -> Vec<u8> {
        let mut line = LastLine::default();
        let mut out = Vec::new();
        for part in parts {
            out.extend_from_slice(&line.push(Bytes::copy_from_slice(part)));
        }
        out.extend_from_slice(&line.flush());
        out
    }

    #[test]
    fn the_missing_newline_is_inserted_wherever_the_bytes_are_split() {
        for exit in [EXIT, "2026-11-26 10:20:30 | [Zuul] Task exit code: 137\n"] {
            let text = format!("2026-11-26 10:20:29.000001 | one\n2026-11-26 10:20:29.000002 | last{exit}");
            let expected = format!("2026-11-26 10:20:29.000001 | one\n2026-11-26 10:20:29.000002 | last\n{exit}");
            for cut in 0..text.len() {
                let (a, b) = text.as_bytes().split_at(cut);
                let got = filter(&[a, b]);
                assert_eq!(String::from_utf8(got).unwrap(), expected, "cut at {cut}");
            }
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(filter(&bytes), expected.as_bytes());
        }
    }

    #[test]
    fn everything_else_is_sent_unchanged() {
        let usual = format!("2026-11-26 10:20:29.000001 | one\n{EXIT}");
        let binary: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let others: [&[u8]; 6] = [
            usual.as_bytes(),
            &binary,
            b"x 2026-11-26 | [Zuul] Task exit code",
            b"no stamp | [Zuul] Task exit code: 0\n",
            b"2026-11-26 10:20:30.12",
            b"",
        ];
        for text in others {
            for cut in 0..text.len() {
                let (a, b) = text.split_at(cut);
                assert_eq!(filter(&[a, b]), text);
            }
        }
    }

    #[test]
    fn only_a_possible_exit_code_line_is_held() {
        let mut line = LastLine::default();
        assert_eq!(line.push("2026-11-26 10:20:29.000001 | prompt> ".into()).len(), 37);
        assert!(!line.is_holding());
        assert_eq!(line.push("20".into()), "");
        assert!(line.is_holding());
        assert_eq!(line.flush(), "20");
    }
}
