//! The `Agent` service: versions, capabilities and identity of the agent; enrolment of bridges for direct links.

use podbridge_proto::limits::{CAPABILITIES, MAX_CHUNK, PROTOCOL_MAJOR};
use podbridge_proto::v1::agent_server::Agent;
use podbridge_proto::v1::{EnrollRequest, EnrollResponse, HelloRequest, HelloResponse, Limits};
use podbridge_tls::PublicKey;
use tonic::{Code, Request, Response, Status};

use super::convert::{refusal, require};
use crate::exec;
use crate::sys::container::ContainerName;
use crate::transport::direct::{DirectListener, Error};

/// Identity of the agent, as Hello answers it; made once at the start.
#[derive(Debug, Clone)]
pub(crate) struct Greeting {
    /// Id of this life of the agent.
    pub(crate) instance: String,
    /// Boot id of the host; empty if /proc is hidden.
    pub(crate) boot_id: String,
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    /// Pod and container of this agent; empty names if they are not known.
    pub(crate) container: ContainerName,
}

#[derive(Debug)]
pub(crate) struct AgentService {
    greeting: Greeting,
    listener: DirectListener,
}

impl AgentService {
    pub(crate) fn new(greeting: Greeting, listener: DirectListener) -> Self {
        Self { greeting, listener }
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let request = request.into_inner();
        let version = env!("CARGO_PKG_VERSION");
        if request.protocol_major != PROTOCOL_MAJOR {
            let text = format!(
                "agent {version} speaks protocol {PROTOCOL_MAJOR}, bridge {} speaks protocol {}; install the same release on both sides",
                request.version, request.protocol_major
            );
            return Err(refusal(Code::FailedPrecondition, &text));
        }
        require(&request.requires)?;
        let Greeting {
            instance,
            boot_id,
            uid,
            pid,
            container,
        } = self.greeting.clone();
        Ok(Response::new(HelloResponse {
            protocol_major: PROTOCOL_MAJOR,
            version: version.into(),
            capabilities: CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
            instance,
            boot_id,
            uid,
            limits: Some(Limits {
                max_chunk: MAX_CHUNK as u32,
                spool_bytes: exec::SPOOL_BYTES,
                max_execs: exec::MAX_EXECS as u32,
            }),
            pid,
            pod_uid: container.pod_uid,
            container: container.name,
        }))
    }

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let EnrollRequest { bridge_key, address } = request.into_inner();
        let key = PublicKey::try_from(bridge_key.to_vec());
        let key = key.map_err(|error| refusal(Code::InvalidArgument, &error.to_string()))?;
        let address = address
            .parse()
            .map_err(|_| refusal(Code::InvalidArgument, &format!("{address:?} is not an IP address")))?;
        let enrolment = self.listener.enroll(key, address).await.map_err(|error| {
            let code = match error {
                Error::NoPodAddress(_) => Code::InvalidArgument,
                Error::TooManyAddresses => Code::ResourceExhausted,
                Error::KeyGeneration(_) | Error::Tls(_) | Error::Listen { .. } => Code::FailedPrecondition,
            };
            refusal(code, &error.to_string())
        })?;
        Ok(Response::new(EnrollResponse {
            agent_key: enrolment.key.as_der().to_vec().into(),
            port: enrolment.port.into(),
        }))
    }
}
