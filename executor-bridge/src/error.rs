//! Why podbridge could not do what it was asked, as a kind that programs tell apart and a sentence for people. Owns the
//! kinds and their exit codes (docs/client-protocol.md); every module fails with these, `exit` turns them into codes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names an enum's variants on the wire and back. An unknown name, from a newer peer, becomes `$other`.
macro_rules! named {
    ($type:ident, other $other:ident, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            pub(crate) const ALL: &'static [$type] = &[$($type::$variant),+];

            pub(crate) fn name(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Ok($type::ALL.iter().copied().find(|kind| kind.name() == name).unwrap_or($type::$other))
            }
        }
    };
}

/// Kinds of `unreachable` and `lost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Internal,
    Usage,
    LocalFile,
    Kubeconfig,
    Context,
    ApiUnreachable,
    Unauthorized,
    Forbidden,
    PodNotFound,
    ContainerNotFound,
    PodNotRunning,
    NoShell,
    NoSpace,
    Agent,
    Timeout,
    Bridge,
    RemoteFile,
    Windows,
    AgentLost,
    PodLost,
    LinkLost,
    BridgeLost,
}

named!(Kind, other Internal, {
    Internal => "internal",
    Usage => "usage",
    LocalFile => "local_file",
    Kubeconfig => "kubeconfig",
    Context => "context",
    ApiUnreachable => "api_unreachable",
    Unauthorized => "unauthorized",
    Forbidden => "forbidden",
    PodNotFound => "pod_not_found",
    ContainerNotFound => "container_not_found",
    PodNotRunning => "pod_not_running",
    NoShell => "no_shell",
    NoSpace => "no_space",
    Agent => "agent",
    Timeout => "timeout",
    Bridge => "bridge",
    RemoteFile => "remote_file",
    Windows => "windows",
    AgentLost => "agent_lost",
    PodLost => "pod_lost",
    LinkLost => "link_lost",
    BridgeLost => "bridge_lost",
});

impl Kind {
    /// The exit code of `podbridge`. 220 to 239: the command never ran; 240 to 249: its fate is unknown.
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Internal => 220,
            Kind::Usage => 221,
            Kind::LocalFile => 222,
            Kind::Kubeconfig => 223,
            Kind::Context => 224,
            Kind::ApiUnreachable => 225,
            Kind::Unauthorized => 226,
            Kind::Forbidden => 227,
            Kind::PodNotFound => 228,
            Kind::ContainerNotFound => 229,
            Kind::PodNotRunning => 230,
            Kind::NoShell => 231,
            Kind::NoSpace => 232,
            Kind::Agent => 233,
            Kind::Timeout => 234,
            Kind::Bridge => 235,
            Kind::RemoteFile => 236,
            Kind::Windows => 237,
            Kind::AgentLost => 240,
            Kind::PodLost => 241,
            Kind::LinkLost => 242,
            Kind::BridgeLost => 243,
        }
    }
}

/// Kinds of `failed`: the operation failed, the pod is fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FailedKind {
    NotFound,
    Permission,
    IsDirectory,
    NotDirectory,
    NoSpace,
    ReadOnly,
    Digest,
    LocalFile,
    Unsupported,
    BadRequest,
    Io,
}

named!(FailedKind, other Io, {
    NotFound => "not_found",
    Permission => "permission",
    IsDirectory => "is_directory",
    NotDirectory => "not_directory",
    NoSpace => "no_space",
    ReadOnly => "read_only",
    Digest => "digest",
    LocalFile => "local_file",
    Unsupported => "unsupported",
    BadRequest => "bad_request",
    Io => "io",
});

/// Something did not happen: the kind, and one sentence with the cause and the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub(crate) struct Failure {
    pub kind: Kind,
    pub message: String,
    /// The way there broke: says nothing about who is, or is not, at its end.
    #[serde(skip)]
    pub on_the_way: bool,
    /// The pod has not begun to run yet.
    #[serde(skip)]
    pub starting: bool,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            on_the_way: false,
            starting: false,
        }
    }

    pub(crate) fn on_the_way_if(self, on_the_way: bool) -> Self {
        Self { on_the_way, ..self }
    }

    /// A fault of podbridge itself.
    pub(crate) fn bug(what: &str) -> Self {
        Self::new(
            Kind::Internal,
            format!("{what}; this is a bug in podbridge, please report it"),
        )
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }
}

/// An error with all its causes, each once, as one phrase.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Many libraries repeat their cause in their own text.
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_in_their_ranges() {
        let codes: HashSet<u8> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let lost = kind.name().ends_with("_lost");
            assert_eq!(lost, (240..250).contains(&kind.code()), "{kind:?}");
            assert!(lost || (220..240).contains(&kind.code()), "{kind:?}");
        }
    }

    #[test]
    fn names_survive_the_wire_and_unknown_ones_do_not_break_it() {
        for kind in Kind::ALL {
            let text = serde_json::to_string(kind).unwrap();
            assert_eq!(serde_json::from_str::<Kind>(&text).unwrap(), *kind);
        }
        assert_eq!(serde_json::from_str::<Kind>("\"new\"").unwrap(), Kind::Internal);
        assert_eq!(serde_json::from_str::<FailedKind>("\"new\"").unwrap(), FailedKind::Io);
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        let inner = std::io::Error::other("disk on fire");
        #[derive(Debug, thiserror::Error)]
        #[error("cannot write")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(inner)), "cannot write: disk on fire");
    }
}
