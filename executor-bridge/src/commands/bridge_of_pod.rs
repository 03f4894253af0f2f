//! Finds the bridge of the pod that the options name. Starts no bridge. The subcommands use it.

use std::path::{Path, PathBuf};

use crate::cli::TargetOptions;
use crate::client::BridgeAddress;
use crate::config::{self, BridgeSettings};
use crate::env::{Environment as _, PODBRIDGE_TOKEN, Process};
use crate::error::{Failure, Kind};
use crate::protocol::object_name;
use crate::sockets::{self, Directory, PodReference, ZuulSlot};

/// Returns the address of the pod's bridge: the bridge in Zuul's slot if there is one and no other server or credentials are named, else
/// one on demand.
pub(super) fn bridge_address(
    options: TargetOptions,
    pod: &str,
    settings: BridgeSettings,
) -> Result<BridgeAddress, Failure> {
    let slot = slot(&options, pod)?;
    let target = config::target(options, pod, &Process);
    match slot {
        Some(slot) => Ok(BridgeAddress::Slot {
            socket: slot.socket,
            otherwise: target.ok().map(|target| (target, settings)),
        }),
        None => Ok(BridgeAddress::OnDemand {
            target: target?,
            options: settings,
        }),
    }
}

/// Returns the slot that serves the pod; `None` if it has none, or if the options ask for what a slot's bridge does not have.
fn slot(options: &TargetOptions, pod: &str) -> Result<Option<ZuulSlot>, Failure> {
    let reference = if let Some(file) = &options.target_file {
        PodReference::of_target(&config::target_of_file(file, pod)?.target)
    } else {
        let asks_for_more = options.server.is_some()
            || options.certificate_authority.is_some()
            || options.client_certificate.is_some()
            || options.client_key.is_some()
            || options.token_file.is_some()
            || options.insecure_skip_tls_verify == Some(false)
            || options.impersonate.is_some()
            || !options.impersonate_group.is_empty()
            || Process.variable(PODBRIDGE_TOKEN).is_some();
        (!asks_for_more).then(|| PodReference {
            kubeconfig: options.kubeconfig.clone().map(PathBuf::from),
            context: options.context.clone(),
            namespace: options.namespace.clone(),
            name: object_name::normalised(pod).to_owned(),
        })
    };
    Ok(reference.and_then(|reference| reference.served_slot(&Process)))
}

/// Returns the socket of the pod's bridge, whether or not it runs.
pub(super) fn socket_of(options: TargetOptions, pod: &str) -> Result<PathBuf, Failure> {
    match slot(&options, pod)? {
        Some(slot) => Ok(slot.socket),
        None => Ok(Directory::open()?
            .files(&config::target(options, pod, &Process)?.key)?
            .socket),
    }
}

/// Returns the sockets of all bridges that this user started on demand.
pub(super) fn all_on_demand() -> Result<Vec<PathBuf>, Failure> {
    Directory::open()?.sockets().map_err(|error| {
        Failure::new(
            Kind::Bridge,
            format!("the directory of the bridges cannot be read: {error}"),
        )
    })
}

/// Returns the sockets of the bridges of a Zuul build whose kubeconfig the options or the environment name; empty for another kubeconfig.
pub(super) fn all_of_build(options: &TargetOptions) -> Vec<PathBuf> {
    let reference = PodReference {
        kubeconfig: options.kubeconfig.clone().map(PathBuf::from),
        ..PodReference::default()
    };
    let directory = reference.kubeconfig(&Process).and_then(|file| {
        let path = config::absolute(&file, &Process).ok()?;
        Path::new(&path).parent().map(Path::to_owned)
    });
    let sockets = directory.map(|directory| sockets::slot_sockets(&directory).unwrap_or_default());
    let is_slot = |socket: &PathBuf| {
        let name = socket.file_name().unwrap_or_default().as_encoded_bytes();
        name.len() == 16 && name.iter().all(u8::is_ascii_hexdigit)
    };
    sockets.into_iter().flatten().filter(is_slot).collect()
}
