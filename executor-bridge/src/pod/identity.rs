//! Which pod a kubeconfig's context means: server and namespace. Reads the file, speaks to no server. The `kubectl` shim asks,
//! as its bridge is found by what the options resolve to.

use std::path::Path;

use crate::error::Failure;
use crate::pod::flags::Flags;
use crate::pod::kubeconfig;
use crate::pod::overrides::Overrides;
use crate::protocol::target::Target;

const DEFAULT_NAMESPACE: &str = "default";

/// With a pod's name this is one pod, whatever files and contexts lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// URL without a slash at its end; empty if nothing says which.
    pub(crate) server: String,
    pub(crate) namespace: String,
    /// The one that was named, else the file's current one.
    pub(crate) context: Option<String>,
}

impl Identity {
    /// For an agent that no API server leads to.
    pub(crate) fn without_server(context: Option<&str>, namespace: Option<&str>) -> Self {
        Self {
            server: String::new(),
            namespace: namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned(),
            context: context.map(str::to_owned),
        }
    }
}

pub(crate) fn identity(file: &Path, context: Option<&str>, namespace: Option<&str>) -> Result<Identity, Failure> {
    let content = kubeconfig::read(file)?;
    let current = content.current_context.clone().filter(|name| !name.is_empty());
    let target = Target {
        context: context.map(str::to_owned).or(current),
        ..Target::default()
    };
    let named = format!("the kubeconfig {}", file.display());
    let selected = Overrides::new(&target, &Flags::default()).select(content, &named)?;
    let server = selected.cluster.server.unwrap_or_default();
    let namespace = namespace.map(str::to_owned).or(selected.namespace);
    Ok(Identity {
        server: server.trim_end_matches('/').to_owned(),
        namespace: namespace
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        context: target.context,
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
