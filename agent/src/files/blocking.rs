//! Runs the blocking calls of this module on tokio's threads for blocking work. `rpc::files` and `content_writer` call it.

use tokio::task::spawn_blocking;

use super::Error;

/// Runs `call` on a thread that may block and returns its result; a panic in it becomes `Error::Panicked`.
pub async fn run_blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(call).await.unwrap_or(Err(Error::Panicked))
}
