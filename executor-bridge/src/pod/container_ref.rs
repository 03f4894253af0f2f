//! A container of a pod as later calls recognise it, and what has become of it. Plain types; `view` makes them, `connections` keeps them.

use std::net::IpAddr;

/// The container that a link leads to, with what tells it from a later one of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerRef {
    pub(crate) pod_uid: String,
    /// UID that the node uses for a static pod; `None` for other pods.
    pub(crate) static_pod_uid: Option<String>,
    pub(crate) container: String,
    pub(crate) container_id: String,
    pub(crate) restarts: i32,
    /// IP address of the pod; `None` if the pod uses its node's network and thus shares its address.
    pub(crate) address: Option<IpAddr>,
}

/// State of a container that a link led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The API knows of no change.
    Unchanged,
    PodGone(String),
    /// The pod is being deleted, and the container still runs as far as the API knows.
    PodEnding(String),
    ContainerEnded(String),
    OomKilled(String),
}
