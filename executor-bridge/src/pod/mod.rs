//! The pod as Kubernetes knows it. Kubernetes types end here: callers get places, fates and streams.

/// Where a link leads, to be recognised later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pod_uid: String,
    pub(crate) container: String,
    pub(crate) container_id: String,
    pub(crate) restarts: i32,
}

/// What became of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As far as the API knows.
    Unchanged,
    PodGone(String),
    ContainerEnded(String),
    OomKilled(String),
}
