//! The word that names a pod, as kubectl takes it: `web`, `pod/web`, or `TYPE/NAME` of an object that has pods, such as `deploy/web`. Knows
//! the types and their short names; asks no server. `target` checks the word, and `pod` finds the pod.

use std::fmt;

use crate::error::Failure;

/// Type of an object that has pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Pod,
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    Job,
    ReplicationController,
    Service,
}

/// Names of one type: those that kubectl accepts, and where the API has its objects.
struct KindNames {
    kind: ObjectKind,
    plural: &'static str,
    singular: &'static str,
    /// Empty: none.
    short: &'static str,
    /// API group; empty for the core group.
    group: &'static str,
}

/// Version of all these types.
const VERSION: &str = "v1";

const KINDS: &[KindNames] = &[
    KindNames {
        kind: ObjectKind::Pod,
        plural: "pods",
        singular: "pod",
        short: "po",
        group: "",
    },
    KindNames {
        kind: ObjectKind::Deployment,
        plural: "deployments",
        singular: "deployment",
        short: "deploy",
        group: "apps",
    },
    KindNames {
        kind: ObjectKind::ReplicaSet,
        plural: "replicasets",
        singular: "replicaset",
        short: "rs",
        group: "apps",
    },
    KindNames {
        kind: ObjectKind::StatefulSet,
        plural: "statefulsets",
        singular: "statefulset",
        short: "sts",
        group: "apps",
    },
    KindNames {
        kind: ObjectKind::DaemonSet,
        plural: "daemonsets",
        singular: "daemonset",
        short: "ds",
        group: "apps",
    },
    KindNames {
        kind: ObjectKind::Job,
        plural: "jobs",
        singular: "job",
        short: "",
        group: "batch",
    },
    KindNames {
        kind: ObjectKind::ReplicationController,
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short: "rc",
        group: "",
    },
    KindNames {
        kind: ObjectKind::Service,
        plural: "services",
        singular: "service",
        short: "svc",
        group: "",
    },
];

impl KindNames {
    /// Tells whether the word means this type, by the rules of client-go's restmapper: `TYPE`, `TYPE.GROUP` and `TYPE.VERSION.GROUP`. The
    /// letters of the short name alone have to be lower-case ones. The beginning of a group stands for the group.
    fn is_meant_by(&self, word: &str) -> bool {
        let (name, suffix) = word.split_once('.').unwrap_or((word, ""));
        let is_short = !name.is_empty() && name == self.short;
        if !is_short && ![self.plural, self.singular].contains(&name.to_lowercase().as_str()) {
            return false;
        }
        let is_versioned = suffix.split_once('.').is_some_and(|(version, group)| {
            let is_exact = group.is_empty() || group == self.group;
            // kubectl drops the version beside a short name.
            is_exact && (is_short || version == VERSION)
        });
        is_versioned || self.group.starts_with(suffix)
    }
}

impl ObjectKind {
    fn table(self) -> &'static KindNames {
        // Every kind has its row; the first row stands for one that is missing.
        KINDS.iter().find(|names| names.kind == self).unwrap_or(&KINDS[0])
    }

    /// Returns the kind of this word: `deploy`, `Deployment`, `deployments.apps` or `deployments.v1.apps`.
    fn parse(word: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.is_meant_by(word)).map(|row| row.kind)
    }

    /// Returns the resource as messages of the API name it, such as `deployments.apps`.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Deployment => "deployments.apps",
            Self::ReplicaSet => "replicasets.apps",
            Self::StatefulSet => "statefulsets.apps",
            Self::DaemonSet => "daemonsets.apps",
            Self::Job => "jobs.batch",
            Self::ReplicationController => "replicationcontrollers",
            Self::Service => "services",
        }
    }

    /// Returns the path of the API under which the objects of a namespace are, with the part after the namespace.
    pub(crate) fn path(self, namespace: &str, name: &str) -> String {
        let table = self.table();
        let root = match table.group {
            "" => format!("/api/{VERSION}"),
            group => format!("/apis/{group}/{VERSION}"),
        };
        format!("{root}/namespaces/{namespace}/{}/{name}", table.plural)
    }

    /// Tells whether the selector of the objects is a plain map of labels.
    pub(crate) fn has_plain_selector(self) -> bool {
        matches!(self, Self::Service | Self::ReplicationController)
    }
}

/// An object by its type and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectName<'a> {
    pub(crate) kind: ObjectKind,
    pub(crate) name: &'a str,
}

impl<'a> ObjectName<'a> {
    /// Parses `NAME` or `TYPE/NAME`.
    pub(crate) fn parse(word: &'a str) -> Result<Self, Failure> {
        let (kind, name) = match word.split_once('/') {
            None => (ObjectKind::Pod, word),
            Some((kind, name)) => {
                let parsed = ObjectKind::parse(kind).ok_or_else(|| {
                    Failure::usage(format!(
                        "{word:?} names no object that has pods: use pod/NAME, deploy/NAME, rs/NAME, sts/NAME, ds/NAME, job/NAME, rc/NAME \
                         or svc/NAME"
                    ))
                })?;
                (parsed, name)
            }
        };
        if name.is_empty() {
            return Err(Failure::usage("no pod is named"));
        }
        if !is_kubernetes_name(name) {
            return Err(Failure::usage(format!(
                "{name:?} cannot be the name of a pod or namespace: lower-case letters, digits, '-' and '.' only"
            )));
        }
        Ok(Self { kind, name })
    }
}

impl fmt::Display for ObjectName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ObjectKind::Pod => f.write_str(self.name),
            kind => write!(f, "{}/{}", kind.resource(), self.name),
        }
    }
}

/// Returns the shortest word for the same object: `web` for `pod/web`. Another spelling of a pod needs no bridge of its own.
pub(crate) fn normalised(word: &str) -> &str {
    match ObjectName::parse(word) {
        Ok(ObjectName {
            kind: ObjectKind::Pod,
            name,
        }) => name,
        Ok(_) | Err(_) => word,
    }
}

/// Returns whether the text is an RFC 1123 subdomain, as names of Kubernetes are. Such a name is safe in a URL.
pub(crate) fn is_kubernetes_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row for each spelling; `None`: refused.
    #[test]
    fn names_are_read_as_kubectl_reads_them() {
        use ObjectKind as K;
        for (word, read) in [
            ("web", Some((K::Pod, "web"))),
            ("web.0", Some((K::Pod, "web.0"))),
            ("pod/web", Some((K::Pod, "web"))),
            ("po/web", Some((K::Pod, "web"))),
            ("pods/web", Some((K::Pod, "web"))),
            ("Pod/web", Some((K::Pod, "web"))),
            ("deploy/web", Some((K::Deployment, "web"))),
            ("deployment/web", Some((K::Deployment, "web"))),
            ("deployments/web", Some((K::Deployment, "web"))),
            ("deployment.apps/web", Some((K::Deployment, "web"))),
            ("deployments.v1.apps/web", Some((K::Deployment, "web"))),
            ("rs/web", Some((K::ReplicaSet, "web"))),
            ("sts/web", Some((K::StatefulSet, "web"))),
            ("ds/web", Some((K::DaemonSet, "web"))),
            ("job/web", Some((K::Job, "web"))),
            ("jobs.batch/web", Some((K::Job, "web"))),
            ("rc/web", Some((K::ReplicationController, "web"))),
            ("svc/web", Some((K::Service, "web"))),
            ("services/web", Some((K::Service, "web"))),
            ("PODS/web", Some((K::Pod, "web"))),
            ("pods.v1./web", Some((K::Pod, "web"))),
            ("pod./web", Some((K::Pod, "web"))),
            ("deployment.ap/web", Some((K::Deployment, "web"))),
            ("deployments.v1./web", Some((K::Deployment, "web"))),
            ("deploy.v9.apps/web", Some((K::Deployment, "web"))),
            ("pod.v1/web", None),
            ("pods.v2./web", None),
            ("PO/web", None),
            ("deployments.v2.apps/web", None),
            ("deployments.v1.ap/web", None),
            ("deployment.APPS/web", None),
            ("deploy.v1/web", None),
            (".apps/web", None),
            ("deploy.batch/web", None),
            ("cronjob/web", None),
            ("cm/web", None),
            ("ci/web", None),
            ("deploy/", None),
            ("/web", None),
            ("", None),
            ("pod/web/x", None),
            ("../web", None),
            ("Web", None),
        ] {
            let parsed = ObjectName::parse(word).ok().map(|object| (object.kind, object.name));
            assert_eq!(parsed, read, "{word}");
        }
    }

    #[test]
    fn every_kind_has_a_path() {
        for (word, path) in [
            ("web", "/api/v1/namespaces/ci/pods/web"),
            ("svc/web", "/api/v1/namespaces/ci/services/web"),
            ("deploy/web", "/apis/apps/v1/namespaces/ci/deployments/web"),
            ("job/web", "/apis/batch/v1/namespaces/ci/jobs/web"),
        ] {
            let object = ObjectName::parse(word).unwrap();
            assert_eq!(object.kind.path("ci", object.name), path);
        }
    }

    #[test]
    fn a_pod_has_one_spelling() {
        assert_eq!(normalised("pods/web"), "web");
        assert_eq!(normalised("web"), "web");
        assert_eq!(normalised("deploy/web"), "deploy/web");
        assert_eq!(normalised("x/y"), "x/y");
    }
}
