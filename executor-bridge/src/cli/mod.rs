//! The command line: names, defaults and help texts of all subcommands and options. `commands` parses it; `config` turns the options into
//! a target and settings. Reads no environment and no file.

mod filters;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use crate::cli::filters::Filters;
use crate::protocol::target::LinkChoice;

/// Run commands and copy files in Kubernetes pods, over one open connection per pod
///
/// Exit codes: the command's own; 128+n: ended by signal n; 124: time limit reached; 125: cancelled; 137: out of memory; 126 or 127: the
/// program could not be started; 220 to 239: the command never ran; 240 to 249: unknown whether the command ran.
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
    /// Copy one file to or from a pod: SRC and DST are a local path, POD:PATH, or - for standard input or output
    Cp(CpOptions),
    /// Make DST equal to SRC, to or from a pod: copies directories with their contents and sends only differences
    Sync(SyncOptions),
    /// List pods and their containers
    Pods(PodsOptions),
    /// Show the bridges of this user, or the bridge of one pod
    Status(StatusOptions),
    /// Stop the bridge of a pod; commands that run in the pod continue
    Stop(StopOptions),
    /// Measure the time of commands and copies in a pod, through podbridge and through kubectl
    Bench(BenchOptions),
    /// Run a command in a pod as ssh does on a host; for GIT_SSH_COMMAND="podbridge ssh" and rsync -e "podbridge ssh"
    Ssh(SshOptions),
    /// Run the local git with pods as its hosts: podbridge git push POD:/path main
    Git(GitOptions),
    /// Run a command in a pod with docker's syntax; Ansible's synchronize calls it
    #[command(hide = true)]
    Docker(DockerOptions),
    /// Find or start a bridge and print the path of its socket; reads the target as JSON from standard input; for programs
    Bridge(DaemonOptions),
    /// Act as the kubectl of a Zuul executor: use the bridge for pods of a build, and run the next kubectl in PATH for all other commands
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Arguments of kubectl
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
}

/// Options that select the pod and its cluster. They have kubectl's names and meaning.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetOptions {
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else, inside a pod, its service account]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<OsString>,
    /// Kubeconfig context to use [default: the current context]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of the pod [default: the namespace of the context]
    #[arg(long, short = 'n', global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Container of the pod [default: from the annotation kubectl.kubernetes.io/default-container, else the first one]
    #[arg(long, short = 'c', global = true, value_name = "NAME")]
    pub container: Option<String>,
    /// URL of the Kubernetes API server [default: from the kubeconfig]
    #[arg(long, short = 's', global = true, value_name = "URL")]
    pub server: Option<String>,
    /// Certificate file of the authority that signed the API server's certificate [default: from the kubeconfig]
    #[arg(long, alias = "ca-cert", global = true, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// Client certificate file for TLS [default: from the kubeconfig]
    #[arg(long, global = true, value_name = "FILE")]
    pub client_certificate: Option<PathBuf>,
    /// Client key file for TLS [default: from the kubeconfig]
    #[arg(long, global = true, value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// File with the bearer token for the API server [default: the token in $PODBRIDGE_TOKEN, else from the kubeconfig]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Do not verify the certificate of the API server; insecure. =false: verify it, even if the kubeconfig disables this
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL")]
    pub insecure_skip_tls_verify: Option<bool>,
    /// User to impersonate in requests to the API server
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Group to impersonate in requests to the API server; may be repeated
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub impersonate_group: Vec<String>,
    /// How the bridge connects to the agent in the pod [default: $PODBRIDGE_LINK, else auto]
    #[arg(long, global = true, value_enum, value_name = "LINK")]
    pub link: Option<LinkChoice>,
    /// Unix socket of the agent, for --link local [default: $PODBRIDGE_AGENT_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub agent_socket: Option<PathBuf>,
    /// File with the target as JSON, in place of all these options except --container; the Ansible plugin's, so that no secret is on a
    /// command line
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub target_file: Option<PathBuf>,
}

impl TargetOptions {
    /// Returns the options without empty texts, which count as absent as with kubectl: scripts write `-n "$NAMESPACE"`. clap refuses an
    /// empty file name.
    pub(crate) fn without_empty(self) -> Self {
        let text = |value: Option<String>| value.filter(|text| !text.is_empty());
        Self {
            kubeconfig: self.kubeconfig.filter(|file| !file.is_empty()),
            context: text(self.context),
            namespace: text(self.namespace),
            container: text(self.container),
            server: text(self.server),
            impersonate: text(self.impersonate),
            ..self
        }
    }
}

/// Settings of a bridge that this command starts; a bridge that already runs keeps its own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings of a bridge that this command starts")]
pub(crate) struct BridgeOptions {
    /// Seconds without use after which a bridge ends; 0: never
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 600)]
    pub idle: u64,
    /// Seconds to wait for a connection to the pod, 1 to 3600
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub connect_timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ExecOptions {
    /// Pass standard input to the command, as kubectl exec -i does; without it the command reads nothing
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Run the command in a terminal (TTY) if standard input is one; has an effect only with -i, as with kubectl exec
    #[arg(long, short = 't')]
    pub tty: bool,
    /// User in the pod that runs the command; needs an agent that runs as root [default: the agent's user]
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Working directory in the pod [default: the agent's directory]
    #[arg(long, value_name = "DIRECTORY")]
    pub cwd: Option<PathBuf>,
    /// Environment variable of the command; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<OsString>,
    /// Seconds after which the command is ended, with exit code 124; fractions are allowed [default: no limit]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Name of the pod
    pub pod: String,
    /// Program to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CpOptions {
    /// Source: a local path, POD:PATH, or - for standard input
    #[arg(value_name = "SRC")]
    pub source: OsString,
    /// Destination: a local path, POD:PATH, or - for standard output; the file goes into it if it is a directory
    #[arg(value_name = "DST")]
    pub destination: OsString,
    /// Owner of a new file in the pod; needs an agent that runs as root [default: the agent's user]
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Wait until the file and its directory entry are on disk
    #[arg(long)]
    pub fsync: bool,
    /// Show no progress bar
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SyncOptions {
    /// Source: a local path or POD:PATH
    #[arg(value_name = "SRC")]
    pub source: OsString,
    /// Destination: a local path or POD:PATH; a file goes into it if it is a directory or ends with a slash
    #[arg(value_name = "DST")]
    pub destination: OsString,
    /// Delete files from DST that SRC does not have; excluded files stay
    #[arg(long)]
    pub delete: bool,
    #[command(flatten)]
    pub filters: Filters,
    /// Compare file contents instead of sizes and modification times
    #[arg(long)]
    pub checksum: bool,
    /// Change nothing; print what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Print one line per changed path: new, changed, attributes or deleted
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// Do not preserve owner and group
    #[arg(long)]
    pub no_owner: bool,
    /// When copying out of a pod, also copy set-user-ID and set-group-ID bits of files, devices, file capabilities and other privileged
    /// attributes, which grant permissions on this machine; only for pods that you trust. Copies into a pod always contain them
    #[arg(long)]
    pub privileged: bool,
    /// Give an existing DST directory the mode, owner and time of SRC, as rsync -a does with a slash after SRC [default: DST keeps its own]
    #[arg(long)]
    pub preserve_root_attributes: bool,
    /// When to compress the data on the connection
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Compress::Auto)]
    pub compress: Compress,
    /// User in the pod that reads or writes the files; needs an agent that runs as root [default: the agent's user]
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Wait until the files are on disk
    #[arg(long)]
    pub fsync: bool,
    /// Show no progress bar and no summary
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// Values of `sync --compress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compress {
    /// Compress while the data shrinks
    Auto,
    /// Compress all data
    Always,
    /// Compress nothing
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct PodsOptions {
    /// List the pods of all namespaces; needs the right to list pods in the whole cluster
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Labels of the pods, in kubectl's syntax: app=web,tier!=cache
    #[arg(long, short = 'l', value_name = "LABELS")]
    pub selector: Option<String>,
    /// Fields of the pods, in kubectl's syntax: status.phase=Running
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// Format of the list, for programs [default: a table]
    #[arg(long, short = 'o', value_enum, value_name = "FORMAT")]
    pub output: Option<ListFormat>,
}

/// Values of `pods --output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// An object: the URL of the server, and the list of pods
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Name of the pod [default: all bridges of this user]
    pub pod: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopOptions {
    /// Name of the pod
    #[arg(required_unless_present = "all")]
    pub pod: Option<String>,
    /// Stop all bridges of this user
    #[arg(long, conflicts_with = "pod")]
    pub all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// Name of the pod
    pub pod: String,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Options of ssh that change something here; the others that ssh knows change nothing or are refused.
const SSH_HELP: &str = "\
Options of ssh, before and after POD. Single letters are those of ssh, so podbridge's own -n, -c and -s have to stand before `ssh`:
  -n          give the command no input
  -l USER     user in the pod, as in USER@POD; needs an agent that runs as root
  -t, -tt     run the command in a terminal, if standard input is one; -tt: always
  -T          run the command without a terminal
  -q          print no message about the terminal
  -G          exit with code 0 and do nothing; git tests for OpenSSH with it
  -o OPTION   RequestTTY, StdinNull, User and SetEnv have their meaning
Options about how ssh connects change nothing: -A -a -C -c -F -i -J -p -v -x and so on.
Options that ask for something else are refused: -D -f -L -N -O -R -s -W -w.";

#[derive(Debug, Args)]
#[command(after_help = SSH_HELP)]
pub(crate) struct SshOptions {
    /// Directory in the pod with git repositories; a new repository uses their objects, which are not sent again; may be repeated
    /// [default: $PODBRIDGE_GIT_CACHE, else /opt/git]
    #[arg(long, value_name = "DIRECTORY")]
    pub git_cache: Vec<PathBuf>,
    /// Options of ssh, each its letter and value; `commands::ssh` puts them here.
    #[arg(long = "ssh-option", hide = true)]
    pub options: Vec<OsString>,
    /// Name of the pod, or USER@POD
    #[arg(value_name = "POD")]
    pub host: String,
    /// Command for the pod's shell: its words are joined with spaces. Options must stand before it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct GitOptions {
    /// Directory in the pod with git repositories; a new repository uses their objects, which are not sent again; may be repeated
    /// [default: $PODBRIDGE_GIT_CACHE, else /opt/git]
    #[arg(long, value_name = "DIRECTORY")]
    pub git_cache: Vec<PathBuf>,
    /// Arguments of git; write -- before them if the first one is an option
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct DockerOptions {
    /// Name of the pod; overrides the one in WORDS
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
    /// User in the pod; overrides -u in WORDS
    #[arg(long, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
    /// Use the user of -u in WORDS, which is the task's become_user; without this option -u is ignored
    #[arg(long, conflicts_with = "user")]
    pub r#become: bool,
    /// Arguments of docker: exec [-u USER] -i POD COMMAND
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub words: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct DaemonOptions {
    /// Serve in this process instead of a daemon
    #[arg(long, conflicts_with = "detached")]
    pub foreground: bool,
    /// Run as the daemon; podbridge itself passes this option
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// Subcommands whose words are those of another program.
const WITH_WORDS_OF_OTHERS: [&str; 4] = ["ssh", "git", "docker", "kubectl"];

/// Returns a command line as clap has to get it, so that it means what it means to kubectl: the value of `-n=` is `=`, as a letter takes the
/// rest of its word, and an equals sign is left out only before something else. To clap it would be empty, and no namespace at all.
pub(crate) fn as_kubectl_reads(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_own = |word: &&mut OsString| *word != "--" && !WITH_WORDS_OF_OTHERS.iter().any(|name| *word == name);
    for word in words.iter_mut().skip(1).take_while(is_own) {
        if let [b'-', letters @ .., b'='] = word.as_encoded_bytes()
            && !letters.is_empty()
            && letters.iter().all(u8::is_ascii_alphabetic)
        {
            word.push("=");
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn clap_accepts_the_definition_of_the_command_line() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_of_exec_begins_after_two_dashes() {
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
    fn an_empty_option_counts_as_absent() {
        let target = |options: &[&str]| {
            let words = [&["podbridge", "status"], options].concat();
            Cli::try_parse_from(words).unwrap().target.without_empty()
        };
        for name in ["kubeconfig", "context", "namespace", "container", "server", "as"] {
            let given = target(&[&format!("--{name}="), "web"]);
            assert_eq!(format!("{given:?}"), format!("{:?}", target(&["web"])), "{name}");
        }
    }

    #[test]
    fn an_equals_sign_after_a_letter_is_read_as_kubectl_reads_it() {
        let target = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            let target = Cli::try_parse_from(as_kubectl_reads(words))
                .unwrap()
                .target
                .without_empty();
            [target.namespace, target.container, target.server].map(Option::unwrap_or_default)
        };
        for (line, expected) in [
            ("podbridge exec -n= web -- id", ["=", "", ""]),
            ("podbridge -n= cp web:/x y", ["=", "", ""]),
            ("podbridge sync -c= web:/x y", ["", "=", ""]),
            ("podbridge pods -s=", ["", "", "="]),
            ("podbridge exec -ic= web -- id", ["", "=", ""]),
            ("podbridge exec -n== web -- id", ["=", "", ""]),
            ("podbridge exec -n=ns -cmain web -- id", ["ns", "main", ""]),
            ("podbridge exec --namespace= web -- id", ["", "", ""]),
            ("podbridge exec -n  web -- id -n=", ["", "", ""]),
        ] {
            assert_eq!(target(line), expected, "{line}");
        }
        let words = ["podbridge", "git", "log", "-n="].map(OsString::from).to_vec();
        assert_eq!(as_kubectl_reads(words.clone()), words);
    }

    #[test]
    fn exclude_and_include_patterns_keep_their_order() {
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
