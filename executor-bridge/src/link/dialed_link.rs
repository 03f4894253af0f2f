//! The result of a dial, common to all kinds of links. `local`, `exec_proxy` and `direct` make one; `connections` runs gRPC on it.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::link::handle::Handle;
use crate::pod::ContainerRef;

pub(crate) trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// A pipe on which an agent answers.
pub(crate) struct DialedLink {
    pub(crate) pipe: Box<dyn Pipe>,
    pub(crate) handle: Handle,
    /// Container of the agent; `None` for an agent outside Kubernetes.
    pub(crate) container: Option<ContainerRef>,
    pub(crate) name: LinkName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkName {
    Local,
    ExecProxy,
    Direct,
    /// Like exec-proxy, carried by the stock kubectl.
    Kubectl,
}

impl LinkName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            LinkName::Local => "local",
            LinkName::ExecProxy => "exec-proxy",
            LinkName::Direct => "direct",
            LinkName::Kubectl => "kubectl",
        }
    }
}

/// Permission to start an agent, and to copy its binary into the container, for a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentStart {
    IfNeeded,
    Never,
}
