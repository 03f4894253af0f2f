//! What the agent is told by arguments and environment, checked once. Nothing else reads either.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::git::Service;

/// Run and transfer on behalf of podbridge inside a container.
#[derive(Debug, Parser)]
#[command(name = "podbridge-agent", disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve on a Unix socket; as PID 1 also be the container's init
    Serve(Serve),
    /// Connect standard input and output to a serving agent
    Proxy(Proxy),
    /// Copy this binary into a directory, for an init container
    Install {
        /// An existing directory, usually an emptyDir
        directory: PathBuf,
    },
    /// One side of a copy of a tree, on standard input and output
    #[command(hide = true)]
    Tree,
    /// Run git's side of a push or a fetch on standard input and output; a repository that is not there is made for a push
    Git(Git),
    /// Print name and version
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Socket {
    /// The agent's Unix socket [default: $PODBRIDGE_AGENT_SOCKET, else /run/podbridge/agent.sock or
    /// /tmp/.podbridge-UID/agent.sock]
    #[arg(long = "socket", value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// End after so many seconds without connection or running command; 0: never [default: 60 for an agent that
    /// detaches, else 0]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) idle: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Spool {
    /// Where output that nobody reads waits, in files without names [default: the socket's directory]
    #[arg(long = "spool", value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// MiB that these files may hold together; 0: none, output waits in memory only
    #[arg(long = "spool-limit", value_name = "MIB", default_value_t = 256)]
    pub(crate) limit: u32,
}

impl Spool {
    /// For another process that is to have the same.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let limit = ["--spool-limit".into(), self.limit.to_string().into()];
        let directory = self.directory.iter().flat_map(|path| ["--spool".into(), path.into()]);
        limit.into_iter().chain(directory).collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) socket: Socket,
    #[command(flatten)]
    pub(crate) spool: Spool,
    /// Detach once the socket listens; an agent that listens there already is enough
    #[arg(long)]
    pub(crate) daemon: bool,
    /// Be the detached process: a new session, nothing inherited, readiness told on standard output
    #[arg(long, hide = true, conflicts_with = "daemon")]
    pub(crate) detached: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    #[command(flatten)]
    pub(crate) socket: Socket,
    /// Start an agent first if none listens there
    #[arg(long)]
    pub(crate) start: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Git {
    #[arg(value_enum)]
    pub(crate) service: Service,
    /// Where the image has repositories, whose objects a new one then uses; may be repeated
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) cache: Vec<PathBuf>,
    /// The repository; `~` and what is relative is below the user's home
    pub(crate) path: PathBuf,
}

/// An agent nobody asked to stay ends after this long without work.
const DETACHED_IDLE_SECONDS: u64 = 60;

impl Socket {
    /// `None`: never.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idle.filter(|seconds| *seconds != 0).map(Duration::from_secs)
    }

    pub(crate) fn idle_when_detached(&self) -> u64 {
        self.idle.unwrap_or(DETACHED_IDLE_SECONDS)
    }
}
