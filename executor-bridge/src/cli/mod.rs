//! The command line as it is typed. Owns names and help texts; `config` checks the values.

mod filters;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(crate) use crate::cli::filters::Filters;
use crate::protocol::target::LinkChoice;

/// Commands and files in Kubernetes pods over one warm connection per pod.
///
/// Exit codes: the command's own; 124 timeout; 125 cancelled; 137 memory limit; 128+n signal n; 220 to 239: it never
/// ran; 240 to 249: its fate is unknown.
#[derive(Debug, Parser)]
#[command(name = "podbridge", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub bridge: BridgeOptions,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a pod
    Exec(ExecOptions),
    /// Copy a file to or from a pod: SRC and DST are local paths, POD:PATH, or - for standard input or output
    Cp(CpOptions),
    /// Make DST what SRC is, to or from a pod: directories with all that is in them, only what differs is sent
    Sync(SyncOptions),
    /// Show the bridges of this user, or the one of a pod
    Status(StatusOptions),
    /// End the bridge of a pod; running commands go on in the pod
    Stop(StopOptions),
    /// Run a command in a pod as ssh does on a machine: for GIT_SSH_COMMAND="podbridge ssh", and rsync -e "podbridge ssh"
    Ssh(SshOptions),
    /// Run git here, with pods as its machines: podbridge git push POD:/path main
    Git(GitOptions),
    /// In docker's form, for Ansible's synchronize
    #[command(hide = true)]
    Docker(DockerOptions),
    /// Find or start the bridge of a target (JSON on standard input) and print its socket; for the Ansible plugin
    Bridge(DaemonOptions),
    /// Be the kubectl of a Zuul executor, as under the name kubectl: pods of a build through their bridges, the rest unchanged
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
}

/// Which pod, and how to reach its cluster; as kubectl's global options. A token is taken from PODBRIDGE_TOKEN.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetOptions {
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the pod's own service account]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<OsString>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of the pod
    #[arg(long, short = 'n', global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Container [default: the pod's default-container annotation, else its first]
    #[arg(long, short = 'c', global = true, value_name = "NAME")]
    pub container: Option<String>,
    /// URL of the API server
    #[arg(long, short = 's', global = true, value_name = "URL")]
    pub server: Option<String>,
    /// Certificate authority of the API server
    #[arg(long, alias = "ca-cert", global = true, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// Client certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub client_certificate: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// File that holds a bearer token
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Accept any certificate of the API server
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,
    /// User to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Group to impersonate; may be repeated
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub impersonate_group: Vec<String>,
    /// How to reach the agent [default: $PODBRIDGE_LINK, else auto]
    #[arg(long, global = true, value_enum, value_name = "LINK")]
    pub link: Option<LinkChoice>,
    /// The agent's Unix socket, for --link local [default: $PODBRIDGE_AGENT_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub agent_socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Bridge")]
pub(crate) struct BridgeOptions {
    /// An unused bridge ends after so many seconds; 0: never
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 600)]
    pub idle: u64,
    /// Give up dialling the pod after so many seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub connect_timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ExecOptions {
    /// Pass standard input [default: unless it is a terminal]
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Run in a terminal of its own
    #[arg(long, short = 't')]
    pub tty: bool,
    /// User in the pod; needs an agent that is root
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Working directory in the pod
    #[arg(long, value_name = "DIRECTORY")]
    pub cwd: Option<PathBuf>,
    /// Environment variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<OsString>,
    /// End the command after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    pub pod: String,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CpOptions {
    #[arg(value_name = "SRC")]
    pub source: OsString,
    #[arg(value_name = "DST")]
    pub destination: OsString,
    /// Owner of a new file in the pod; needs an agent that is root
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Return when the copy and its name are on the disk
    #[arg(long)]
    pub fsync: bool,
    /// No progress bar
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SyncOptions {
    /// Local path or POD:PATH
    #[arg(value_name = "SRC")]
    pub source: OsString,
    /// The other one; a file goes into it if it is a directory or ends with a slash
    #[arg(value_name = "DST")]
    pub destination: OsString,
    /// Remove from DST what SRC does not have
    #[arg(long)]
    pub delete: bool,
    #[command(flatten)]
    pub filters: Filters,
    /// Compare contents instead of sizes and modification times
    #[arg(long)]
    pub checksum: bool,
    /// Change nothing, print what would be
    #[arg(long)]
    pub dry_run: bool,
    /// Print a line for each changed path: new, changed, attributes or deleted
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// Copy no owner and group: what is written belongs to whoever writes it
    #[arg(long)]
    pub no_owner: bool,
    /// When to compress what is sent
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Compress::Auto)]
    pub compress: Compress,
    /// User in the pod who reads or writes there; needs an agent that is root
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Wait until files are on the disk
    #[arg(long)]
    pub fsync: bool,
    /// No progress bar and no summary
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compress {
    /// While the data shrinks
    Auto,
    Always,
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    pub pod: Option<String>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopOptions {
    #[arg(required_unless_present = "all")]
    pub pod: Option<String>,
    /// End all bridges of this user
    #[arg(long, conflicts_with = "pod")]
    pub all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SshOptions {
    /// User in the pod, as USER@POD; needs an agent that is root
    #[arg(short = 'l', value_name = "USER")]
    pub login_name: Option<String>,
    /// Run in a terminal of its own
    #[arg(short = 't', overrides_with = "tty")] // -tt is usual
    pub tty: bool,
    /// Do nothing: whether this is like OpenSSH's ssh
    #[arg(short = 'G')]
    pub configuration: bool,
    /// Where the image has repositories, whose objects a new one uses; may be repeated [default: $PODBRIDGE_GIT_CACHE, else
    /// /opt/git]
    #[arg(long, value_name = "DIRECTORY")]
    pub git_cache: Vec<PathBuf>,
    /// For ssh alone: means nothing here, as -4 -6 -a -C -k -q -v -x
    #[arg(short = 'T', short_aliases = ['4', '6', 'a', 'C', 'k', 'q', 'v', 'x'], action = ArgAction::Count)]
    pub of_ssh: u8,
    /// For ssh alone: means nothing here, as -F -i -p
    #[arg(short = 'o', short_aliases = ['F', 'i', 'p'], value_name = "VALUE")]
    pub values_of_ssh: Vec<OsString>,
    #[arg(value_name = "POD")]
    pub host: String,
    /// Joined by spaces, for the pod's shell. All options are before it; -c, -n and -s are not ssh's, but the target's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct GitOptions {
    /// Where the image has repositories, whose objects a new one uses; may be repeated [default: $PODBRIDGE_GIT_CACHE, else
    /// /opt/git]
    #[arg(long, value_name = "DIRECTORY")]
    pub git_cache: Vec<PathBuf>,
    /// For git; behind -- if they begin with an option
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct DockerOptions {
    /// Pod, whatever the words say
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
    /// User in the pod, whatever the words say
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// The user of the words, who is one that the task became
    #[arg(long, conflicts_with = "user")]
    pub r#become: bool,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub words: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct DaemonOptions {
    /// Serve in this process instead of a daemon
    #[arg(long, conflicts_with = "detached")]
    pub foreground: bool,
    /// Be the daemon
    #[arg(long, hide = true)]
    pub detached: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_begins_after_two_dashes() {
        let cli = Cli::try_parse_from([
            "podbridge",
            "exec",
            "-i",
            "web",
            "-c",
            "main",
            "--",
            "ls",
            "-l",
            "--",
            "x",
        ]);
        let cli = cli.unwrap();
        assert_eq!(cli.target.container.as_deref(), Some("main"));
        let Command::Exec(exec) = cli.command else {
            panic!("not an exec")
        };
        assert_eq!(exec.command, ["ls", "-l", "--", "x"]);
        assert!(Cli::try_parse_from(["podbridge", "exec", "web"]).is_err());
    }

    #[test]
    fn patterns_keep_their_order() {
        let words = [
            "podbridge",
            "sync",
            "--exclude",
            "a",
            "--include=b",
            "x:/",
            "--exclude",
            "c",
            ".",
        ];
        let Command::Sync(sync) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not a sync")
        };
        let expected = [(false, "a".into()), (true, "b".into()), (false, "c".into())];
        assert_eq!(sync.filters.0, expected);
    }
}
