//! Failures of podbridge: a kind that programs tell apart, and one sentence for people. Owns the kinds with their names on the
//! wire and their exit codes (docs/client-protocol.md). Every module returns these failures; `exit` turns them into exit codes.

use std::time::Duration;

use podbridge_proto::words::{MAX_WORDS, clean_within};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Defines an enum of kinds from one table: variant, name on the wire, exit code (for kinds that have one). A peer of a newer release
/// may send a name that this table lacks; that name is read as the variant `unknown`.
macro_rules! kinds {
    ($(#[$attribute:meta])* $type:ident, unknown: $unknown:ident, {
        $($variant:ident => $name:literal $(, $code:literal)?;)+
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum $type {
            $($variant),+
        }

        impl $type {
            #[cfg(test)]
            pub(crate) const ALL: &'static [$type] = &[$($type::$variant),+];

            /// Returns the kind's name on the wire.
            pub(crate) fn name(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }
        }

        kinds!(@codes $type { $($variant $($code)?),+ });

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(match String::deserialize(deserializer)?.as_str() {
                    $($name => $type::$variant,)+
                    _ => $type::$unknown,
                })
            }
        }
    };
    (@codes $type:ident { $($variant:ident $code:literal),+ }) => {
        impl $type {
            /// Returns the exit code of `podbridge` for this kind.
            pub(crate) fn code(self) -> u8 {
                match self { $($type::$variant => $code),+ }
            }
        }
    };
    (@codes $type:ident { $($variant:ident),+ }) => {};
}

kinds! {
    /// Kinds of the outcomes `unreachable` (codes 220 to 239: the command never ran) and `lost` (codes 240 to 249: the fate of the
    /// command is unknown).
    Kind, unknown: Internal, {
        Internal => "internal", 220;
        Usage => "usage", 221;
        LocalFile => "local_file", 222;
        Kubeconfig => "kubeconfig", 223;
        Context => "context", 224;
        ApiUnreachable => "api_unreachable", 225;
        Unauthorized => "unauthorized", 226;
        Forbidden => "forbidden", 227;
        PodNotFound => "pod_not_found", 228;
        ContainerNotFound => "container_not_found", 229;
        PodNotRunning => "pod_not_running", 230;
        NoShell => "no_shell", 231;
        NoSpace => "no_space", 232;
        Agent => "agent", 233;
        Timeout => "timeout", 234;
        Bridge => "bridge", 235;
        RemoteFile => "remote_file", 236;
        Windows => "windows", 237;
        AgentLost => "agent_lost", 240;
        PodLost => "pod_lost", 241;
        LinkLost => "link_lost", 242;
        BridgeLost => "bridge_lost", 243;
    }
}

kinds! {
    /// Kinds of the outcome `failed`: the operation failed, and the pod is in good order.
    FailedKind, unknown: Io, {
        NotFound => "not_found";
        Permission => "permission";
        IsDirectory => "is_directory";
        NotDirectory => "not_directory";
        NoSpace => "no_space";
        ReadOnly => "read_only";
        Digest => "digest";
        LocalFile => "local_file";
        Unsupported => "unsupported";
        BadRequest => "bad_request";
        Io => "io";
    }
}

/// Longest sentence of a failure, bytes: podbridge's own words around those of a peer.
const MAX_SENTENCE: usize = 2 * MAX_WORDS;

/// A failure of one operation or one dial: the kind, and one sentence with the cause and the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub(crate) struct Failure {
    pub kind: Kind,
    pub message: String,
    /// Stays inside this process: only the code that dials reads it.
    #[serde(skip)]
    pub retry: Retry,
}

/// Reason why the same dial may succeed a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Retry {
    /// The failure is an answer: the same dial fails again.
    #[default]
    Never,
    /// The link was cut before the answer came. The failure says nothing about the agent or the pod at its other end.
    LinkCut,
    /// The pod exists and does not run yet.
    PodStarting,
    /// The object that the target names has no pod yet.
    NoPodYet,
    /// The container has ended, and its restart policy says that it starts again.
    ContainerRestarting,
    /// The API server, or a proxy in front of it, could not serve the request at this moment, and nothing has run. The time is what the
    /// server asks to wait at least (Retry-After).
    ServerBusy(Option<Duration>),
    /// podbridge's own client of the API server cannot do it. The stock kubectl may.
    OtherClient,
}

impl Retry {
    /// Returns the least time before the next attempt, as the other side asked for it.
    pub(crate) fn least_pause(self) -> Duration {
        match self {
            Retry::ServerBusy(Some(pause)) => pause,
            Retry::ServerBusy(None)
            | Retry::Never
            | Retry::LinkCut
            | Retry::PodStarting
            | Retry::ContainerRestarting
            | Retry::NoPodYet
            | Retry::OtherClient => Duration::ZERO,
        }
    }
}

impl Failure {
    /// Makes a failure. Its sentence is one line for terminals and logs, also where it quotes a pod, a client or an API server.
    pub(crate) fn new(kind: Kind, message: impl AsRef<str>) -> Self {
        Self {
            kind,
            message: clean_within(message.as_ref(), MAX_SENTENCE),
            retry: Retry::Never,
        }
    }

    pub(crate) fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// Makes the failure of a defect in podbridge itself.
    pub(crate) fn bug(what: &str) -> Self {
        Self::new(
            Kind::Internal,
            format!("{what}; this is a bug in podbridge, please report it"),
        )
    }

    pub(crate) fn usage(message: impl AsRef<str>) -> Self {
        Self::new(Kind::Usage, message)
    }
}

/// Returns an error and all its causes, each once, as one phrase.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many libraries repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
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
    fn kinds_survive_the_wire_and_an_unknown_name_is_read_as_a_default() {
        for kind in Kind::ALL {
            let text = serde_json::to_string(kind).unwrap();
            assert_eq!(serde_json::from_str::<Kind>(&text).unwrap(), *kind);
        }
        assert_eq!(serde_json::from_str::<Kind>("\"new\"").unwrap(), Kind::Internal);
        assert_eq!(serde_json::from_str::<FailedKind>("\"new\"").unwrap(), FailedKind::Io);
    }

    #[test]
    fn a_sentence_is_one_line_without_control_characters() {
        let failure = Failure::new(Kind::Agent, "it says \x1b]0;x\x07\npodbridge: done");
        assert_eq!(failure.message, "it says \u{fffd}]0;x\u{fffd} podbridge: done");
        assert_eq!(Failure::usage("x".repeat(1 << 20)).message.len(), MAX_SENTENCE);
    }

    #[test]
    fn a_chain_names_each_cause_once() {
        let inner = std::io::Error::other("disk on fire");
        #[derive(Debug, thiserror::Error)]
        #[error("cannot write")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(inner)), "cannot write: disk on fire");
    }
}
