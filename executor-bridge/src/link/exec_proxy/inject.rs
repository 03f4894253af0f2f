//! Bringing the agent into a container that has none: written, read back, and run only if it is the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::error::{Failure, Kind};
use crate::link::exec_proxy::agent_binary::Binary;
use crate::link::exec_proxy::exec_stream::{CHUNK, Reader};
use crate::link::exec_proxy::scripts::{self, Usable};
use crate::link::exec_proxy::{Dial, Greeting, Proxy};

impl Dial {
    /// Writes, compares, starts.
    pub(super) async fn bring(&self, binary: &Arc<Binary>, usable: &Usable, random: &str) -> Result<Proxy, Failure> {
        let file = format!("{}/podbridge-agent-{}.{random}", usable.place, binary.tag());
        let socket = format!("{}/agent-{}.sock", usable.socket, binary.short_digest());
        self.write(binary, &file).await?;
        match self.start(binary, &file, &socket).await? {
            Greeting::Proxy(proxy) => Ok(proxy),
            Greeting::Other(failure) => Err(failure),
            Greeting::NoProgram | Greeting::Report(_) => Err(self.failure(
                Kind::Agent,
                &format!(
                    "the agent that was brought to {file} cannot be started; is {} its machine?",
                    binary.machine
                ),
            )),
        }
    }

    async fn write(&self, binary: &Arc<Binary>, file: &str) -> Result<(), Failure> {
        let (mut reader, mut writer) = self.exec(&["sh", "-c", scripts::WRITE, "sh", file]).await?;
        if !writer.can_end_stdin() {
            return Err(self.failure(
                Kind::Agent,
                "the API server cannot tell a command that its input has ended (it is older than 1.30), so no agent can be \
                 brought; add podbridge-agent to the image",
            ));
        }
        let own = binary.clone();
        let content = spawn_blocking(move || own.content()).await.ok().flatten();
        let content = content.ok_or_else(|| {
            let path = binary.path.display();
            self.failure(
                Kind::Agent,
                &format!("{path} was replaced while it was brought; try again"),
            )
        })?;
        let sent = Arc::new(AtomicUsize::new(0));
        let sent_by_task = sent.clone();
        // Its own task: `cat` may say why it stops before it has read all.
        let sending = tokio::spawn(async move {
            for chunk in content.chunks(CHUNK) {
                if writer.stdin(chunk).await.is_err() {
                    return;
                }
                sent_by_task.fetch_add(chunk.len(), Ordering::Relaxed);
            }
            // Without this the file would have no end.
            let _ = writer.end_stdin().await;
            // The socket must not be closed before the answer has come.
            std::future::pending::<()>().await;
        });
        let ended = async {
            let mut sent_before = 0;
            loop {
                match timeout(self.limit, reader.stdout()).await {
                    // What a shell has to say.
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(()),
                    // A slow link is no dead one.
                    Err(_) if sent.load(Ordering::Relaxed) > sent_before => {
                        sent_before = sent.load(Ordering::Relaxed);
                    }
                    Err(_) => {
                        return Err(self.failure(Kind::Timeout, "the agent's binary could not be sent in time"));
                    }
                }
            }
        };
        let ended = ended.await;
        sending.abort();
        ended?;
        match reader.status() {
            Some(status) if status.success() => Ok(()),
            Some(status) if status.exit_code().is_some() => Err(self.failure(
                Kind::NoSpace,
                &format!("the agent cannot be written to {file} ({})", reader.epitaph()),
            )),
            _ => Err(self.cut(&reader, &format!("the agent could not be brought to {file}"))),
        }
    }

    /// Reads back what was written, and has it run if it is the same.
    async fn start(&self, binary: &Binary, file: &str, socket: &str) -> Result<Greeting, Failure> {
        let (mut reader, mut writer) = self.exec(&["sh", "-c", scripts::START, "sh", file, socket]).await?;
        let (mut digest, mut length) = (Sha256::new(), 0);
        // As long as the end, which is no part of the file.
        let mut held = BytesMut::new();
        while held != scripts::END {
            let data = timeout(self.limit, reader.stdout())
                .await
                .map_err(|_| self.failure(Kind::Timeout, "the agent's binary could not be read back in time"))?;
            let Some(data) = data else { break };
            held.extend_from_slice(&data);
            let content = held.split_to(held.len().saturating_sub(scripts::END.len()));
            digest.update(&content);
            length += content.len();
        }
        let same = held == scripts::END && length == binary.length && digest.finalize()[..] == binary.sha256[..];
        let answer = if same { scripts::SAME } else { scripts::OTHER };
        // If it cannot be told, its end says why.
        let _ = writer.stdin(answer).await;
        if same {
            tracing::info!(
                pod = self.access.pod(),
                container = self.place.container,
                file,
                "agent was brought"
            );
            return self.greeting(reader, writer).await;
        }
        while let Ok(Some(_)) = timeout(self.limit, reader.stdout()).await {}
        let came = format!("the agent came to {file} with {length} of {} bytes", binary.length);
        Err(self.cut(&reader, &came))
    }

    fn cut(&self, reader: &Reader, what: &str) -> Failure {
        let why = format!("{what} ({}); try again", reader.epitaph());
        self.failure(Kind::Agent, &why).with_retry(reader.retry())
    }
}
