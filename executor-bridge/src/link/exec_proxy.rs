//! The exec-proxy link: a `pods/exec` of `podbridge-agent proxy`, found in the image or brought. Owns the search and the
//! first line of the proxy; what comes after it is the pipe.

use std::time::Duration;

use podbridge_proto::limits::PROXY_MAGIC;
use tokio::io::{AsyncReadExt as _, DuplexStream};

use super::exec_stream::{self, ExecStream};
use super::{Dialed, Handle, Monitored, Start, inject};
use crate::error::{Failure, Kind};
use crate::pod::{Cluster, Fate, Place};
use crate::protocol::target::Target;

/// Dials within `timeout`, whatever hangs.
pub(super) async fn dial(
    target: &Target,
    container: Option<&str>,
    start: Start,
    agents: &inject::Agents,
    timeout: Duration,
) -> Result<Dialed, Failure> {
    let dialing = async {
        let cluster = Cluster::new(target, timeout).await?;
        let place = cluster.place(container).await?;
        let stream = find(&cluster, &place, start, agents).await?;
        Ok(dialed(stream, place))
    };
    match tokio::time::timeout(timeout, dialing).await {
        Ok(dialed) => dialed,
        Err(_) => Err(Failure::new(
            Kind::Timeout,
            format!(
                "pod {} gave no agent within {} s; raise --connect-timeout, or look at the API server and the node",
                target.pod_name(),
                timeout.as_secs()
            ),
        )),
    }
}

fn dialed(stream: ExecStream, place: Place) -> Dialed {
    let handle = Handle::new(None);
    for task in stream.tasks {
        handle.owns(task);
    }
    Dialed {
        pipe: Box::new(Monitored::new(stream.pipe, handle.clone())),
        handle,
        place: Some(place),
    }
}

pub(super) async fn fate(target: &Target, place: &Place, timeout: Duration) -> Result<Fate, Failure> {
    Cluster::new(target, timeout).await?.fate(place).await
}

/// What an exec of a proxy turned out to be.
pub(super) enum Answer {
    Agent(ExecStream),
    /// `inject::ABSENT`: a shell, and no agent.
    NoAgent,
    /// Neither; what was said instead.
    Other(String),
}

/// An agent of the image, one that was brought before, or one that is brought now.
async fn find(cluster: &Cluster, place: &Place, start: Start, agents: &inject::Agents) -> Result<ExecStream, Failure> {
    let binary = agents.binary();
    let script = inject::search_script(binary.as_ref().ok(), start);
    let said = match run(cluster, place, &["sh", "-c", &script]).await? {
        Answer::Agent(stream) => return Ok(stream),
        Answer::NoAgent if start == Start::Never => {
            return Err(Failure::new(
                Kind::Agent,
                format!("no agent runs in pod {}", cluster.name()),
            ));
        }
        Answer::NoAgent => return inject::bring(cluster, place, binary?).await,
        Answer::Other(said) => said,
    };
    if !is_missing(&said, "sh") {
        return Err(no_proxy(cluster, &said));
    }
    // No shell: the agent must be in the image, and in its PATH.
    match run(cluster, place, &["podbridge-agent", "proxy"]).await? {
        Answer::Agent(stream) => Ok(stream),
        Answer::NoAgent => Err(no_proxy(cluster, "it has no agent")),
        Answer::Other(said) if is_missing(&said, "podbridge-agent") => Err(Failure::new(
            Kind::NoShell,
            format!(
                "container {} of pod {} has no podbridge-agent, and no shell to bring one with; put the agent into the image, \
                 or bring it by an init container (podbridge-agent install DIR) into a directory of its PATH",
                place.container,
                cluster.name()
            ),
        )),
        Answer::Other(said) => Err(no_proxy(cluster, &said)),
    }
}

fn is_missing(said: &str, program: &str) -> bool {
    let missing = said.contains("executable file not found") || said.contains("no such file or directory");
    missing && said.contains(&format!("\"{program}\""))
}

pub(super) fn no_proxy(cluster: &Cluster, said: &str) -> Failure {
    Failure::new(
        Kind::Agent,
        format!(
            "no agent could be reached in pod {}; instead of it came: {said}",
            cluster.name()
        ),
    )
}

/// Runs a command that should become a proxy.
pub(super) async fn run(cluster: &Cluster, place: &Place, argv: &[&str]) -> Result<Answer, Failure> {
    let socket = cluster.exec(&place.container, argv).await?;
    let mut stream = exec_stream::open(socket);
    let seen = first_line(&mut stream.pipe).await;
    if seen == PROXY_MAGIC.as_bytes() {
        return Ok(Answer::Agent(stream));
    }
    if seen == inject::ABSENT.as_bytes() {
        return Ok(Answer::NoAgent);
    }
    // The reason comes on the other channels; the stream's end is when they are complete.
    let mut rest = Vec::new();
    let mut limited = (&mut stream.pipe).take(1024);
    let reading = limited.read_to_end(&mut rest);
    // Something that goes on talking will not say why.
    let _ = tokio::time::timeout(Duration::from_secs(2), reading).await;
    let text = [&seen[..], &rest[..]].concat();
    let said = format!("{} {}", String::from_utf8_lossy(&text), stream.notes.text());
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(Answer::Other(match said.is_empty() {
        true => "nothing".into(),
        false => said,
    }))
}

/// Up to the length of the magic line, or to the first newline.
async fn first_line(pipe: &mut DuplexStream) -> Vec<u8> {
    let mut line = Vec::new();
    while line.len() < 64 && line.last() != Some(&b'\n') {
        match pipe.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(_) => break,
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_from_other_failures() {
        let runc = "error executing command in container: OCI runtime exec failed: exec failed: unable to start container \
                    process: exec: \"sh\": executable file not found in $PATH: unknown";
        assert!(is_missing(runc, "sh"));
        assert!(!is_missing(runc, "podbridge-agent"));
        assert!(!is_missing("sh: syntax error", "sh"));
    }

    #[tokio::test]
    async fn the_first_line_is_bounded() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        tokio::io::AsyncWriteExt::write_all(&mut far, b"podbridge-proxy/1\nPRI")
            .await
            .unwrap();
        assert_eq!(first_line(&mut near).await, PROXY_MAGIC.as_bytes());
        let (mut near, mut far) = tokio::io::duplex(4096);
        tokio::io::AsyncWriteExt::write_all(&mut far, &[b'x'; 1000])
            .await
            .unwrap();
        drop(far);
        assert_eq!(first_line(&mut near).await.len(), 64);
    }
}
