//! The event loop (Tokio runtime) of one client. Every command that talks to a bridge creates one.

use crate::error::{Failure, Kind};

/// Returns a new event loop that runs on the calling thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Internal, format!("the event loop cannot be created: {error}")))
}
