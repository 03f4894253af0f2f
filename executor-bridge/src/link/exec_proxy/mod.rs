//! The exec-proxy link: `pods/exec` of `podbridge-agent proxy`, whose standard streams are the pipe. Finds the agent in the container, or
//! copies it there, with as few execs as possible: one if the agent is there, three if it is not. `link` calls it.

mod agent_binary;
mod container_exec;
mod exec_stream;
mod inject;
mod pipe;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::task::spawn_blocking;

use crate::error::{Failure, Kind};
pub(super) use crate::link::exec_proxy::agent_binary::AgentBinaries;
use crate::link::exec_proxy::agent_binary::AgentBinary;
use crate::link::exec_proxy::container_exec::{ContainerExec, FirstOutput, Proxy};
use crate::link::{AgentStart, DialedLink};
use crate::pod::Access;
use crate::random;

pub(super) async fn dial(
    access: Access,
    container: Option<&str>,
    start: AgentStart,
    binaries: &Arc<AgentBinaries>,
    limit: Duration,
) -> Result<DialedLink, Failure> {
    let container = access.container(container).await?;
    let binaries = binaries.clone();
    let binaries = spawn_blocking(move || binaries.find()).await.unwrap_or_default();
    let exec = ContainerExec {
        access,
        container,
        limit,
    };
    let proxy = find_or_inject(&exec, start, &binaries).await?;
    Ok(pipe::make_link(proxy, exec.container))
}

/// Returns a running proxy: of the agent in the container, or of one that is copied there.
async fn find_or_inject(
    container: &ContainerExec,
    start: AgentStart,
    binaries: &[Arc<AgentBinary>],
) -> Result<Proxy, Failure> {
    let option = match start {
        AgentStart::IfNeeded => "--start",
        AgentStart::Never => "",
    };
    let tags: Vec<_> = binaries.iter().map(|binary| binary.tag()).collect();
    let random = HEXLOWER.encode(&random::bytes::<8>());
    // Full directories, with ':' around each.
    let mut skip = ":".to_owned();
    loop {
        let mut find = vec!["sh", "-c", scripts::FIND, "sh", option, &random, &skip];
        find.extend(tags.iter().map(String::as_str));
        let report = match container.run(&find).await? {
            FirstOutput::Proxy(proxy) => return Ok(proxy),
            FirstOutput::Report(report) => report,
            FirstOutput::NoProgram => return run_without_shell(container, start).await,
            FirstOutput::Unexpected(failure) => return Err(failure),
        };
        if start == AgentStart::Never {
            return Err(container.failure(Kind::Agent, "no agent runs in it any more"));
        }
        let binary = choose_binary(container, binaries, report.machine.as_deref())?;
        let Some(directory) = report.directory else {
            return Err(no_directory(container, &report.refused, &skip));
        };
        match inject::inject(container, &binary, &directory, &random).await {
            Ok(proxy) => return Ok(proxy),
            // The directory took the script's probe but not the whole binary: the next directory may be larger.
            Err(failure) if failure.kind == Kind::NoSpace => {
                tracing::warn!(%failure, "the agent does not fit");
                skip.push_str(&directory.base);
                skip.push(':');
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Runs an agent that is part of the image: in a container without a shell nothing can be searched or copied.
async fn run_without_shell(container: &ContainerExec, start: AgentStart) -> Result<Proxy, Failure> {
    for program in ["podbridge-agent", "/opt/podbridge/podbridge-agent"] {
        let mut arguments = vec![program, "proxy"];
        if start == AgentStart::IfNeeded {
            arguments.push("--start");
        }
        match container.run(&arguments).await? {
            FirstOutput::Proxy(proxy) => return Ok(proxy),
            FirstOutput::NoProgram => {}
            FirstOutput::Unexpected(failure) => return Err(failure),
            FirstOutput::Report(_) => {
                return Err(container.failure(Kind::Agent, "its podbridge-agent is a different program"));
            }
        }
    }
    Err(container.failure(
        Kind::NoShell,
        "it has neither podbridge-agent nor a shell with which to copy it: add podbridge-agent to the image, or run \
         `podbridge-agent install /opt/podbridge` in an init container, with a volume that both containers mount there",
    ))
}

fn no_directory(container: &ContainerExec, refused: &[String], skip: &str) -> Failure {
    let full = skip
        .split(':')
        .filter(|base| !base.is_empty())
        .map(|base| format!("{base} is full"));
    let mut reasons: Vec<String> = Vec::new();
    for reason in full.chain(refused.iter().cloned()) {
        // HOME and the working directory may be the same.
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    container.failure(
        Kind::NoSpace,
        &format!(
            "no directory can take the agent ({}): free space in one, or mount an emptyDir at /tmp",
            reasons.join("; ")
        ),
    )
}

fn choose_binary(
    container: &ContainerExec,
    binaries: &[Arc<AgentBinary>],
    machine: Option<&str>,
) -> Result<Arc<AgentBinary>, Failure> {
    // Without `uname` in the container, assume the machine type of this host.
    let wanted = machine.unwrap_or(std::env::consts::ARCH);
    let found = binaries.iter().find(|binary| binary.machine == wanted);
    found
        .cloned()
        .ok_or_else(|| container.failure(Kind::Agent, &agent_binary::missing_binary(Some(wanted), binaries)))
}
