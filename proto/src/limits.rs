//! Numbers and names that bridge and agent must agree on. Changing one of them changes the protocol.

/// Protocol major. Hello fails between peers of different majors.
pub const PROTOCOL_MAJOR: u32 = 1;

/// Largest data field in any message, bytes. The throughput of h2 is highest from 64 to 256 KiB.
pub const MAX_CHUNK: usize = 128 * 1024;

/// Longest hole in one message, bytes. Both sides hash its zeros, and must report progress in between.
pub const MAX_HOLE: u64 = 1 << 30;

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
    "files.v1",
    FILES_V2,
    LINK_DIRECT,
    "logs.v1",
];

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
