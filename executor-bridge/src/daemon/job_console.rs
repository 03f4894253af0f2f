//! The live log of a pod that a job made: the console stream at a loopback address of the pod's own, which the job chose (ADR 23). `run`
//! starts it in a bridge whose target names such an address.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::console::Console;
use crate::session::Session;

/// Pause before the next try to listen. The bridge before this one may still serve its last clients there.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Serves the console stream as soon as the address is free. Until then the bridge works without a live log: a job must not fail because of
/// a neighbour's address. Zuul asks for the log of a delegated task at the address of the pod that has it, so no other bridge is asked.
pub(super) fn start(address: SocketAddrV4, session: &Arc<Session>) {
    let console = Console::new(session.clone(), None);
    // Connect at once, so that the pod's logs are known when Zuul asks for the first.
    drop(session.reachability(None));
    tokio::spawn(async move {
        let mut refused = false;
        let listener = loop {
            // tokio sets SO_REUSEADDR, so that connections of an earlier bridge that wait for their end are not in the way.
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) if !refused => {
                    tracing::warn!(%address, %error, "no live log: cannot listen on the address of this pod");
                    refused = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        tracing::info!(%address, "the live log is served");
        console.serve(listener).await;
    });
}
