//! Connections to the agent: its Unix socket, the listener on it, the streams that a proxy hands over, and the listener on the pod's own
//! address. It moves bytes and knows no message of the API; of tonic, it uses the trait `Connected` only, which the server asks for.

pub(crate) mod backlog;
pub(crate) mod choice;
pub(crate) mod connection;
pub(crate) mod direct;
mod entrance;
pub(crate) mod handover;
pub(crate) mod listener;
mod log_limit;
pub(crate) mod peer;
mod read_pace;
pub(crate) mod socket;
mod socket_directory;
