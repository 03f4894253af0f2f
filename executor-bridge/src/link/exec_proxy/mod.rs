//! The exec-proxy link: `pods/exec` of `podbridge-agent proxy`, whose standard streams are the pipe. Finds the agent in the container, or
//! copies it there, with as few execs as possible: one if the agent is there, three if it is not. `link` calls it.

mod agent_binary;
mod container_exec;
mod deadline;
mod exec_stream;
mod inject;
mod pipe;
mod process_streams;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

#[cfg(any(test, fuzzing))]
pub(crate) use exec_stream::check_channels;

use data_encoding::HEXLOWER;
use tokio::task::spawn_blocking;

use crate::error::{Failure, Kind};
pub(super) use crate::link::exec_proxy::agent_binary::AgentBinaries;
use crate::link::exec_proxy::agent_binary::AgentBinary;
use crate::link::exec_proxy::container_exec::{ContainerExec, FirstOutput, Proxy};
use crate::link::exec_proxy::deadline::Deadline;
use crate::link::{AgentStart, DialedLink, LinkName};
use crate::pod::{Access, Storage};
use crate::random;

pub(super) async fn dial(
    access: Access,
    container: Option<&str>,
    start: AgentStart,
    binaries: &Arc<AgentBinaries>,
    limit: Duration,
) -> Result<DialedLink, Failure> {
    let deadline = Deadline::new(limit);
    let (container, storage) = access.container(container).await?;
    let binaries = binaries.clone();
    let binaries = spawn_blocking(move || binaries.find()).await.unwrap_or_default();
    let mut exec = ContainerExec {
        access,
        container,
        deadline,
    };
    let proxy = find_or_inject(&mut exec, &storage, start, &binaries).await?;
    let name = if exec.access.is_kubectl() {
        LinkName::Kubectl
    } else {
        LinkName::ExecProxy
    };
    Ok(pipe::make_link(proxy, exec.container, name))
}

/// Multiples of the size of the largest agent that a directory with a size limit has to hold: first one with much space is looked for,
/// then one that is merely large enough. A pod that exceeds such a limit is evicted.
const SPACE_FACTORS: [u64; 2] = [4, 2];
/// Share of the smallest size limit that the agent may use for output that nobody reads.
const SPOOL_SHARE: u64 = 4;
/// Directories that depend on the container, where the scripts look for space: the home.
const OTHER_BASES: usize = 1;

/// Returns a running proxy: of the agent in the container, or of one that is copied there.
async fn find_or_inject(
    container: &mut ContainerExec,
    storage: &Storage,
    start: AgentStart,
    binaries: &[Arc<AgentBinary>],
) -> Result<Proxy, Failure> {
    let option = match start {
        AgentStart::IfNeeded => "--start",
        AgentStart::Never => "",
    };
    let spool = storage
        .smallest_disk_limit()
        .map(|limit| format!("--spool-limit={}", (limit / SPOOL_SHARE) >> 20))
        .unwrap_or_default();
    let known: Vec<_> = binaries.iter().map(|binary| binary.tag_and_digest()).collect();
    let random = HEXLOWER.encode(&random::bytes::<8>());
    let size = binaries.iter().map(|binary| binary.length as u64).max().unwrap_or(0);
    let needed_kib = (2 * size / 1024).to_string();
    let more: Vec<_> = storage.temporary().collect();
    let bases = [&scripts::BASES[..], &more].concat();
    let more = more.join(":");
    let shared = path_list(storage.shared());
    let mut full: Vec<String> = Vec::new();
    let [mut space, less_space] = SPACE_FACTORS.map(|factor| factor * size);
    loop {
        let skip = path_list(storage.too_small(space).chain(full.iter().map(String::as_str)));
        let mounts = path_list(storage.large_enough(space));
        let script = ["sh", "-c", scripts::FIND, "sh"];
        let settings = [option, &spool, &random, &skip, &needed_kib, &mounts, &more, &shared];
        let mut find = [&script[..], &settings].concat();
        find.extend(known.iter().map(String::as_str));
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
            if storage.too_small(less_space).count() == storage.too_small(space).count() {
                return Err(no_directory(container, &report.refused, &full));
            }
            space = less_space;
            continue;
        };
        if !may_take_agent(&directory.base, &bases, &full) {
            let why =
                "its shell named a directory for the agent that was not asked about; is its `sh` another program?";
            return Err(container.failure(Kind::Agent, why));
        }
        if full.is_empty() {
            container.deadline.extend(binary.length);
        }
        match inject::inject(container, &binary, &directory, &random, &spool).await {
            Ok(proxy) => return Ok(proxy),
            // The directory took the script's probe but not the whole binary: the next directory may be larger.
            Err(failure) if failure.kind == Kind::NoSpace => {
                tracing::warn!(%failure, "the agent does not fit");
                full.push(directory.base);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Returns whether a directory is one of `bases`, or one of the few others, and has not turned out to be full. The name comes from the
/// container, which could name other directories without end. The root's name is empty.
fn may_take_agent(base: &str, bases: &[&str], full: &[String]) -> bool {
    let is_other = |base: &str| !bases.contains(&base);
    let others = full.iter().filter(|base| is_other(base)).count();
    let is_path = base.is_empty() || base.starts_with('/');
    is_path && !full.iter().any(|tried| tried == base) && (!is_other(base) || others < OTHER_BASES)
}

/// Writes paths for the scripts, with a colon around each. Kubernetes allows no colon in the path of a mount.
fn path_list<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    paths.fold(":".to_owned(), |list, path| list + path + ":")
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

fn no_directory(container: &ContainerExec, refused: &[String], full: &[String]) -> Failure {
    let full = full.iter().map(|base| format!("{base} is full"));
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
            "no directory can take the agent ({}): free space in one, or mount an emptyDir of 64 MiB at /tmp that no other container mounts",
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

/// Checks any bytes for `fuzzing`: a report leads to few directories, each once.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_report(text: &[u8]) {
    let (bases, mut full) = (&scripts::BASES[..], Vec::new());
    for part in String::from_utf8_lossy(text).split("\n\n") {
        let report = scripts::FindReport::parse(part);
        if let Some(directory) = report
            .directory
            .filter(|found| may_take_agent(&found.base, bases, &full))
        {
            full.push(directory.base);
        }
    }
    assert!(full.len() <= bases.len() + OTHER_BASES);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_cannot_name_directories_without_end() {
        let bases = ["/tmp", "/dev/shm"];
        for (base, full, may) in [
            ("/tmp", &[][..], true),
            ("/tmp", &["/tmp"], false),
            ("/dev/shm", &["/tmp"], true),
            ("/root", &["/tmp"], true),
            ("/root", &["/root"], false),
            ("/more", &["/root"], false),
            ("/tmp", &["/root"], true),
            ("", &[], true),
            ("root", &[], false),
        ] {
            let full: Vec<_> = full.iter().map(|base| (*base).to_owned()).collect();
            assert_eq!(may_take_agent(base, &bases, &full), may, "{base} {full:?}");
        }
    }
}
