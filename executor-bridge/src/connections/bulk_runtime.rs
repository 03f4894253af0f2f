//! The thread of the connections for what is large. Whoever needs the processor much gets it late when others want it too, and no
//! command or line of a log shall wait with them (DESIGN §6).

use std::future::pending;
use std::io;
use std::sync::OnceLock;
use std::thread;

use tokio::runtime::{Builder, Handle};

/// Begun when it is first needed, as most bridges never do; it ends with the process.
#[derive(Debug, Default)]
pub(crate) struct BulkRuntime(OnceLock<Handle>);

impl BulkRuntime {
    pub(crate) fn runtime(&self) -> Handle {
        let begun = self.0.get_or_init(|| {
            begin().unwrap_or_else(|error| {
                tracing::warn!(%error, "no thread for what is large; it shares that of commands and logs");
                Handle::current()
            })
        });
        begun.clone()
    }
}

fn begin() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(pending::<()>());
    thread::Builder::new().name("bulk".into()).spawn(run)?;
    Ok(handle)
}
