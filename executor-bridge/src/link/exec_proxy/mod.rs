//! The exec-proxy link: `pods/exec` of `podbridge-agent proxy`, whose standard streams are the pipe. Finds the agent in the
//! container, or brings it there (`bring`), in as few execs as it takes: one when it is there, three when it is not.

mod agent_binary;
mod exec_stream;
mod inject;
mod scripts;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use podbridge_proto::limits::PROXY_MAGIC;
use tokio::io::{DuplexStream, duplex, join};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use crate::error::{Failure, Kind};
pub(super) use crate::link::exec_proxy::agent_binary::Agents;
use crate::link::exec_proxy::agent_binary::Binary;
use crate::link::exec_proxy::exec_stream::{Reader, Writer};
use crate::link::exec_proxy::scripts::Report;
use crate::link::{Dialed, Handle, LinkName, Monitored, Start};
use crate::pod::{Access, ContainerRef, Fate};
use crate::protocol::target::{Target, hex};
use crate::random;

/// From HTTP/2 to the WebSocket: a message of stdin, while the one before it is being sent. It stays for as long as the link.
const PIPE: usize = 64 * 1024;
/// Messages from the WebSocket to HTTP/2, as they came (the API server's have 32 KiB).
const AHEAD: usize = 4;
/// Of what a program said instead of the magic line, for the message.
const SEEN: usize = 200;

pub(super) async fn dial(
    target: &Target,
    container: Option<&str>,
    start: Start,
    agents: &Arc<Agents>,
    limit: Duration,
) -> Result<Dialed, Failure> {
    let access = Access::open(target, limit).await?;
    let place = access.place(container).await?;
    let known = agents.clone();
    let binaries = spawn_blocking(move || known.find()).await.unwrap_or_default();
    let dial = Dial {
        access,
        place,
        limit,
        binaries,
    };
    let proxy = dial.proxy(start).await?;
    Ok(dial.pipe(proxy))
}

pub(super) async fn fate(target: &Target, place: &ContainerRef, limit: Duration) -> Result<Fate, Failure> {
    Access::open(target, limit).await?.fate(place).await
}

struct Dial {
    access: Access,
    place: ContainerRef,
    limit: Duration,
    binaries: Vec<Arc<Binary>>,
}

/// A program that said the magic line, and what came after it.
struct Proxy {
    reader: Reader,
    writer: Writer,
    rest: Bytes,
}

/// How a program began.
enum Greeting {
    Proxy(Proxy),
    Report(Report),
    NoProgram,
    /// Ended or said something else.
    Other(Failure),
}

impl Dial {
    async fn proxy(&self, start: Start) -> Result<Proxy, Failure> {
        let option = match start {
            Start::IfNeeded => "--start",
            Start::Never => "",
        };
        let tags: Vec<_> = self.binaries.iter().map(|binary| binary.tag()).collect();
        let random = hex(&random::bytes::<8>());
        let mut skip = ":".to_owned();
        loop {
            let mut find = vec!["sh", "-c", scripts::FIND, "sh", option, &random, &skip];
            find.extend(tags.iter().map(String::as_str));
            let report = match self.begin(&find).await? {
                Greeting::Proxy(proxy) => return Ok(proxy),
                Greeting::Report(report) => report,
                Greeting::NoProgram => return self.without_shell(start).await,
                Greeting::Other(failure) => return Err(failure),
            };
            if start == Start::Never {
                return Err(self.failure(Kind::Agent, "no agent is in it any more"));
            }
            let binary = self.binary_for(report.machine.as_deref())?;
            let Some(usable) = report.place else {
                return Err(self.nowhere(&report.refused, &skip));
            };
            match self.bring(&binary, &usable, &random).await {
                Ok(proxy) => return Ok(proxy),
                // It took the probe but not the whole binary: the next place may.
                Err(failure) if failure.kind == Kind::NoSpace => {
                    tracing::warn!(%failure, "the agent does not fit");
                    skip.push_str(&usable.base);
                    skip.push(':');
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Without a shell only an agent that is there already can help.
    async fn without_shell(&self, start: Start) -> Result<Proxy, Failure> {
        for program in ["podbridge-agent", "/opt/podbridge/podbridge-agent"] {
            let mut arguments = vec![program, "proxy"];
            if start == Start::IfNeeded {
                arguments.push("--start");
            }
            match self.begin(&arguments).await? {
                Greeting::Proxy(proxy) => return Ok(proxy),
                Greeting::NoProgram => {}
                Greeting::Other(failure) => return Err(failure),
                Greeting::Report(_) => return Err(self.failure(Kind::Agent, "its podbridge-agent is another program")),
            }
        }
        Err(self.failure(
            Kind::NoShell,
            "it has neither podbridge-agent nor a shell to bring it: add podbridge-agent to the image, or let an init \
             container run `podbridge-agent install /opt/podbridge` into a volume of both",
        ))
    }

    fn failure(&self, kind: Kind, why: &str) -> Failure {
        Failure::new(
            kind,
            format!("container {} of pod {}: {why}", self.place.container, self.access.pod()),
        )
    }

    fn nowhere(&self, refused: &[String], skip: &str) -> Failure {
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
        self.failure(
            Kind::NoSpace,
            &format!(
                "no directory can take the agent ({}): make room, or mount an emptyDir at /tmp",
                reasons.join("; ")
            ),
        )
    }

    fn binary_for(&self, machine: Option<&str>) -> Result<Arc<Binary>, Failure> {
        // Without `uname` the node is taken to be like this host.
        let wanted = machine.unwrap_or(std::env::consts::ARCH);
        let found = self.binaries.iter().find(|binary| binary.machine == wanted);
        found
            .cloned()
            .ok_or_else(|| self.failure(Kind::Agent, &agent_binary::none_for(Some(wanted), &self.binaries)))
    }

    async fn exec(&self, arguments: &[&str]) -> Result<(Reader, Writer), Failure> {
        let socket = self.access.exec(&self.place.container, arguments).await?;
        Ok(exec_stream::split(socket))
    }

    /// Runs a program until it is known what it is.
    async fn begin(&self, arguments: &[&str]) -> Result<Greeting, Failure> {
        let (reader, writer) = self.exec(arguments).await?;
        self.greeting(reader, writer).await
    }

    async fn greeting(&self, mut reader: Reader, writer: Writer) -> Result<Greeting, Failure> {
        let mut seen = BytesMut::new();
        let recognised = timeout(self.limit, async {
            loop {
                let data = reader.stdout().await?;
                seen.extend_from_slice(&data);
                if let Some(first) = recognise(&seen) {
                    return Some(first);
                }
            }
        });
        let recognised = recognised.await.map_err(|_| {
            self.failure(
                Kind::Timeout,
                &format!("its agent did not answer within {} s", self.limit.as_secs()),
            )
        })?;
        match recognised {
            Some(First::Magic) => {
                let rest = seen.split_off(PROXY_MAGIC.len()).freeze();
                Ok(Greeting::Proxy(Proxy { reader, writer, rest }))
            }
            Some(First::Report) => {
                let whole = async {
                    while let Some(data) = reader.stdout().await {
                        seen.extend_from_slice(&data)
                    }
                };
                let _ = timeout(self.limit, whole).await;
                let text = String::from_utf8_lossy(&seen[scripts::REPORT.len()..]).into_owned();
                Ok(Greeting::Report(Report::parse(&text)))
            }
            None if seen.is_empty() && reader.status().is_some_and(exec_stream::Status::no_such_program) => {
                Ok(Greeting::NoProgram)
            }
            Some(First::Other) => Ok(Greeting::Other(self.strange(&seen, &reader))),
            None => Ok(Greeting::Other(self.strange(&seen, &reader).with_retry(reader.retry()))),
        }
    }

    fn strange(&self, seen: &[u8], reader: &Reader) -> Failure {
        let said = String::from_utf8_lossy(&seen[..seen.len().min(SEEN)]);
        let said = match said.trim() {
            "" => String::new(),
            said => format!("it said {said:?} first; "),
        };
        // The agent's own sentence, if it is one.
        let stderr = reader.stderr();
        let own = stderr.lines().find_map(|line| line.strip_prefix("podbridge-agent: "));
        let why = match own {
            Some(sentence) => sentence.to_owned(),
            None => format!("its agent cannot be used: {said}{}", reader.epitaph()),
        };
        self.failure(Kind::Agent, &why)
    }

    fn pipe(self, proxy: Proxy) -> Dialed {
        let Proxy { reader, writer, rest } = proxy;
        let (near, from_bridge) = duplex(PIPE);
        let (to_bridge, from_pod) = mpsc::channel(AHEAD);
        let near = join(StreamReader::new(ReceiverStream::new(from_pod)), near);
        let handle = Handle::new(None);
        let downward = tokio::spawn(downward(reader, rest, to_bridge, handle.clone()));
        let upward = tokio::spawn(upward(from_bridge, writer));
        handle.owns(downward.abort_handle());
        handle.owns(upward.abort_handle());
        Dialed {
            pipe: Box::new(Monitored::new(near, handle.clone())),
            handle,
            place: Some(self.place),
            link: LinkName::ExecProxy,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum First {
    Magic,
    Report,
    Other,
}

/// Which of the first lines it is; `None` while it may become one of them.
fn recognise(seen: &[u8]) -> Option<First> {
    for (line, first) in [(PROXY_MAGIC.as_bytes(), First::Magic), (scripts::REPORT, First::Report)] {
        if seen.starts_with(line) {
            return Some(first);
        }
        if line.starts_with(seen) {
            return None;
        }
    }
    Some(First::Other)
}

/// From the pod to the bridge.
async fn downward(mut reader: Reader, rest: Bytes, to_bridge: mpsc::Sender<io::Result<Bytes>>, handle: Handle) {
    let mut data = Some(rest);
    while let Some(bytes) = data {
        if to_bridge.send(Ok(bytes)).await.is_err() {
            // The bridge has let go of the pipe.
            return;
        }
        data = reader.stdout().await;
    }
    // What ends with `to_bridge` is a dead link: HTTP/2 marks its own ends.
    handle.note_break(reader.epitaph());
}

/// From the bridge to the pod.
async fn upward(mut from_bridge: DuplexStream, mut writer: Writer) {
    loop {
        match writer.stdin_from(&mut from_bridge).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => return,
        }
    }
    // The proxy ends when its stdin does.
    let _ = writer.end_stdin().await;
    writer.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_what_it_is() {
        assert_eq!(recognise(b""), None);
        assert_eq!(recognise(b"podbridge-"), None);
        assert_eq!(recognise(b"podbridge-proxy/1"), None);
        assert_eq!(recognise(b"podbridge-proxy/1\nPRI"), Some(First::Magic));
        assert_eq!(recognise(b"podbridge-find/1\n"), Some(First::Report));
        assert_eq!(recognise(b"podbridge-proxy/2\n"), Some(First::Other));
        assert_eq!(recognise(b"Welcome!\n"), Some(First::Other));
    }
}
