//! How a connection comes to the agent: its Unix socket, the connections accepted there, the streams that a proxy hands over, and the
//! pod's own address. It knows nothing of gRPC.

pub(crate) mod connection;
pub(crate) mod direct;
pub(crate) mod handover;
pub(crate) mod listener;
pub(crate) mod socket;
