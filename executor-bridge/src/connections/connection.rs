//! One gRPC connection to one agent, on one link: its HTTP/2 settings, the first call Hello, and whether it is still alive. Dials nothing
//! itself. `endpoint` and `upgrade` open connections; operations of `session` call the agent on them.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use podbridge_proto::limits::{
    BASIC_CAPABILITIES, MAX_ANSWER, MAX_CAPABILITIES, MAX_EXEC_WINDOW, MAX_HELLO, MAX_HELLO_TEXT, PROTOCOL_MAJOR,
};
use podbridge_proto::v1::agent_client::AgentClient;
use podbridge_proto::v1::exec_client::ExecClient;
use podbridge_proto::v1::files_client::FilesClient;
use podbridge_proto::v1::logs_client::LogsClient;
use podbridge_proto::v1::{EnrollRequest, EnrollResponse, HelloRequest, HelloResponse};
use podbridge_proto::words::{clean, is_plain};
use podbridge_tls::PublicKey;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::connections::part_permits::PermitChannel;
use crate::connections::status;
use crate::error::{Failure, Kind, Retry, chain};
use crate::link::{DialedLink, Handle, LinkName, Pipe};
use crate::pod::ContainerRef;
use crate::protocol::result::Agent;

/// Use of a connection. Each container has one connection for each lane, so that no command waits behind a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Commands and logs: small messages, each of which a user waits for.
    Control,
    /// Files, trees and repositories: as many bytes as the link can carry.
    Bulk,
}

impl Lane {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Lane::Control => "control",
            Lane::Bulk => "bulk",
        }
    }

    /// Returns the fixed flow-control window of a stream, which is also the memory that one stalled stream can hold. For bulk it covers
    /// what is under way while sender and receiver wait for their processors: 8 MiB allow 800 MB/s at 10 ms. The agent keeps as much output
    /// for a reader that comes again, so a stream may be let go at any time.
    pub(crate) const fn stream_window(self) -> u32 {
        match self {
            Lane::Control => 512 << 10,
            Lane::Bulk => MAX_EXEC_WINDOW,
        }
    }

    /// Returns the flow-control window of the connection: the most that an agent can make the bridge hold on it. Streams of clients that
    /// stand still are let go before they fill it (`session/budget.rs`).
    const fn connection_window(self) -> u32 {
        match self {
            Lane::Control => 16 << 20,
            Lane::Bulk => 32 << 20,
        }
    }
}

/// Streams that the bridge has reset and h2 remembers for a second. Output that is still on its way for a forgotten one counts as an error
/// of the agent, and too many of them end the connection. The bridge resets a stream that stands still, or has no place for a message.
const REMEMBERED_STREAMS: usize = 2048;
/// Largest HTTP/2 frame that the agent may send.
const FRAME_SIZE: u32 = 256 << 10;
/// Time without incoming bytes after which a ping is sent, also while no call is open.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// hyper's limit for a pong; in effect never. hyper would end the connection for a late pong even while bytes move, so
/// `Handle::watch_silence` decides instead.
const PONG_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// A link counts as dead after this time without incoming bytes, if also nothing could be sent for `STALL_LIMIT`.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);
const STALL_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    pub(crate) handle: Handle,
    pub(crate) agent: Agent,
    capabilities: Vec<String>,
    /// Container of the agent; `None` for an agent outside Kubernetes.
    pub(crate) container: Option<ContainerRef>,
    pub(crate) lane: Lane,
    pub(crate) link: LinkName,
    /// Cancelled when a connection on a better link has replaced this one; this one then ends with its last call.
    pub(crate) superseded: CancellationToken,
}

/// Error of the second call of the connector: the only pipe has ended, and nothing of the new request was sent.
#[derive(Debug, thiserror::Error)]
#[error("the link has ended")]
pub(crate) struct NotSent;

impl Connection {
    /// Opens a connection on a dialled link, and waits at most `timeout` for the agent's Hello.
    pub(crate) async fn open(dialed: DialedLink, lane: Lane, timeout: Duration) -> Result<Self, Failure> {
        let DialedLink {
            pipe,
            handle,
            container,
            name: link,
        } = dialed;
        let opened = tokio::time::timeout(timeout, hello(pipe, lane)).await;
        let (channel, agent, capabilities, opened_in) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(failure)) => {
                let reason = handle.end_reason();
                handle.end("the agent did not answer Hello");
                return Err(match reason {
                    Some(reason) => Failure {
                        message: format!("{} ({reason})", failure.message),
                        retry: Retry::LinkCut,
                        ..failure
                    },
                    None => failure,
                });
            }
            Err(_) => {
                handle.end("the agent did not answer Hello");
                return Err(Failure::new(
                    Kind::Timeout,
                    format!("the agent did not answer within {} s", timeout.as_secs()),
                ));
            }
        };
        if let Some(wanted) = &container
            && let Err(failure) = check_container(wanted, &opened_in)
        {
            handle.end("it leads to another container");
            return Err(failure);
        }
        handle.watch_silence(SILENCE_LIMIT, STALL_LIMIT);
        Ok(Self {
            channel,
            handle,
            agent,
            capabilities,
            container,
            lane,
            link,
            superseded: CancellationToken::new(),
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.handle.end_reason().is_none()
    }

    /// Tells whether the agent has this capability (podbridge_proto::limits).
    pub(crate) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }

    /// Asks the agent to listen at this address for the bridge with this key (agent.proto).
    pub(crate) async fn enroll(&self, key: &PublicKey, address: IpAddr) -> Result<EnrollResponse, tonic::Status> {
        let request = EnrollRequest {
            bridge_key: key.as_der().to_vec().into(),
            address: address.to_string(),
        };
        let mut agent = AgentClient::new(self.channel.clone()).max_decoding_message_size(MAX_HELLO);
        let answer = agent.enroll(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) fn exec(&self) -> ExecClient<PermitChannel> {
        ExecClient::new(PermitChannel::new(self.channel.clone())).max_decoding_message_size(MAX_ANSWER)
    }

    pub(crate) fn logs(&self) -> LogsClient<Channel> {
        LogsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Returns the identity of the container. It changes when the container restarts.
    pub(crate) fn container_identity(&self) -> String {
        match &self.container {
            Some(container) => format!("{}/{}", container.pod_uid, container.container_id),
            // The part of the instance after the agent's random number: boot id and start time of PID 1.
            None => self
                .agent
                .instance
                .split_once('.')
                .map_or("", |(_, identity)| identity)
                .to_owned(),
        }
    }

    pub(crate) fn files(&self) -> FilesClient<PermitChannel> {
        FilesClient::new(PermitChannel::new(self.channel.clone())).max_decoding_message_size(MAX_ANSWER)
    }
}

/// Starts HTTP/2 on the pipe and makes the call Hello. Returns the channel, the agent, its capabilities and its container.
async fn hello(pipe: Box<dyn Pipe>, lane: Lane) -> Result<(Channel, Agent, Vec<String>, ServedContainer), Failure> {
    let once = Arc::new(Mutex::new(Some(pipe)));
    let connector = service_fn(move |_| {
        let pipe = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { pipe.map(TokioIo::new).ok_or(NotSent) }
    });
    let channel = Endpoint::from_static("http://podbridge-agent")
        .initial_stream_window_size(lane.stream_window())
        .initial_connection_window_size(lane.connection_window())
        .http2_max_concurrent_reset_streams(REMEMBERED_STREAMS)
        .max_frame_size(FRAME_SIZE)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PONG_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            Failure::new(
                Kind::Agent,
                format!("the agent does not speak HTTP/2: {}", chain(&error)),
            )
        })?;
    let version = env!("CARGO_PKG_VERSION");
    let request = HelloRequest {
        protocol_major: PROTOCOL_MAJOR,
        version: version.into(),
        requires: BASIC_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
    };
    let mut client = AgentClient::new(channel.clone()).max_decoding_message_size(MAX_HELLO);
    let answer = client.hello(request).await;
    let answer = answer.map_err(|status| match status.code() {
        // The agent's own sentence names both versions.
        Code::FailedPrecondition => Failure::new(Kind::Agent, clean(status.message())),
        Code::Unimplemented => Failure::new(
            Kind::Agent,
            format!("the program that answers is not a podbridge agent of this protocol; install release {version} of podbridge-agent"),
        ),
        _ => Failure::new(
            Kind::Agent,
            format!("the agent gave no answer: {}", status::reason(&status)),
        ),
    })?;
    let answer = answer.into_inner();
    check_texts(&answer)?;
    if answer.protocol_major != PROTOCOL_MAJOR {
        return Err(Failure::new(
            Kind::Agent,
            format!(
                "agent {} speaks protocol {}, bridge {version} speaks {PROTOCOL_MAJOR}; install the same release on both sides",
                answer.version, answer.protocol_major
            ),
        ));
    }
    if answer.instance.is_empty() {
        return Err(Failure::bug("the agent has no instance id"));
    }
    let agent = Agent {
        version: answer.version,
        uid: answer.uid,
        instance: answer.instance,
    };
    let container = ServedContainer {
        pod_uid: answer.pod_uid,
        name: answer.container,
    };
    Ok((channel, agent, answer.capabilities, container))
}

/// Refuses texts that no agent sends. They are kept as long as the connection, shown, and passed to every client.
fn check_texts(answer: &HelloResponse) -> Result<(), Failure> {
    let texts = [&answer.version, &answer.instance, &answer.pod_uid, &answer.container];
    let mut texts = texts.into_iter().chain(&answer.capabilities);
    if answer.capabilities.len() <= MAX_CAPABILITIES && texts.all(|text| is_plain(text, MAX_HELLO_TEXT)) {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Agent,
        format!(
            "the agent's greeting was refused: it has a text that is longer than {MAX_HELLO_TEXT} printable characters, or more than \
             {MAX_CAPABILITIES} capabilities; the program that answers in the container is not a released podbridge-agent"
        ),
    ))
}

/// Checks any bytes for `fuzzing`: what is kept of a greeting is short.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_greeting(answer: &[u8]) {
    use prost::Message as _;
    let Ok(answer) = HelloResponse::decode(answer) else {
        return;
    };
    if check_texts(&answer).is_ok() {
        let texts = [&answer.version, &answer.instance, &answer.pod_uid, &answer.container];
        let kept: usize = texts.into_iter().chain(&answer.capabilities).map(String::len).sum();
        assert!(kept <= (4 + MAX_CAPABILITIES) * MAX_HELLO_TEXT, "{kept}");
    }
}

/// Container that the agent serves, as Hello names it; each name is empty if the agent does not know it.
#[derive(Debug)]
struct ServedContainer {
    pod_uid: String,
    name: String,
}

/// Refuses an agent of another container than the one that the bridge asked for. Directories that containers and pods share can lead to
/// such an agent, and nothing may run there.
fn check_container(wanted: &ContainerRef, served: &ServedContainer) -> Result<(), Failure> {
    let ServedContainer { pod_uid, name } = served;
    let is_pod = pod_uid.is_empty() || *pod_uid == wanted.pod_uid || wanted.static_pod_uid.as_ref() == Some(pod_uid);
    let is_container = name.is_empty() || *name == wanted.container;
    if is_pod && is_container {
        return Ok(());
    }
    let other = if is_pod { "this pod" } else { "another pod" };
    Err(Failure::new(
        Kind::Agent,
        format!(
            "the agent that answers in container {} serves container {name} of {other} (UID {pod_uid}), so nothing was run: its socket is in \
             a directory that both containers share; give each container its own path with PODBRIDGE_AGENT_SOCKET, or leave the path to the agent",
            wanted.container
        ),
    ))
}

/// Tells whether a failed call was certainly never sent. `false`: the agent may have received it.
pub(crate) fn provably_not_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<NotSent>() {
            return true;
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // Cancelled: still in hyper's queue when the connection ended. Closed: never put into the queue.
            return error.is_canceled() || error.is_closed();
        }
        source = error.source();
    }
    false
}

/// Tells whether a call failed because its link broke. A status that the agent sent has no error source on our side.
pub(crate) fn is_broken_link(status: &tonic::Status, connection: &Connection) -> bool {
    std::error::Error::source(status).is_some() || !connection.is_alive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_that_no_agent_sends_is_refused() {
        let greeting = |change: fn(&mut HelloResponse)| {
            let mut answer = HelloResponse {
                version: "0.1.0".into(),
                instance: "a.b.1".into(),
                capabilities: vec!["exec.v1".into(); MAX_CAPABILITIES],
                ..HelloResponse::default()
            };
            change(&mut answer);
            check_texts(&answer).is_ok()
        };
        assert!(greeting(|_| {}));
        for wrong in [
            (|answer| answer.version = "x".repeat(MAX_HELLO_TEXT + 1)) as fn(&mut HelloResponse),
            |answer| answer.instance = "x".repeat(2 << 20),
            |answer| answer.instance = "a\nb".into(),
            |answer| answer.pod_uid = "\x1b]0;x\x07".into(),
            |answer| answer.container = "main\0".into(),
            |answer| answer.version = "\u{202e}".into(),
            |answer| answer.capabilities.push("one more".into()),
            |answer| answer.capabilities[0] = "\u{9b}".into(),
        ] {
            assert!(!greeting(wrong));
        }
    }

    #[test]
    fn an_agent_of_another_container_is_refused() {
        let wanted = ContainerRef {
            pod_uid: "uid".into(),
            static_pod_uid: Some("hash".into()),
            container: "main".into(),
            container_id: "containerd://1".into(),
            restarts: 0,
            address: None,
        };
        for (pod_uid, name, accepted) in [
            ("uid", "main", true),
            // A static pod.
            ("hash", "main", true),
            // The agent is older, or its container hides the names.
            ("", "", true),
            ("uid", "second", false),
            ("other", "main", false),
            ("other", "", false),
            ("", "second", false),
        ] {
            let served = ServedContainer {
                pod_uid: pod_uid.into(),
                name: name.into(),
            };
            assert_eq!(check_container(&wanted, &served).is_ok(), accepted, "{served:?}");
        }
    }
}
