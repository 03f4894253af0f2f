//! Numbers and names that bridge and agent must agree on. Changing one of them changes the protocol.

/// Protocol major. Hello fails between peers of different majors.
pub const PROTOCOL_MAJOR: u32 = 1;

/// Largest data field in any message, bytes. The throughput of h2 is highest from 64 to 256 KiB.
pub const MAX_CHUNK: usize = 128 * 1024;

/// Longest hole in one message, bytes. Both sides hash its zeros, and must report progress in between.
pub const MAX_HOLE: u64 = 1 << 30;

/// Largest encoded message of an agent to a bridge, bytes: one chunk and its envelope. Requests may be larger (`MAX_MESSAGE`).
pub const MAX_ANSWER: usize = MAX_CHUNK + 32 * 1024;

/// Largest encoded answer to Hello or Enroll, bytes.
pub const MAX_HELLO: usize = 64 * 1024;

/// Longest text in Hello, bytes of printable ASCII: version, instance, names of pod and container, a capability.
pub const MAX_HELLO_TEXT: usize = 256;

/// Most capabilities in Hello.
pub const MAX_CAPABILITIES: usize = 64;

/// Longest name of a log's file, bytes, as file systems have it.
pub const MAX_LOG_NAME: usize = 255;

/// Most logs that a bridge knows by name.
pub const MAX_LOGS: usize = 16_384;

/// Longest identity of a log's file (LogPosition.file) and of a file's version (FileStat.version), bytes.
pub const MAX_FILE_IDENTITY: usize = 256;

/// Most processes that an exit record names as left over.
pub const MAX_SURVIVORS: usize = 1024;

/// Longest report of the script that looks for an agent in a container, bytes.
pub const MAX_REPORT: usize = 64 * 1024;

/// Largest encoded message that either side accepts, bytes: inline stdin (MAX_INLINE_STDIN) and its envelope.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// Largest stdin in StartRequest.stdin, bytes.
pub const MAX_INLINE_STDIN: usize = 4 * 1024 * 1024;

/// Most files in one PutAndExec. The bridge holds each file open, and the agent writes each to a temporary file.
pub const MAX_PUTS: usize = 16;

/// Capabilities of this build, sorted: the agent sends them in `HelloResponse.capabilities`, and a peer may require them by name.
pub const CAPABILITIES: &[&str] = &[
    "exec.agent_program",
    "exec.drop_oldest",
    "exec.put",
    "exec.v1",
    EXEC_WINDOW,
    "files.v1",
    FILES_V2,
    LINK_DIRECT,
    "logs.v1",
];

/// Largest flow-control window of a call, bytes, for which an agent keeps output (`RunRequest.window`). No bridge grants a larger one.
pub const MAX_EXEC_WINDOW: u32 = 8 << 20;

/// Capability of Exec: a call tells its flow-control window, and the agent keeps as much output for the next call.
pub const EXEC_WINDOW: &str = "exec.window";

/// Capability of Files: resumable transfers, holes, BLAKE3, sync, roots.
pub const FILES_V2: &str = "files.v2";

/// Capability of Agent.Enroll: direct links to the pod's own address.
pub const LINK_DIRECT: &str = "link.direct";

/// Capabilities that every bridge requires in Hello. It requires the others where it uses them, so that an older agent remains usable.
pub const BASIC_CAPABILITIES: &[&str] = &["exec.v1", "files.v1"];

/// First line that `podbridge-agent proxy` prints. It distinguishes an agent from other output of the shell.
pub const PROXY_MAGIC: &str = "podbridge-proxy/1\n";

/// Metadata key of a status that a system call caused; its value is the errno in decimal.
pub const ERRNO_METADATA: &str = "podbridge-errno";

/// Metadata key of a status; its value is `digest` if length or digest of a transfer did not match.
pub const KIND_METADATA: &str = "podbridge-kind";

/// Reason why the lengths that a peer tells of a content cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FalseLength {
    HoleTooLong(u64),
    /// Beyond the largest file that there can be.
    TooLong,
    /// More than the size that the peer announced.
    MoreThanAnnounced(u64),
}

impl std::fmt::Display for FalseLength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HoleTooLong(hole) => write!(f, "a hole of {hole} bytes is longer than the limit of {MAX_HOLE} bytes"),
            Self::TooLong => write!(f, "the lengths of its parts are longer than any file"),
            Self::MoreThanAnnounced(size) => write!(f, "more than the announced {size} bytes came"),
        }
    }
}

impl std::error::Error for FalseLength {}

/// Returns the length of a content after a part of `more` bytes, with `before` bytes before it. `announced`: the size that the peer told
/// before the content; `None` if it told none, as for files that the kernel makes while they are read.
pub fn check_length(before: u64, more: u64, announced: Option<u64>) -> Result<u64, FalseLength> {
    let length = before.checked_add(more).filter(|length| *length <= i64::MAX as u64);
    let length = length.ok_or(FalseLength::TooLong)?;
    match announced {
        Some(size) if length > size => Err(FalseLength::MoreThanAnnounced(size)),
        _ => Ok(length),
    }
}

/// Checks a hole like [`check_length`]. No single hole may be longer than [`MAX_HOLE`]: whoever receives it may have to hash its zeros.
pub fn check_hole(before: u64, hole: u64, announced: Option<u64>) -> Result<u64, FalseLength> {
    if hole > MAX_HOLE {
        return Err(FalseLength::HoleTooLong(hole));
    }
    check_length(before, hole, announced)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: length before, hole, announced size; what follows.
    #[test]
    fn holes_add_up_to_a_length_that_can_be_true() {
        use FalseLength::{HoleTooLong, MoreThanAnnounced, TooLong};
        let longest = i64::MAX as u64;
        for (before, hole, announced, expected) in [
            (0, 0, None, Ok(0)),
            (5, MAX_HOLE, None, Ok(5 + MAX_HOLE)),
            (5, MAX_HOLE + 1, None, Err(HoleTooLong(MAX_HOLE + 1))),
            (0, 1 << 63, None, Err(HoleTooLong(1 << 63))),
            (0, u64::MAX, Some(u64::MAX), Err(HoleTooLong(u64::MAX))),
            (longest, 0, None, Ok(longest)),
            (longest, 1, None, Err(TooLong)),
            (u64::MAX, 1, None, Err(TooLong)),
            (u64::MAX - 1, MAX_HOLE, Some(u64::MAX), Err(TooLong)),
            (5, 5, Some(10), Ok(10)),
            (5, 6, Some(10), Err(MoreThanAnnounced(10))),
            (0, 1, Some(0), Err(MoreThanAnnounced(0))),
        ] {
            assert_eq!(
                check_hole(before, hole, announced),
                expected,
                "{before} + {hole} of {announced:?}"
            );
        }
        // A tree copy counts holes and does not hash them.
        assert_eq!(check_length(0, 1 << 62, None), Ok(1 << 62));
    }
}
