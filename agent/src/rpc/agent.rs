//! `Agent.Hello`: versions, capabilities, identity.

use podbridge_proto::limits::{CAPABILITIES, MAX_CHUNK, PROTOCOL_MAJOR};
use podbridge_proto::v1::agent_server::Agent;
use podbridge_proto::v1::{HelloRequest, HelloResponse, Limits};
use tonic::{Request, Response, Status};

use super::convert::require;
use crate::exec;

/// What Hello answers; made once at start.
#[derive(Debug, Clone)]
pub(crate) struct Greeting {
    pub(crate) instance: String,
    pub(crate) boot_id: String,
    pub(crate) uid: u32,
    pub(crate) pid: u32,
}

#[derive(Debug)]
pub(crate) struct AgentService(pub(crate) Greeting);

#[tonic::async_trait]
impl Agent for AgentService {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        let request = request.into_inner();
        let version = env!("CARGO_PKG_VERSION");
        if request.protocol_major != PROTOCOL_MAJOR {
            return Err(Status::failed_precondition(format!(
                "agent {version} speaks protocol {PROTOCOL_MAJOR}, bridge {} speaks protocol {}; install the same release on both sides",
                request.version, request.protocol_major
            )));
        }
        require(&request.requires)?;
        let Greeting {
            instance,
            boot_id,
            uid,
            pid,
        } = self.0.clone();
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
        }))
    }
}
