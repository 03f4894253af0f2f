//! `podbridge stop`: ends bridges. What they run in the pod goes on.

use std::path::PathBuf;

use crate::cli::{StopOptions, TargetOptions};
use crate::client;
use crate::commands::{ask, said};
use crate::config::{self, Process};
use crate::error::{Failure, Kind};
use crate::protocol::request::{Operation, Request};
use crate::report::{conclude, say};
use crate::sockets::Directory;

pub(super) fn run(target: TargetOptions, command: StopOptions) -> Result<u8, Failure> {
    let directory = Directory::open()?;
    let sockets = match &command.pod {
        Some(pod) => vec![directory.files(&config::target(target, pod, &Process)?.key)?.socket],
        None => directory
            .sockets()
            .map_err(|error| Failure::new(Kind::Bridge, format!("the bridges cannot be listed: {error}")))?,
    };
    client::runtime()?.block_on(stop(sockets, command.pod.as_deref()))
}

async fn stop(sockets: Vec<PathBuf>, pod: Option<&str>) -> Result<u8, Failure> {
    let request = Request {
        container: None,
        operation: Operation::Stop,
    };
    let mut code = 0;
    for socket in sockets {
        match ask(&socket, &request).await {
            Ok(Some(outcome)) => code = code.max(conclude(&outcome)),
            Err(failure) => code = code.max(said(&failure)),
            // Nothing to end is what was asked for; say so where a name may be mistyped.
            Ok(None) => {
                if let Some(pod) = pod {
                    say(&format!("no bridge runs for {pod} with these options"));
                }
            }
        }
    }
    Ok(code)
}
