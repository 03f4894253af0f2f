//! `podbridge status`: prints the running bridges and the state of their links. Dials no link and starts no bridge.

use std::fmt::Write as _;
use std::io::Write as _;

use podbridge_proto::words::clean;

use crate::cli::{StatusOptions, TargetOptions};
use crate::client;
use crate::commands::bridge_of_pod;
use crate::error::Failure;
use crate::protocol::request::{Operation, Request};
use crate::protocol::result::{Done, Outcome};
use crate::report::{report_failure, say};

pub(super) fn run(target: TargetOptions, command: &StatusOptions) -> Result<u8, Failure> {
    let sockets = match &command.pod {
        Some(pod) => vec![bridge_of_pod::socket_of(target, pod)?],
        None => {
            let mut sockets = bridge_of_pod::all_of_build(&target);
            sockets.extend(bridge_of_pod::all_on_demand()?);
            sockets
        }
    };
    let (found, code) = client::runtime()?.block_on(async {
        let request = Request {
            container: None,
            operation: Operation::Status,
        };
        let (mut found, mut code) = (Vec::new(), 0);
        for socket in sockets {
            match client::ask(&socket, &request).await {
                Ok(Some(Outcome::Ok(done))) => found.push(done),
                Ok(_) => {}
                Err(failure) => code = report_failure(&failure),
            }
        }
        (found, code)
    });
    let text = if command.json {
        serde_json::to_string_pretty(&found).unwrap_or_default() + "\n"
    } else {
        found.iter().map(describe).collect()
    };
    // An error is ignored: it means that the reader has closed standard output.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if found.is_empty() && code == 0 && !command.json {
        say(&match &command.pod {
            Some(pod) => format!("no bridge runs for {pod} with these options"),
            None => "no bridge runs".into(),
        });
    }
    Ok(code)
}

/// Returns the lines for one bridge: the bridge, then each of its links.
fn describe(done: &Done) -> String {
    let mut text = String::new();
    let Some(bridge) = &done.bridge else { return text };
    let target = |key: &str| bridge.target.get(key).and_then(|value| value.as_str());
    let name = match target("namespace") {
        Some(namespace) => format!("{namespace}/{}", target("pod").unwrap_or("-")),
        None => target("pod").unwrap_or("-").to_owned(),
    };
    let context = target("context").map_or(String::new(), |context| format!(" of context {context}"));
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        text,
        "{name}{context}: bridge {} with pid {}, up {} s, {} operations",
        bridge.version, bridge.pid, bridge.uptime_s, bridge.operations
    );
    for link in done.links.iter().flatten() {
        let container = link.container.as_deref().unwrap_or("default container");
        let pod = link.pod.as_ref().map_or(String::new(), |pod| format!("pod {pod}, "));
        let _ = write!(
            text,
            "  {pod}{container}: {} for {} is {}",
            link.link, link.lane, link.state
        );
        if let Some(agent) = &link.agent {
            let _ = write!(text, ", agent {} as uid {}", clean(&agent.version), agent.uid);
        }
        if let Some(message) = &link.message {
            let _ = write!(text, " ({})", clean(message));
        }
        text.push('\n');
    }
    text
}
