//! What `podbridge bench` times.

const MIB: usize = 1 << 20;

/// What is timed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Workload {
    /// A command that does nothing.
    Command,
    /// A file of this many bytes, from here into the pod.
    CopyIn(usize),
    /// The file that the last `CopyIn` wrote, out of the pod.
    CopyOut(usize),
}

impl Workload {
    /// All of them in their order, each with the most rounds.
    pub(super) const ALL: [(Self, usize); 5] = [
        (Self::Command, 20),
        (Self::CopyIn(MIB), 10),
        (Self::CopyOut(MIB), 10),
        (Self::CopyIn(32 * MIB), 3),
        (Self::CopyOut(32 * MIB), 3),
    ];

    pub(super) fn name(self) -> String {
        match self {
            Self::Command => "run the command true".into(),
            Self::CopyIn(size) => format!("copy {} MiB into the pod", size / MIB),
            Self::CopyOut(size) => format!("copy {} MiB out of the pod", size / MIB),
        }
    }
}
