//! Finds the bridge of the pod that the options name. Starts no bridge. The subcommands use it.

use std::path::PathBuf;

use crate::cli::TargetOptions;
use crate::client::BridgeAddress;
use crate::config::{self, BridgeSettings};
use crate::env::Process;
use crate::error::{Failure, Kind};
use crate::protocol::object_name;
use crate::sockets::{Directory, PodReference};

/// Returns the address of the pod's bridge: the bridge in Zuul's slot if there is one and no other server is named, else one on demand. A
/// slot's bridge has its own options for the API server.
pub(super) fn bridge_address(
    target: TargetOptions,
    pod: &str,
    options: BridgeSettings,
) -> Result<BridgeAddress, Failure> {
    let pod_reference = PodReference {
        kubeconfig: target.kubeconfig.clone().map(PathBuf::from),
        context: target.context.clone(),
        namespace: target.namespace.clone(),
        name: object_name::normalised(pod).to_owned(),
    };
    let other_server = target.server.is_some();
    match pod_reference.served_slot(&Process).filter(|_| !other_server) {
        Some(slot) => Ok(BridgeAddress::Slot(slot.socket)),
        None => Ok(BridgeAddress::OnDemand {
            target: config::target(target, pod, &Process)?,
            options,
        }),
    }
}

/// Returns the sockets of the bridges that the options name: the bridge of `pod`, or all bridges of this user.
pub(super) fn sockets(target: TargetOptions, pod: Option<&str>) -> Result<Vec<PathBuf>, Failure> {
    let directory = Directory::open()?;
    match pod {
        Some(pod) => Ok(vec![
            directory.files(&config::target(target, pod, &Process)?.key)?.socket,
        ]),
        None => directory.sockets().map_err(|error| {
            Failure::new(
                Kind::Bridge,
                format!("the directory of the bridges cannot be read: {error}"),
            )
        }),
    }
}
