//! Numbers and names that both ends of the wire must agree on. Changing one is a protocol change.

/// Protocol major: peers of different majors refuse each other by name.
pub const PROTOCOL_MAJOR: u32 = 1;

/// Largest data field in any message, bytes. 64 to 256 KiB is h2's throughput plateau.
pub const MAX_CHUNK: usize = 128 * 1024;

/// Most zeros in one hole, bytes: both ends sum them up, and must say now and then how far they are.
pub const MAX_HOLE: u64 = 1 << 30;

/// Largest encoded message either side accepts, bytes: an inline module (MAX_INLINE_STDIN) and its envelope.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// Largest stdin that travels inside Start, bytes.
pub const MAX_INLINE_STDIN: usize = 4 * 1024 * 1024;

/// Most files that go with one command in PutAndExec: each is held open in the bridge and staged in the pod.
pub const MAX_PUTS: usize = 16;

/// Capabilities named in `HelloResponse.capabilities`; a peer may require them by these names.
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

/// Transfers that go on after a cut, holes, BLAKE3, sync, roots.
pub const FILES_V2: &str = "files.v2";

/// Links to the pod's own address (Agent.Enroll).
pub const LINK_DIRECT: &str = "link.direct";

/// Those that every bridge needs from the first call on; the others it requires where it uses them, so that an older agent
/// serves as far as it can.
pub const BASIC_CAPABILITIES: &[&str] = &["exec.v1", "files.v1"];

/// First line that `podbridge-agent proxy` prints, so that shell noise on the link is told from an agent.
pub const PROXY_MAGIC: &str = "podbridge-proxy/1\n";

/// Metadata key of an error status that a system call caused: its errno in decimal. The status message is one sentence.
pub const ERRNO_METADATA: &str = "podbridge-errno";

/// Metadata key of an error status with value `digest` when length or digest of a transfer did not match.
pub const KIND_METADATA: &str = "podbridge-kind";
