//! `podbridge stop`: ends bridges. Commands that they run in the pod continue there.

use std::path::PathBuf;

use crate::cli::{StopOptions, TargetOptions};
use crate::client;
use crate::commands::bridge_of_pod;
use crate::error::Failure;
use crate::protocol::request::{Operation, Request};
use crate::report::{conclude, report_failure, say};

pub(super) fn run(target: TargetOptions, command: StopOptions) -> Result<u8, Failure> {
    let sockets = match &command.pod {
        Some(pod) => vec![bridge_of_pod::socket_of(target, pod)?],
        None => bridge_of_pod::all_on_demand()?,
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
        match client::ask(&socket, &request).await {
            Ok(Some(outcome)) => code = code.max(conclude(&outcome)),
            Err(failure) => code = code.max(report_failure(&failure)),
            // Success, since no bridge runs. Say so for a single pod: its name may be mistyped.
            Ok(None) => {
                if let Some(pod) = pod {
                    say(&format!("no bridge runs for {pod} with these options"));
                }
            }
        }
    }
    Ok(code)
}
