//! Which bridge serves the pod that a command names. The commands ask it.

use std::path::PathBuf;

use crate::cli::TargetOptions;
use crate::client::BridgeAddress;
use crate::config::{self, BridgeSettings};
use crate::env::Process;
use crate::error::{Failure, Kind};
use crate::sockets::{Directory, PodReference};

/// The bridge of a pod: the one in Zuul's slot, which knows itself how to reach it, unless another server is named.
pub(super) fn bridge_address(
    target: TargetOptions,
    pod: &str,
    options: BridgeSettings,
) -> Result<BridgeAddress, Failure> {
    let reference = PodReference {
        kubeconfig: target.kubeconfig.clone().map(PathBuf::from),
        context: target.context.clone(),
        namespace: target.namespace.clone(),
        name: pod.to_owned(),
    };
    let other_server = target.server.is_some();
    match reference.served_slot(&Process).filter(|_| !other_server) {
        Some(slot) => Ok(BridgeAddress::Slot(slot.socket)),
        None => Ok(BridgeAddress::OnDemand {
            target: config::target(target, pod, &Process)?,
            options,
        }),
    }
}

/// The sockets of the bridges that these options name: the one of `pod`, or all of this user's.
pub(super) fn sockets(target: TargetOptions, pod: Option<&str>) -> Result<Vec<PathBuf>, Failure> {
    let directory = Directory::open()?;
    match pod {
        Some(pod) => Ok(vec![
            directory.files(&config::target(target, pod, &Process)?.key)?.socket,
        ]),
        None => directory
            .sockets()
            .map_err(|error| Failure::new(Kind::Bridge, format!("the bridges cannot be listed: {error}"))),
    }
}
