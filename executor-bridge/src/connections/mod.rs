//! gRPC connections to the agents of one pod: one for each container and lane. Dials them on first use, shares them, moves them to a direct
//! link, recovers them after a break, and keeps them alive for Zuul. May not know any operation: `session` asks for a connection and
//! calls the agent on it.

mod bulk_runtime;
mod connection;
mod container;
mod direct_route;
mod endpoint;
mod keep_alive;
mod lane_connection;
mod part_permits;
pub(crate) mod recovery;
pub(crate) mod status;
mod upgrade;

pub(crate) use bulk_runtime::BulkRuntime;
#[cfg(any(test, fuzzing))]
pub(crate) use connection::check_greeting;
pub(crate) use connection::{Connection, Lane, is_broken_link, provably_not_sent};
pub(crate) use container::Container;
pub(crate) use keep_alive::{KeepAlive, Reachability};
pub(crate) use part_permits::{PermitChannel, permitted};
