//! One gRPC connection to one agent, on one link: its settings, the Hello that begins it, and whether it still lives.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use podbridge_proto::limits::{BASIC_CAPABILITIES, MAX_MESSAGE, PROTOCOL_MAJOR};
use podbridge_proto::v1::agent_client::AgentClient;
use podbridge_proto::v1::exec_client::ExecClient;
use podbridge_proto::v1::files_client::FilesClient;
use podbridge_proto::v1::logs_client::LogsClient;
use podbridge_proto::v1::{EnrollRequest, EnrollResponse, HelloRequest};
use podbridge_tls::PublicKey;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::connections::status;
use crate::error::{Failure, Kind, Retry, chain};
use crate::link::{Dialed, Handle, LinkName, Pipe};
use crate::pod::ContainerRef;
use crate::protocol::result::Agent;

/// What travels on a connection; each container has one of either kind, so that no command waits behind a file (DESIGN §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Commands and logs: small, and somebody waits for each.
    Control,
    /// Files, trees and repositories: as much as the link can carry.
    Bulk,
}

impl Lane {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Lane::Control => "control",
            Lane::Bulk => "bulk",
        }
    }

    /// Flow control, fixed: a reader that stands still holds so much of its stream. For bulk it must cover the bandwidth of a
    /// link times its round trip: 8 MiB are 800 MB/s at 10 ms.
    fn stream_window(self) -> u32 {
        match self {
            Lane::Control => 1 << 20,
            Lane::Bulk => 8 << 20,
        }
    }
}

/// Never what stops a stream: each has a window of its own, and so many are never unread.
const CONNECTION_WINDOW: u32 = 1 << 30;
const FRAME: u32 = 256 << 10;
/// A ping when nothing came for so long, also while no call is open.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// hyper would end the connection for a late pong even while bytes move; `Handle::watch_silence` judges instead.
const PONG_PATIENCE: Duration = Duration::from_secs(24 * 3600);
const SILENCE: Duration = Duration::from_secs(45);
const STALL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    pub(crate) handle: Handle,
    pub(crate) agent: Agent,
    capabilities: Vec<String>,
    pub(crate) place: Option<ContainerRef>,
    pub(crate) lane: Lane,
    pub(crate) link: LinkName,
    /// There is a better one by now. This one lives for as long as calls on it do.
    pub(crate) superseded: CancellationToken,
}

/// The connector was asked a second time: the first pipe has ended, and nothing of the new request was sent.
#[derive(Debug, thiserror::Error)]
#[error("the link has ended")]
pub(crate) struct NotSent;

impl Connection {
    pub(crate) async fn open(dialed: Dialed, lane: Lane, timeout: Duration) -> Result<Self, Failure> {
        let Dialed {
            pipe,
            handle,
            place,
            link,
        } = dialed;
        let opened = tokio::time::timeout(timeout, hello(pipe, lane)).await;
        let (channel, agent, capabilities) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(failure)) => {
                let reason = handle.ended();
                handle.end("the agent did not say hello");
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
                handle.end("the agent did not say hello");
                return Err(Failure::new(
                    Kind::Timeout,
                    format!("the agent did not answer within {} s", timeout.as_secs()),
                ));
            }
        };
        handle.watch_silence(SILENCE, STALL);
        Ok(Self {
            channel,
            handle,
            agent,
            capabilities,
            place,
            lane,
            link,
            superseded: CancellationToken::new(),
        })
    }

    pub(crate) fn alive(&self) -> bool {
        self.handle.ended().is_none()
    }

    /// Whether the agent can do this (limits.rs).
    pub(crate) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }

    /// Has the agent listen at this address for whoever has this key (agent.proto).
    pub(crate) async fn enroll(&self, key: &PublicKey, address: IpAddr) -> Result<EnrollResponse, tonic::Status> {
        let request = EnrollRequest {
            bridge_key: key.as_der().to_vec().into(),
            address: address.to_string(),
        };
        let answer = AgentClient::new(self.channel.clone()).enroll(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) fn exec(&self) -> ExecClient<Channel> {
        ExecClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn logs(&self) -> LogsClient<Channel> {
        LogsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Which machine it is: another one after its container was restarted.
    pub(crate) fn container_identity(&self) -> String {
        match &self.place {
            Some(place) => format!("{}/{}", place.pod_uid, place.container_id),
            // Behind the agent's own random part: boot id and start of PID 1.
            None => self
                .agent
                .instance
                .split_once('.')
                .map_or("", |(_, machine)| machine)
                .to_owned(),
        }
    }

    pub(crate) fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

async fn hello(pipe: Box<dyn Pipe>, lane: Lane) -> Result<(Channel, Agent, Vec<String>), Failure> {
    let once = Arc::new(Mutex::new(Some(pipe)));
    let connector = service_fn(move |_| {
        let pipe = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { pipe.map(TokioIo::new).ok_or(NotSent) }
    });
    let channel = Endpoint::from_static("http://podbridge-agent")
        .initial_stream_window_size(lane.stream_window())
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PONG_PATIENCE)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::new(Kind::Agent, format!("the agent speaks no HTTP/2: {}", chain(&error))))?;
    let version = env!("CARGO_PKG_VERSION");
    let request = HelloRequest {
        protocol_major: PROTOCOL_MAJOR,
        version: version.into(),
        requires: BASIC_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
    };
    let answer = AgentClient::new(channel.clone()).hello(request).await;
    let answer = answer.map_err(|status| match status.code() {
        // The agent's own sentence names both versions.
        Code::FailedPrecondition => Failure::new(Kind::Agent, status.message()),
        Code::Unimplemented => Failure::new(
            Kind::Agent,
            format!("the agent is no podbridge agent of this protocol; install release {version} of it"),
        ),
        _ => Failure::new(
            Kind::Agent,
            format!("the agent gave no answer: {}", status::reason(&status)),
        ),
    })?;
    let answer = answer.into_inner();
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
    Ok((channel, agent, answer.capabilities))
}

/// Whether a failed call can have reached the agent, or was never sent.
pub(crate) fn provably_not_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<NotSent>() {
            return true;
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // Cancelled: still in our queue when the connection ended. Closed: never taken into it.
            return error.is_canceled() || error.is_closed();
        }
        source = error.source();
    }
    false
}

/// An agent's own answer has no cause on our side; a broken connection has one.
pub(crate) fn is_broken_link(status: &tonic::Status, connection: &Connection) -> bool {
    std::error::Error::source(status).is_some() || !connection.alive()
}
