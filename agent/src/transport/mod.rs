//! How a connection comes to the agent: its Unix socket, the connections accepted there, and the streams that a proxy hands over. It
//! knows nothing of gRPC.

pub(crate) mod connection;
pub(crate) mod handover;
pub(crate) mod socket;
