//! Injects the agent into a container that has none: writes the binary, reads it back, and runs it only if the content is the same.
//! Three steps of one dial; keeps no state. `exec_proxy` calls it.

use std::future::pending;
use std::sync::Arc;

use bytes::BytesMut;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Failure, Kind};
use crate::link::exec_proxy::agent_binary::AgentBinary;
use crate::link::exec_proxy::container_exec::{ContainerExec, FirstOutput, Proxy};
use crate::link::exec_proxy::exec_stream::{Reader, STDIN_MESSAGE};
use crate::link::exec_proxy::scripts::{self, UsableDirectory};

/// Most output of the writing script, bytes; it prints nothing but the shell's own complaints.
const WRITE_OUTPUT_MAX: usize = 4 << 10;

/// Copies the binary into the container and starts its proxy. A failure of the kind `NoSpace`: another directory may do.
pub(super) async fn inject(
    container: &ContainerExec,
    binary: &Arc<AgentBinary>,
    directory: &UsableDirectory,
    random: &str,
    spool: &str,
) -> Result<Proxy, Failure> {
    let name = format!("podbridge-agent-{}.{random}", binary.tag());
    let file = format!("{}/{name}", directory.binary);
    let socket = format!("{}/agent-{}.sock", directory.socket, binary.short_digest());
    let place = [&directory.binary[..], &name];
    write(container, binary, place, &file).await?;
    let script = ["sh", "-c", scripts::START, "sh"];
    let digest = binary.short_digest();
    let start_arguments = [&script[..], &place[..], &[&socket, &digest, spool]].concat();
    match start(container, binary, &file, &start_arguments).await? {
        FirstOutput::Proxy(proxy) => Ok(proxy),
        FirstOutput::Unexpected(failure) => Err(failure),
        FirstOutput::NoProgram | FirstOutput::Report(_) => Err(container.failure(
            Kind::Agent,
            &format!(
                "the agent that was copied to {file} cannot be started; is {} the machine type of the container?",
                binary.machine
            ),
        )),
    }
}

/// Writes the binary to a place: a directory and a name in it. `file` is the same for messages.
async fn write(
    container: &ContainerExec,
    binary: &Arc<AgentBinary>,
    [directory, name]: [&str; 2],
    file: &str,
) -> Result<(), Failure> {
    let script = ["sh", "-c", scripts::WRITE, "sh", directory, name];
    let (mut reader, mut writer) = container.exec(&script).await?;
    if !writer.can_end_stdin() {
        return Err(container.failure(
            Kind::Agent,
            "the API server cannot tell a command that its input has ended (it is older than Kubernetes 1.30), so no agent can be \
             copied into the container; add podbridge-agent to the image",
        ));
    }
    let binary_to_read = binary.clone();
    let content = spawn_blocking(move || binary_to_read.content()).await.ok().flatten();
    let content = content.ok_or_else(|| {
        let path = binary.path.display();
        container.failure(
            Kind::Agent,
            &format!("{path} was replaced while it was copied into the container; try again"),
        )
    })?;
    // A task of its own, beside the reader: `cat` may report an error before it has read all.
    // It ends with this dial, too.
    let sending = AbortOnDropHandle::new(tokio::spawn(async move {
        for chunk in content.chunks(STDIN_MESSAGE) {
            if writer.stdin(chunk).await.is_err() {
                return;
            }
        }
        // `cat` waits for this end.
        let _ = writer.end_stdin().await;
        // Keep the writer: dropping it would close the socket before the status has come.
        pending::<()>().await;
    }));
    let ended = wait_for_end(container, &mut reader).await;
    drop(sending);
    ended?;
    match reader.status() {
        Some(status) if status.success() => Ok(()),
        Some(status) if status.exit_code().is_some() => Err(container.failure(
            Kind::NoSpace,
            &format!("the agent cannot be written to {file} ({})", reader.end_reason()),
        )),
        _ => Err(retry_failure(
            container,
            &reader,
            &format!("the agent could not be copied to {file}"),
        )),
    }
}

/// Waits for the end of the writing script.
async fn wait_for_end(container: &ContainerExec, reader: &mut Reader) -> Result<(), Failure> {
    let mut printed = 0;
    while printed <= WRITE_OUTPUT_MAX {
        let output = container.within(reader.stdout(), "the agent's binary could not be sent");
        match output.await? {
            Some(output) => printed += output.len(),
            None => return Ok(()),
        }
    }
    Err(container.too_much_output(WRITE_OUTPUT_MAX))
}

/// Reads back the written file, and lets the script run it if it is the same.
async fn start(
    container: &ContainerExec,
    binary: &AgentBinary,
    file: &str,
    arguments: &[&str],
) -> Result<FirstOutput, Failure> {
    let (mut reader, mut writer) = container.exec(arguments).await?;
    let (mut digest, mut length) = (Sha256::new(), 0);
    // The last bytes, as many as the end marker has: the marker is no part of the file.
    let mut held = BytesMut::new();
    // A longer file is another file, however it continues.
    while held != scripts::END_MARKER && length <= binary.length {
        let data = container.within(reader.stdout(), "the agent's binary could not be read back");
        let Some(data) = data.await? else { break };
        held.extend_from_slice(&data);
        let content = held.split_to(held.len().saturating_sub(scripts::END_MARKER.len()));
        digest.update(&content);
        length += content.len();
    }
    let same = held == scripts::END_MARKER && length == binary.length && digest.finalize()[..] == binary.sha256[..];
    let answer = if same {
        scripts::ANSWER_SAME
    } else {
        scripts::ANSWER_OTHER
    };
    // If the answer cannot be sent, the end of the exec gives the reason.
    let _ = container.deadline.wait_for(writer.stdin(answer)).await;
    if same {
        tracing::info!(
            pod = container.access.pod(),
            container = container.container.container,
            file,
            "agent was copied into the container"
        );
        return container.first_output(reader, writer).await;
    }
    if length > binary.length {
        let why = format!("{file} is larger than the agent that was written to it; does another process write there?");
        return Err(container.failure(Kind::Agent, &why));
    }
    // The end gives the reason. The script may have something left to print: the rest of what it was printing when the file was complete.
    let _ = container.deadline.wait_for(wait_for_end(container, &mut reader)).await;
    let difference = format!("{length} of the agent's {} bytes came to {file}", binary.length);
    Err(retry_failure(container, &reader, &difference))
}

fn retry_failure(container: &ContainerExec, reader: &Reader, what: &str) -> Failure {
    let why = format!("{what} ({}); try again", reader.end_reason());
    container.failure(Kind::Agent, &why).with_retry(reader.retry())
}
