//! What `podbridge` can be asked for, one file per subcommand. An error is one sentence on stderr and its kind's exit code.

mod bridge;
mod cp;
mod docker;
mod exec;
mod git;
mod location;
mod progress;
mod ssh;
mod status;
mod stop;
mod sync;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command, TargetOptions};
use crate::client::{self, BridgeAddress, Conversation, Message};
use crate::config::{self, BridgeSettings, Process};
use crate::error::{Failure, Kind};
use crate::protocol::request::Request;
use crate::protocol::result::Outcome;
use crate::report::say;
use crate::sockets::PodReference;
use crate::{kubectl_shim, telemetry};

/// A bridge that is well answers at once.
const ANSWER: Duration = Duration::from_secs(5);

/// The main program.
pub fn run() -> ExitCode {
    if let Some(code) = kubectl_shim::intercept() {
        return code;
    }
    let cli = match Cli::try_parse_from(ssh::words()) {
        Ok(cli) => cli,
        Err(error) => return no_command(&error),
    };
    let Cli {
        target,
        bridge,
        command,
    } = cli;
    let options = match config::options(&bridge, &Process) {
        Ok(options) => options,
        Err(failure) => return failed(&failure),
    };
    if !matches!(command, Command::Bridge(_)) {
        telemetry::start_for_command();
    }
    let result = match command {
        Command::Exec(command) => exec::run(target, options, command),
        Command::Cp(command) => cp::run(target, options, command),
        Command::Sync(command) => sync::run(target, options, command),
        Command::Ssh(command) => ssh::run(target, options, command),
        Command::Git(command) => git::run(target, options, &command),
        Command::Docker(command) => docker::run(target, options, command),
        Command::Status(command) => status::run(target, &command),
        Command::Stop(command) => stop::run(target, command),
        Command::Bridge(command) => bridge::run(&command, options),
        // Recognised above, unless an option came before it.
        Command::Kubectl { .. } => Err(Failure::usage("write kubectl's options after `podbridge kubectl`")),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    ExitCode::from(said(failure))
}

/// Its sentence is said; its exit code.
fn said(failure: &Failure) -> u8 {
    say(&failure.message);
    failure.kind.code()
}

/// Help and version go to stdout, mistakes to stderr.
fn no_command(error: &clap::Error) -> ExitCode {
    if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
        // A reader that has gone needs neither.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
    } else {
        let text = error.to_string();
        // The first paragraph says what is wrong; the rest is the usage, which --help has.
        let first = text.split("\n\n").next().unwrap_or_default();
        let sentence = first.split_whitespace().collect::<Vec<_>>().join(" ");
        say(&format!("{}; see --help", sentence.trim_start_matches("error: ")));
    }
    ExitCode::from(Kind::Usage.code())
}

/// The bridge of a pod: the one in Zuul's slot, which knows itself how to reach it, unless another server is named.
fn bridge(target: TargetOptions, pod: &str, options: BridgeSettings) -> Result<BridgeAddress, Failure> {
    let reference = PodReference {
        kubeconfig: target.kubeconfig.clone().map(PathBuf::from),
        context: target.context.clone(),
        namespace: target.namespace.clone(),
        name: pod.to_owned(),
    };
    let other_server = target.server.is_some();
    match reference.served_slot(&Process).filter(|_| !other_server) {
        Some(slot) => Ok(BridgeAddress::Slot(slot.socket)),
        None => Ok(BridgeAddress::OnDemand {
            target: config::target(target, pod, &Process)?,
            options,
        }),
    }
}

/// What a bridge that runs answers to that: `None` if none runs. One that says nothing is not waited for long.
async fn ask(socket: &Path, request: &Request) -> Result<Option<Outcome>, Failure> {
    let asked = async {
        match client::begin_existing(socket, request).await? {
            Some(conversation) => Ok(Some(result(conversation).await)),
            None => Ok(None),
        }
    };
    tokio::time::timeout(ANSWER, asked).await.unwrap_or_else(|_| {
        let sentence = format!("the bridge at {} does not answer; end its process", socket.display());
        Err(Failure::new(Kind::Bridge, sentence))
    })
}

/// The result of an operation without output.
async fn result(mut conversation: Conversation) -> Outcome {
    loop {
        match conversation.incoming.next().await {
            Message::Result(outcome) | Message::Lost(outcome) => return outcome,
            Message::Started | Message::Stdout(_) | Message::Stderr(_) => {}
        }
    }
}
