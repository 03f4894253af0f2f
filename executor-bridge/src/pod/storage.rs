//! Which directories of a container have a limit on their size, and which ones other containers can write to, as the pod's
//! specification says. The kubelet evicts a pod that exceeds a limit, so the file system's free space is not enough to know. Pure; `view` makes it, `link` asks it where an agent may go.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec, ResourceRequirements, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Directories of one container.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    mounts: Vec<Mount>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// Absolute path without a slash at the end; empty for the root.
    path: String,
    /// Bytes that the directory may hold; `None`: as many as fit.
    limit: Option<u64>,
    /// The directory is in memory, so the limit is on memory.
    in_memory: bool,
    /// A volume that ends with the pod.
    temporary: bool,
    /// Another container, or somebody outside of the pod, can write to it.
    shared: bool,
}

impl Storage {
    /// Returns the storage of every container of a pod, by the container's name.
    pub(super) fn of_pod(spec: &PodSpec) -> BTreeMap<String, Self> {
        let volumes = spec.volumes.as_deref().unwrap_or_default();
        let writers = Writers::new(spec);
        let init = spec.init_containers.iter().flatten();
        let usual = spec.containers.iter().chain(init).map(|container| {
            let Container {
                name,
                volume_mounts,
                resources,
                ..
            } = container;
            (
                name.clone(),
                Self::new(volumes, &writers, volume_mounts.as_deref(), resources.as_ref()),
            )
        });
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| {
            let EphemeralContainer {
                name, volume_mounts, ..
            } = container;
            (
                name.clone(),
                Self::new(volumes, &writers, volume_mounts.as_deref(), None),
            )
        });
        usual.chain(ephemeral).collect()
    }

    fn new(
        volumes: &[Volume],
        writers: &Writers<'_>,
        mounts: Option<&[VolumeMount]>,
        resources: Option<&ResourceRequirements>,
    ) -> Self {
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let limit = |name: &str| limits.and_then(|limits| bytes(limits.get(name)?));
        let (memory, disk) = (limit("memory"), limit("ephemeral-storage"));
        let mount = |path: &str, limit, in_memory, temporary, shared| Mount {
            path: path.trim_end_matches('/').to_owned(),
            limit,
            in_memory,
            temporary,
            shared,
        };
        // The runtime makes /dev and /dev/shm in memory, and all containers of a pod have one /dev/shm.
        let own = [
            mount("/", disk, false, false, false),
            mount("/dev", memory, true, false, false),
            mount("/dev/shm", memory, true, false, writers.containers > 1),
        ];
        let mounted = mounts.unwrap_or_default().iter().map(|mounted| {
            let volume = volumes.iter().find(|volume| volume.name == mounted.name);
            match volume.and_then(|volume| volume.empty_dir.as_ref()) {
                Some(directory) => {
                    let in_memory = directory.medium.as_deref().is_some_and(|medium| !medium.is_empty());
                    let shared = if in_memory { memory } else { disk };
                    let size = directory.size_limit.as_ref().and_then(bytes);
                    // A size of 0 is none.
                    let size = size.filter(|size| *size > 0);
                    let temporary = mounted.read_only != Some(true);
                    let limit = size.into_iter().chain(shared).min();
                    let shared = writers.of(&mounted.name) > 1;
                    mount(&mounted.mount_path, limit, in_memory, temporary, shared)
                }
                None => mount(&mounted.mount_path, None, false, false, true),
            }
        });
        Self {
            mounts: own.into_iter().chain(mounted).collect(),
        }
    }

    /// Returns the directories that may not hold so many bytes.
    pub(crate) fn too_small(&self, bytes: u64) -> impl Iterator<Item = &str> {
        self.paths(move |mount| mount.limit.is_some_and(|limit| limit < bytes))
    }

    /// Returns the other directories at which a file system is mounted.
    pub(crate) fn large_enough(&self, bytes: u64) -> impl Iterator<Item = &str> {
        self.paths(move |mount| mount.limit.is_none_or(|limit| limit >= bytes))
    }

    /// Returns the writable volumes that end with the pod.
    pub(crate) fn temporary(&self) -> impl Iterator<Item = &str> {
        self.paths(|mount| mount.temporary)
    }

    /// Returns the directories that others than this container can write to.
    pub(crate) fn shared(&self) -> impl Iterator<Item = &str> {
        self.paths(|mount| mount.shared)
    }

    /// Returns the smallest limit of a directory on a disk, in bytes.
    pub(crate) fn smallest_disk_limit(&self) -> Option<u64> {
        let on_disk = self.mounts.iter().filter(|mount| !mount.in_memory);
        on_disk.filter_map(|mount| mount.limit).min()
    }

    fn paths(&self, wanted: impl Fn(&Mount) -> bool) -> impl Iterator<Item = &str> {
        self.mounts
            .iter()
            .filter(move |mount| wanted(mount))
            .map(|mount| mount.path.as_str())
    }
}

/// Returns the words for an amount of memory that the API wrote, as the agent has them: `128 MiB`. What is no quantity stays as it is.
pub(super) fn shown(quantity: &str) -> String {
    match bytes(&Quantity(quantity.into())) {
        Some(bytes) => format!("{} MiB", bytes >> 20),
        None => quantity.to_owned(),
    }
}

/// Which containers of a pod run at the same time, and what they can write to. An init container has ended before, unless it is a sidecar.
struct Writers<'a> {
    containers: usize,
    /// Volume of each writable mount of each container.
    volumes: Vec<&'a str>,
}

impl<'a> Writers<'a> {
    fn new(spec: &'a PodSpec) -> Self {
        let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
        let usual = spec
            .containers
            .iter()
            .chain(sidecars)
            .map(|container| &container.volume_mounts);
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let ephemeral = ephemeral.map(|container| &container.volume_mounts);
        let mounts: Vec<_> = usual.chain(ephemeral).collect();
        let of_container = |mounts: &'a Option<Vec<VolumeMount>>| {
            let writable = mounts.iter().flatten().filter(|mount| mount.read_only != Some(true));
            // A container may mount a volume several times.
            writable.map(|mount| mount.name.as_str()).collect::<BTreeSet<_>>()
        };
        Self {
            containers: mounts.len(),
            volumes: mounts.into_iter().flat_map(of_container).collect(),
        }
    }

    /// Returns how many containers can write to a volume.
    fn of(&self, volume: &str) -> usize {
        self.volumes.iter().filter(|name| **name == volume).count()
    }
}

/// Returns the bytes of a quantity such as `5Mi`, `1.5G`, `1e6` or `128974848000m`; `None` if it is no quantity.
fn bytes(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.trim();
    let suffixes = [
        ("Ki", 1024f64),
        ("Mi", 1024f64.powi(2)),
        ("Gi", 1024f64.powi(3)),
        ("Ti", 1024f64.powi(4)),
        ("Pi", 1024f64.powi(5)),
        ("Ei", 1024f64.powi(6)),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let suffixed = suffixes
        .iter()
        .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|number| (number, *factor)));
    let (number, factor) = suffixed.unwrap_or((text, 1.0));
    let bytes = number.parse::<f64>().ok()? * factor;
    // The conversion stays in the range of the type.
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("5Mi", Some(5 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("12e6", Some(12_000_000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("128974848000m", Some(128_974_848)),
            ("4096", Some(4096)),
            ("100k", Some(100_000)),
            ("0", Some(0)),
            ("five", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(bytes(&Quantity(text.into())), expected, "{text:?}");
        }
    }

    /// Returns the directories of the container `a` that are too small for 20 MiB.
    fn too_small(spec: serde_json::Value) -> Vec<String> {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let storage = Storage::of_pod(&spec).remove("a").unwrap();
        let too_small: Vec<_> = storage.too_small(20 << 20).map(str::to_owned).collect();
        assert!(
            storage
                .large_enough(20 << 20)
                .all(|path| !too_small.contains(&path.to_owned()))
        );
        too_small
    }

    #[test]
    fn every_limit_on_a_directory_counts() {
        let pod = |volume: serde_json::Value, limits: serde_json::Value| {
            serde_json::json!({
                "containers": [{"name": "a", "resources": {"limits": limits},
                    "volumeMounts": [{"name": "v", "mountPath": "/tmp/"}, {"name": "p", "mountPath": "/data"}]}],
                "volumes": [{"name": "v", "emptyDir": volume}, {"name": "p", "persistentVolumeClaim": {"claimName": "c"}}]})
        };
        let none = serde_json::json!({});
        let disk = |limit: &str| serde_json::json!({"ephemeral-storage": limit});
        let memory = |limit: &str| serde_json::json!({"memory": limit});
        let size = |limit: &str| serde_json::json!({"sizeLimit": limit});
        for (volume, limits, expected) in [
            (none.clone(), none.clone(), &[][..]),
            (size("5Mi"), none.clone(), &["/tmp"]),
            (size("50Mi"), none.clone(), &[]),
            (size("0"), none.clone(), &[]),
            (none.clone(), disk("10Mi"), &["", "/tmp"]),
            (serde_json::json!({"medium": "Memory"}), disk("10Mi"), &[""]),
            (
                serde_json::json!({"medium": "Memory"}),
                memory("16Mi"),
                &["/dev", "/dev/shm", "/tmp"],
            ),
            (
                serde_json::json!({"medium": "Memory", "sizeLimit": "1Mi"}),
                none,
                &["/tmp"],
            ),
        ] {
            assert_eq!(
                too_small(pod(volume.clone(), limits.clone())),
                expected,
                "{volume} {limits}"
            );
        }
    }

    /// Each row: the other containers of the pod by kind with their mounts, the volume at /tmp, and the shared directories of the container.
    #[test]
    fn a_directory_is_shared_if_another_container_can_write_to_it() {
        let mounts = |read_only: bool| serde_json::json!([{"name": "v", "mountPath": "/x", "readOnly": read_only}]);
        let empty = serde_json::json!({"emptyDir": {}});
        for (kind, other, volume, expected) in [
            ("", serde_json::json!({}), empty.clone(), &[][..]),
            ("containers", serde_json::json!({}), empty.clone(), &["/dev/shm"]),
            (
                "containers",
                serde_json::json!({"volumeMounts": mounts(true)}),
                empty.clone(),
                &["/dev/shm"],
            ),
            (
                "containers",
                serde_json::json!({"volumeMounts": mounts(false)}),
                empty.clone(),
                &["/dev/shm", "/tmp"],
            ),
            (
                "ephemeralContainers",
                serde_json::json!({"volumeMounts": mounts(false)}),
                empty.clone(),
                &["/dev/shm", "/tmp"],
            ),
            (
                "initContainers",
                serde_json::json!({"volumeMounts": mounts(false)}),
                empty.clone(),
                &[],
            ),
            (
                "initContainers",
                serde_json::json!({"volumeMounts": mounts(false), "restartPolicy": "Always"}),
                empty,
                &["/dev/shm", "/tmp"],
            ),
            (
                "",
                serde_json::json!({}),
                serde_json::json!({"hostPath": {"path": "/x"}}),
                &["/tmp"],
            ),
            (
                "",
                serde_json::json!({}),
                serde_json::json!({"persistentVolumeClaim": {"claimName": "c"}}),
                &["/tmp"],
            ),
        ] {
            let own = serde_json::json!({"name": "a", "volumeMounts":
                [{"name": "v", "mountPath": "/tmp"}, {"name": "v", "mountPath": "/tmp", "subPath": "twice"}]});
            let mut spec = serde_json::json!({"containers": [own], "volumes": [volume]});
            spec["volumes"][0]["name"] = "v".into();
            if !kind.is_empty() {
                let mut other = other.clone();
                other["name"] = "b".into();
                let containers = spec[kind].as_array().cloned().unwrap_or_default();
                spec[kind] = [containers, vec![other]].concat().into();
            }
            let parsed: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            let storage = Storage::of_pod(&parsed).remove("a").unwrap();
            let mut shared: Vec<_> = storage.shared().collect();
            shared.dedup();
            assert_eq!(shared, expected, "{spec}");
        }
    }

    #[test]
    fn sidecars_and_ephemeral_containers_have_storage_too() {
        let mounts =
            serde_json::json!([{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/y", "readOnly": true}]);
        for kind in ["containers", "initContainers", "ephemeralContainers"] {
            let mut spec =
                serde_json::json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]});
            spec[kind] = serde_json::json!([{"name": "a", "volumeMounts": mounts}]);
            assert_eq!(too_small(spec.clone()), ["/x", "/y"]);
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let storage = Storage::of_pod(&spec).remove("a").unwrap();
            assert_eq!(storage.temporary().collect::<Vec<_>>(), ["/x"]);
            assert_eq!(storage.smallest_disk_limit(), Some(1 << 20));
        }
    }
}
