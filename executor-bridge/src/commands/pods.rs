//! `podbridge pods`: lists pods and their containers, as JSON for programs such as the inventory plugin, or as a table.
//! Starts no bridge.

use std::io::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::cli::{ListFormat, PodsOptions, TargetOptions};
use crate::client;
use crate::config::{self, BridgeSettings};
use crate::env::Process;
use crate::error::{Failure, Kind};
use crate::pod::{Access, ListedPod, PodSelection, Resolution};
use crate::protocol::target::{LinkChoice, Target};

/// A target names a pod; here its name has no meaning.
const ANY_POD: &str = "pods";

pub(super) fn run(options: TargetOptions, settings: BridgeSettings, command: &PodsOptions) -> Result<u8, Failure> {
    let target = config::target(options, ANY_POD, &Process)?.target;
    if target.link() == LinkChoice::Local {
        return Err(Failure::usage("the link local has no API server that could list pods"));
    }
    let selection = PodSelection {
        all_namespaces: command.all_namespaces,
        labels: command.selector.as_deref(),
        fields: command.field_selector.as_deref(),
    };
    let (server, pods) = client::runtime()?.block_on(list(&target, settings.connect_timeout, selection))?;
    let text = match command.output {
        Some(ListFormat::Json) => json!({"server": server, "pods": pods}).to_string() + "\n",
        None => table(&pods),
    };
    // An error is ignored: it means that the reader has closed standard output.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}

/// Lists with podbridge's own client of the API server, and with the stock kubectl where that client cannot read the
/// kubeconfig. Returns the URL of the server, too.
async fn list(
    target: &Target,
    limit: Duration,
    selection: PodSelection<'_>,
) -> Result<(String, Vec<ListedPod>), Failure> {
    let resolution = Resolution::read(target)?;
    let access = if target.link() == LinkChoice::Kubectl {
        Access::open_kubectl(target, &resolution, limit)?
    } else {
        match Access::open(target, &resolution, limit).await {
            Err(failure) if failure.kind == Kind::Kubeconfig && target.link() == LinkChoice::Auto => {
                Access::open_kubectl(target, &resolution, limit).map_err(|_| failure)?
            }
            opened => opened?,
        }
    };
    Ok((access.server().to_owned(), access.list(selection).await?))
}

/// Returns one line for each container.
fn table(pods: &[ListedPod]) -> String {
    let mut rows = vec![["NAMESPACE", "POD", "CONTAINER", "STATE"]];
    for pod in pods {
        for container in &pod.containers {
            let state = container.state.unwrap_or(&pod.phase);
            rows.push([&pod.namespace, &pod.name, &container.name, state]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    let line = |row: &[&str; 4]| {
        let [a, b, c, d] = row;
        let [x, y, z] = widths;
        format!("{a:x$}   {b:y$}   {c:z$}   {d}\n")
    };
    rows.iter().map(line).collect()
}
