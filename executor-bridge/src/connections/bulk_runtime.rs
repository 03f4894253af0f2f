//! The thread of the bulk connections. A thread that needs much processor time gets it late when others want it too, and no command or log
//! line may wait for that. `lane_connection` dials its bulk connections there.

use std::future::pending;
use std::io;
use std::sync::OnceLock;
use std::thread;

use tokio::runtime::{Builder, Handle};

/// The runtime of that thread. It starts with the first bulk connection, which most bridges never need, and ends with the process.
#[derive(Debug, Default)]
pub(crate) struct BulkRuntime(OnceLock<Handle>);

impl BulkRuntime {
    pub(crate) fn runtime(&self) -> Handle {
        let handle = self.0.get_or_init(|| {
            start().unwrap_or_else(|error| {
                tracing::warn!(%error, "no thread for bulk connections; they share that of commands and logs");
                Handle::current()
            })
        });
        handle.clone()
    }
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(pending::<()>());
    thread::Builder::new().name("bulk".into()).spawn(run)?;
    Ok(handle)
}
