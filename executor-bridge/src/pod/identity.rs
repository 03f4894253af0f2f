//! Identity of a pod: the server and the namespace that a kubeconfig's context means. Reads the file and speaks to no server. `sockets` calls
//! it for the `kubectl` shim, whose bridge is found by what the options resolve to.

use std::path::Path;

use crate::error::Failure;
use crate::pod::flags::Flags;
use crate::pod::kubeconfig::{self, Kubeconfig};
use crate::pod::overrides::Overrides;
use crate::protocol::target::Target;

const DEFAULT_NAMESPACE: &str = "default";

/// Server and namespace. Together with a pod's name they mean one pod, whatever file and context they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// URL without a slash at its end; empty if no option names a server.
    pub(crate) server: String,
    pub(crate) namespace: String,
    /// The context that the options name, else the file's current context.
    pub(crate) context: Option<String>,
}

impl Identity {
    /// Makes the identity of a pod whose agent is reached without an API server.
    pub(crate) fn without_server(context: Option<&str>, namespace: Option<&str>) -> Self {
        Self {
            server: String::new(),
            namespace: namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned(),
            context: context.map(str::to_owned),
        }
    }
}

/// Resolves a context of a kubeconfig file.
pub(crate) fn identity(file: &Path, context: Option<&str>, namespace: Option<&str>) -> Result<Identity, Failure> {
    let content = kubeconfig::read(file)?;
    let named = format!("the kubeconfig {}", file.display());
    resolve(content, &named, context, namespace)
}

/// Resolves a context of a kubeconfig; `named` is its name in messages.
pub(super) fn resolve(
    content: Kubeconfig,
    named: &str,
    context: Option<&str>,
    namespace: Option<&str>,
) -> Result<Identity, Failure> {
    let target = Target {
        context: context.map(str::to_owned),
        ..Target::default()
    };
    let resolved = Overrides::new(&target, &Flags::default()).resolve(content, named)?;
    if resolved.cluster.server.is_empty() {
        return Err(resolved.no_server());
    }
    let namespace = namespace.map(str::to_owned).filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or(resolved.context.namespace);
    Ok(Identity {
        server: resolved.cluster.server.trim_end_matches('/').to_owned(),
        namespace: if namespace.is_empty() {
            DEFAULT_NAMESPACE.to_owned()
        } else {
            namespace
        },
        context: Some(resolved.name).filter(|name| !name.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const FILE: &str = "
clusters: [{name: c, cluster: {server: 'https://one:1/'}}]
contexts: [{name: x, context: {cluster: c, namespace: ci}}, {name: y, context: {cluster: c, user: gone}},
           {name: z, context: {cluster: gone}}]
current-context: x
";

    #[test]
    fn options_come_before_the_context_and_that_before_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        let found = |context, namespace| {
            let found = identity(&path, context, namespace).unwrap();
            (found.server, found.namespace, found.context.unwrap())
        };
        let expected = |namespace: &str, context: &str| ("https://one:1".into(), namespace.into(), context.into());
        assert_eq!(found(None, None), expected("ci", "x"));
        assert_eq!(found(Some("x"), Some("n")), expected("n", "x"));
        assert_eq!(found(Some("y"), None), expected("default", "y"));
        let failure = |context| identity(&path, Some(context), None).unwrap_err();
        assert_eq!(failure("w").kind, Kind::Context);
        assert_eq!(failure("z").kind, Kind::Kubeconfig);
    }
}
