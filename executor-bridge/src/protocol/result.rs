//! Outcome of an operation, as the last frame of its connection carries it. Owns the outcome's JSON form; `exit` gives each outcome its exit
//! code.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{FailedKind, Failure, Kind};

/// Outcome of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Outcome {
    Ok(Done),
    Exited {
        code: u8,
        #[serde(default, skip_serializing_if = "is_false")]
        held_open: bool,
    },
    Signaled {
        signal: u8,
        #[serde(default, skip_serializing_if = "is_false")]
        held_open: bool,
        #[serde(default)]
        message: String,
    },
    TimedOut(EndedExec),
    Cancelled(EndedExec),
    OomKilled {
        message: String,
        #[serde(default, skip_serializing_if = "is_false")]
        held_open: bool,
    },
    StartFailed {
        /// 126 or 127.
        code: u8,
        step: String,
        errno: i32,
        message: String,
    },
    Failed {
        kind: FailedKind,
        message: String,
    },
    Unreachable(Failure),
    Lost(Failure),
}

/// An exec whose process tree the agent ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct EndedExec {
    /// Ids of the processes that could not be killed.
    #[serde(default)]
    pub survivors: Vec<u32>,
    #[serde(default)]
    pub message: String,
    #[serde(default, skip_serializing_if = "is_false")]
    pub held_open: bool,
}

/// Answer of an operation that succeeded; the operation decides which keys are present.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Digest from an agent that knows BLAKE3; `sha256` is absent then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Reason why a put could not replace the file, which was written in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<String>,
    /// `Some(None)` (JSON `null`) means that the file does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub stat: Option<Option<FileStat>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Bridge>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Vec<LinkStatus>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStat {
    pub mode: u32,
    pub size: u64,
    pub uid: u32,
    pub gid: u32,
    pub mtime_ns: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agent {
    pub version: String,
    pub uid: u32,
    pub instance: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bridge {
    pub version: String,
    pub pid: u32,
    /// The bridge's target without its secrets.
    pub target: Value,
    pub uptime_s: u64,
    /// Number of open operations without this one.
    pub operations: usize,
    /// Seconds after which an unused bridge ends; 0 means never.
    pub idle_s: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkStatus {
    /// Pod that the target's object name means; absent if the target names a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `null` means the pod's default container, whose name is not known yet.
    pub container: Option<String>,
    /// `exec-proxy`, `direct`, `kubectl` or `local`.
    pub link: String,
    /// `control` or `bulk`; empty from an older bridge, which has no lanes.
    #[serde(default)]
    pub lane: String,
    /// `up`, `dialing` or `down`.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// Reason why the link is down, or why kubectl carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_false(value: &bool) -> bool {
    !*value
}

/// Reads `null` as `Some(None)`, which is different from an absent key.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<FileStat>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Outcome {
    /// Returns a success without an answer.
    pub(crate) fn done() -> Self {
        Outcome::Ok(Done::default())
    }

    pub(crate) fn failed(kind: FailedKind, message: impl AsRef<str>) -> Self {
        let Failure { message, .. } = Failure::new(Kind::Internal, message);
        Outcome::Failed { kind, message }
    }

    pub(crate) fn lost(kind: Kind, message: impl AsRef<str>) -> Self {
        Outcome::Lost(Failure::new(kind, message))
    }

    /// Returns the JSON of a result frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an outcome has string keys only")
    }

    /// Returns the outcome's name for logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Outcome::Ok(_) => "ok",
            Outcome::Exited { .. } => "exited",
            Outcome::Signaled { .. } => "signaled",
            Outcome::TimedOut(_) => "timed_out",
            Outcome::Cancelled(_) => "cancelled",
            Outcome::OomKilled { .. } => "oom_killed",
            Outcome::StartFailed { .. } => "start_failed",
            Outcome::Failed { .. } => "failed",
            Outcome::Unreachable(_) => "unreachable",
            Outcome::Lost(_) => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_documented_form() {
        let json = |outcome: &Outcome| String::from_utf8(outcome.encode()).unwrap();
        let exited = Outcome::Exited {
            code: 3,
            held_open: false,
        };
        assert_eq!(json(&exited), r#"{"outcome":"exited","code":3}"#);
        let unreachable = Outcome::Unreachable(Failure::new(Kind::Forbidden, "no"));
        assert_eq!(
            json(&unreachable),
            r#"{"outcome":"unreachable","kind":"forbidden","message":"no"}"#
        );
        assert_eq!(json(&Outcome::done()), r#"{"outcome":"ok"}"#);
        let absent = Outcome::Ok(Done {
            stat: Some(None),
            ..Done::default()
        });
        assert_eq!(json(&absent), r#"{"outcome":"ok","stat":null}"#);
        for outcome in [exited, unreachable, Outcome::done(), absent] {
            assert_eq!(serde_json::from_slice::<Outcome>(&outcome.encode()).unwrap(), outcome);
        }
    }
}
