//! Direct links: the agent opens a port when a bridge enrols, and serves enrolled bridges only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use podbridge_proto::limits::PROTOCOL_MAJOR;
use podbridge_proto::v1::agent_client::AgentClient;
use podbridge_proto::v1::exec_client::ExecClient;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::{EnrollRequest, EnrollResponse, HelloRequest, HelloResponse};
use podbridge_tls::{Identity, PublicKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::harness::{Agent, SHORT_IDLE, finish, run, shell, soon, until_an_idle_agent_has_ended};

/// Name for TLS, which nobody checks: the keys are what counts.
const NAME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Returns an address of this machine as a pod has one.
fn own_address() -> Ipv4Addr {
    let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap();
    let lines: Vec<_> = table.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL");
    let mut addresses = local.filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse::<Ipv4Addr>().ok());
    addresses
        .find(|address| !address.is_loopback())
        .expect("this machine has an address beside its loopback")
}

/// A bridge with the key and the address of its agent.
struct Bridge {
    identity: Identity,
    agent: PublicKey,
    address: SocketAddr,
}

impl Bridge {
    /// Returns a bridge that has enrolled.
    async fn enrolled(agent: &Agent) -> Self {
        let identity = Identity::new().unwrap();
        let answer = enroll(agent, identity.public_key().as_der(), &own_address().to_string())
            .await
            .unwrap();
        Self {
            identity,
            agent: PublicKey::try_from(answer.agent_key.to_vec()).unwrap(),
            address: SocketAddr::new(own_address().into(), answer.port.try_into().unwrap()),
        }
    }

    /// Connects and says Hello. A client's handshake ends before the server has checked its key: only the answer proves that the bridge is
    /// accepted.
    async fn connect(&self) -> Result<(Channel, HelloResponse), String> {
        let config = Arc::new(self.identity.client_config(self.agent.clone()).unwrap());
        let address = self.address;
        let connector = tower::service_fn(move |_| {
            let config = config.clone();
            async move {
                let socket = TcpStream::connect(address).await?;
                let stream = TlsConnector::from(config).connect(NAME.into(), socket).await?;
                io::Result::Ok(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://agent")
            .connect_with_connector(connector)
            .await;
        let channel = endpoint.map_err(|error| format!("{error:?}"))?;
        let hello = HelloRequest {
            protocol_major: PROTOCOL_MAJOR,
            version: "0".into(),
            requires: vec!["link.direct".into()],
        };
        let answer = AgentClient::new(channel.clone()).hello(hello).await;
        Ok((channel, answer.map_err(|status| format!("{status:?}"))?.into_inner()))
    }
}

async fn enroll(agent: &Agent, key: &[u8], address: &str) -> Result<EnrollResponse, tonic::Status> {
    let request = EnrollRequest {
        bridge_key: key.to_vec().into(),
        address: address.into(),
    };
    agent
        .hello()
        .await
        .enroll(request)
        .await
        .map(tonic::Response::into_inner)
}

/// Returns the addresses that the agent listens on, in the form of /proc/net/tcp.
fn ports(agent: &Agent) -> Vec<String> {
    let own: Vec<_> = std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| {
            link.to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap() + &std::fs::read_to_string("/proc/net/tcp6").unwrap();
    let listening = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else {
            return None;
        };
        (state == "0A" && own.iter().any(|own| own == inode)).then(|| local.to_owned())
    });
    listening.collect()
}

#[tokio::test]
async fn the_first_enrolment_opens_a_port_and_later_ones_share_it() {
    let agent = Agent::start();
    assert_eq!(ports(&agent), Vec::<String>::new());
    let first = Bridge::enrolled(&agent).await;
    let second = Bridge::enrolled(&agent).await;
    assert_eq!(first.address, second.address);
    assert_eq!(first.agent, second.agent);
    let address = own_address().to_bits().to_be();
    assert_eq!(ports(&agent), [format!("{address:08X}:{:04X}", first.address.port())]);
}

#[tokio::test]
async fn enrolled_bridges_are_served_like_clients_of_the_socket() {
    let agent = Agent::start();
    for bridge in [Bridge::enrolled(&agent).await, Bridge::enrolled(&agent).await] {
        let (channel, here) = bridge.connect().await.unwrap();
        let hello = HelloRequest {
            protocol_major: PROTOCOL_MAJOR,
            ..HelloRequest::default()
        };
        let there = agent.hello().await.hello(hello).await.unwrap().into_inner();
        assert_eq!(here.instance, there.instance);
        let command = "head -c 3000000 /dev/zero | tr '\\0' x; exit 7";
        let stream = ExecClient::new(channel).run(run(shell(command))).await.unwrap();
        let finished = finish(stream.into_inner()).await;
        assert_eq!(finished.cause(), Cause::Exited(7));
        assert_eq!(finished.stdout.len(), 3_000_000);
    }
}

#[tokio::test]
async fn clients_without_an_enrolled_key_are_refused() {
    let agent = Agent::start();
    let bridge = Bridge::enrolled(&agent).await;
    let stranger = Bridge {
        identity: Identity::new().unwrap(),
        ..Bridge::enrolled(&agent).await
    };
    stranger.connect().await.unwrap_err();
    // The bridge itself refuses an agent with another key.
    let mistaken = Bridge {
        agent: Identity::new().unwrap().public_key().clone(),
        identity: bridge.identity.clone(),
        address: bridge.address,
    };
    mistaken.connect().await.unwrap_err();
    // HTTP/2 without TLS.
    let mut plain = TcpStream::connect(bridge.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    // A TLS alert, and no HTTP/2 frame.
    assert!(answer.len() <= 7, "{answer:?}");
    bridge.connect().await.unwrap();
}

#[tokio::test]
async fn silent_connections_keep_bridges_out_for_a_few_seconds_only() {
    let agent = Agent::start();
    let bridge = Bridge::enrolled(&agent).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(bridge.address).await.unwrap());
    }
    let start = std::time::Instant::now();
    while bridge.connect().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "silent connections are kept");
        // Only another try shows whether the agent accepts again.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Connections above the limit were closed at once, the others after their timeout.
    for mut connection in silent {
        assert_eq!(connection.read(&mut [0]).await.unwrap_or(0), 0);
    }
    assert_eq!(agent.sh("echo here").await.stdout(), "here\n");
}

#[tokio::test]
async fn invalid_enrolments_are_refused_with_a_sentence() {
    let agent = Agent::start();
    let key = Identity::new().unwrap().public_key().as_der().to_vec();
    let refused = async |key: &[u8], address: &str| enroll(&agent, key, address).await.unwrap_err();
    let status = refused(b"key", &own_address().to_string()).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = refused(&key, "web").await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "\"web\" is not an IP address")
    );
    // TEST-NET-1: no host has this address.
    let status = refused(&key, "192.0.2.1").await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("cannot listen on 192.0.2.1"),
        "{}",
        status.message()
    );
    for address in [
        "0.0.0.0",
        "127.0.0.1",
        "127.8.8.8",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "::ffff:127.0.0.1",
    ] {
        let status = refused(&key, address).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{address}");
        assert!(
            status.message().contains("is no address of a pod"),
            "{address}: {}",
            status.message()
        );
    }
    assert_eq!(ports(&agent), Vec::<String>::new());
}

#[tokio::test]
async fn an_agent_with_a_direct_link_is_not_idle() {
    let mut agent = Agent::start_with(&["--idle", SHORT_IDLE]);
    let bridge = Bridge::enrolled(&agent).await;
    let (channel, _) = bridge.connect().await.unwrap();
    // It was started after this agent, and has the same idle time.
    until_an_idle_agent_has_ended().await;
    assert!(!agent.ended());
    drop(channel);
    // Waits without blocking the thread, because the connection is closed by tasks of this runtime.
    let ends = async {
        while !agent.ended() {
            // A process has no asynchronous wait here.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(ends).await;
}
