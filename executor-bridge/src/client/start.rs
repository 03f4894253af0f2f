//! Starts the bridge of a target if none serves it. `bridge_address` and the command `bridge` call it.

use std::path::PathBuf;

use crate::client::token::{self, TokenSearch};
use crate::config::BridgeSettings;
use crate::error::Failure;
use crate::launch;
use crate::protocol::target::KeyedTarget;
use crate::sockets::Directory;

/// Finds or starts the bridge of a target; returns the path of its socket. `json` is the target as the client wrote it.
pub(crate) async fn find_or_start(
    target: &KeyedTarget,
    json: &[u8],
    options: BridgeSettings,
) -> Result<PathBuf, Failure> {
    let directory = Directory::open()?;
    let files = directory.files(&target.key)?;
    match token::search(target, &directory).await? {
        None => launch::find_or_start(target, json, options),
        Some(TokenSearch::Adopted) => Ok(files.socket),
        Some(TokenSearch::NewUser(registration)) => {
            let socket = launch::find_or_start(target, json, options)?;
            registration.register(&files)?;
            Ok(socket)
        }
    }
}
