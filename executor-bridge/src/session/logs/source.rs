//! Where a log is: in a container of this pod, or in another pod of the same build.

/// Source of a log. The order matters: the pod's own containers come before other pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum LogSource {
    /// A container of this pod; `None` is the default container.
    Container(Option<String>),
    /// Another pod of this build, by the socket of its bridge.
    Sibling(std::path::PathBuf),
}
