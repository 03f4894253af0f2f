//! Where a log is: in a container of this pod, or in another pod of the same build.

/// Where logs are. Ordered: the pod's own containers are asked before anybody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum LogSource {
    /// `None`: the pod's default.
    Container(Option<String>),
    /// The bridge of another pod of this build, by the name of its socket.
    Sibling(std::path::PathBuf),
}
