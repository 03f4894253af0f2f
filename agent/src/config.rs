//! The command line of the agent: subcommands, options and defaults. `commands` parses it. Values are checked here; the environment is
//! read in `env`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::env;
use crate::git::Service;
use crate::transport::choice::Choice;

/// Run commands and transfer files for podbridge inside a container
#[derive(Debug, Parser)]
#[command(name = "podbridge-agent", disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve on a Unix socket; as PID 1, also act as the container's init
    Serve(Serve),
    /// Connect standard input and output to a serving agent
    Proxy(Proxy),
    /// Copy this program into a directory, for use in an init container
    Install {
        /// Existing directory, usually an emptyDir
        directory: PathBuf,
    },
    /// Run one side of a copy of a file tree, on standard input and output
    #[command(hide = true)]
    Tree,
    /// Run the pod's side of a git push or fetch on standard input and output; a push creates a missing repository
    Git(Git),
    /// Print name and version
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Socket {
    /// Path of the agent's Unix socket, exactly as it is given [default: $PODBRIDGE_AGENT_SOCKET, else a container socket at
    /// /run/podbridge/agent.sock or /tmp/.podbridge-UID/agent.sock]
    #[arg(long = "socket", value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// Path of the agent's Unix socket; the container's id is added to the file name, so that several containers may share the directory
    #[arg(long, value_name = "PATH", conflicts_with = "path")]
    pub(crate) container_socket: Option<PathBuf>,
    /// End after this many seconds without a connection and without a running command; 0: never [default: 60 for a detached
    /// agent, else 0]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) idle: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Spool {
    /// Directory for unread output, in files without names [default: the socket's directory]
    #[arg(long = "spool", value_name = "DIRECTORY")]
    pub(crate) directory: Option<PathBuf>,
    /// Limit on the size of these files together, in MiB; 0: no files, output waits in memory only
    #[arg(long = "spool-limit", value_name = "MIB", default_value_t = 256)]
    pub(crate) limit: u32,
}

impl Spool {
    /// Returns the options for another process that shall have the same spool.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let limit = ["--spool-limit".into(), self.limit.to_string().into()];
        let directory = self.directory.iter().flat_map(|path| ["--spool".into(), path.into()]);
        limit.into_iter().chain(directory).collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Python {
    /// Start a new Python for every Ansible module, as $PODBRIDGE_WARM_PYTHON=0 does; without this option, modules run in processes that
    /// are forked from a Python that has already started
    #[arg(long = "no-warm-python")]
    pub(crate) is_cold: bool,
}

impl Python {
    /// Returns whether modules may run in a warm interpreter.
    pub(crate) fn is_warm(&self) -> bool {
        !self.is_cold && env::variable(env::WARM_PYTHON).is_none_or(|value| value != "0")
    }

    /// Returns the options for another process that shall do the same.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &'static str> {
        self.is_cold.then_some("--no-warm-python").into_iter()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) socket: Socket,
    #[command(flatten)]
    pub(crate) spool: Spool,
    #[command(flatten)]
    pub(crate) python: Python,
    /// Start a detached agent and return once it listens; do nothing if an agent listens there already
    #[arg(long)]
    pub(crate) daemon: bool,
    /// Act as the detached process: a new session, no inherited descriptors, readiness written to standard output
    #[arg(long, hide = true, conflicts_with = "daemon")]
    pub(crate) detached: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    #[command(flatten)]
    pub(crate) socket: Socket,
    /// Start a detached agent first if none listens there
    #[arg(long)]
    pub(crate) start: bool,
    /// Connect to the agent that this process is, if it serves this container; for agents whose files were removed
    #[arg(long, value_name = "PID", hide = true, conflicts_with_all = ["path", "container_socket"])]
    pub(crate) process: Option<i32>,
    /// First hexadecimal digits of the SHA-256 of this program, or of the programs whose agent is wanted: a damaged program starts no
    /// agent, and another release's agent is not used
    #[arg(long, value_name = "HEX", hide = true)]
    pub(crate) digest: Vec<String>,
    /// Print `running` if an agent listens, `ready` if one can be started, and end
    #[arg(long, hide = true)]
    pub(crate) probe: bool,
    /// Start the agent with the environment that the parent process was started with: a shell drops variables, and adds its own
    #[arg(long, hide = true)]
    pub(crate) parent_environment: bool,
    /// Limit on the spool of an agent that is started, in MiB
    #[arg(long, value_name = "MIB", hide = true)]
    pub(crate) spool_limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Git {
    /// The git service to run
    #[arg(value_enum)]
    pub(crate) service: Service,
    /// Directory with repositories in the image, whose objects a new repository uses; may be repeated
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) cache: Vec<PathBuf>,
    /// Path of the repository; `~` and relative paths start at the user's home
    pub(crate) path: PathBuf,
}

/// Idle time of a detached agent without `--idle`, in seconds.
const DETACHED_IDLE_SECONDS: u64 = 60;

impl Socket {
    /// Returns which socket is meant.
    pub(crate) fn choice(&self) -> Choice {
        Choice::new(self.path.clone(), self.container_socket.clone())
    }

    /// Returns the idle time after which the agent ends; `None`: never.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idle.filter(|seconds| *seconds != 0).map(Duration::from_secs)
    }

    /// Returns the idle time of a detached agent, in seconds.
    pub(crate) fn idle_when_detached(&self) -> u64 {
        self.idle.unwrap_or(DETACHED_IDLE_SECONDS)
    }
}
