//! Which container this process is in, as far as the process itself can tell: its mount namespace, which no two containers share, and
//! the names that the kubelet gave to the directories on the node. Reads /proc alone. `transport` and `app` call it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use super::proc;

/// Characters of the boot id that are part of a container's id.
const BOOT_ID_PREFIX: usize = 8;

/// Returns an id of this container for names of sockets: it differs from that of every other container that lives on any node.
/// `None` where /proc is hidden.
pub(crate) fn id() -> Option<String> {
    let namespace = mount_namespace("self").ok()?;
    Some(format!("{}{namespace:x}", id_prefix()))
}

/// Returns the beginning that the ids of all containers have on this node, since its kernel was started.
pub(crate) fn id_prefix() -> String {
    let boot_id = proc::boot_id();
    format!("{}-", boot_id.get(..BOOT_ID_PREFIX).unwrap_or("0"))
}

/// Tells whether a process is in the same container as this process. `Err`: /proc does not tell, for example because it is hidden.
pub(crate) fn is_same(pid: i32) -> io::Result<bool> {
    let own = mount_namespace("self")?;
    match mount_namespace(&pid.to_string()) {
        Ok(namespace) => Ok(namespace == own),
        // The kernel shows the namespaces of a process with more rights to nobody. Everybody may read its control groups, and no two
        // containers have the same ones.
        Err(_) => Ok(fs::read(format!("/proc/{pid}/cgroup"))? == fs::read("/proc/self/cgroup")?),
    }
}

/// Returns the number of the mount namespace of a process.
fn mount_namespace(process: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{process}/ns/mnt"))?.ino())
}

/// The container as the kubelet names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerName {
    pub(crate) pod_uid: String,
    pub(crate) name: String,
}

/// Returns the names of this container; empty ones outside Kubernetes, and under a runtime that hides the node's directories.
pub(crate) fn name() -> ContainerName {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    find_name(&String::from_utf8_lossy(&mounts))
}

/// Finds `…/pods/UID/containers/NAME/FILE`, the file that the kubelet mounts into each container for its last words (usually at
/// /dev/termination-log). Several different names are no answer: a container may mount the directories of others.
fn find_name(mounts: &str) -> ContainerName {
    let mut found = ContainerName::default();
    for line in mounts.lines() {
        // Fields: id, parent, device, root, mount point, …
        let Some(root) = line.split(' ').nth(3) else { continue };
        let mut parts = root.rsplit('/');
        let (Some(_file), Some(name), Some("containers"), Some(pod_uid), Some("pods")) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let candidate = ContainerName {
            pod_uid: pod_uid.into(),
            name: name.into(),
        };
        if found != ContainerName::default() && found != candidate {
            return ContainerName::default();
        }
        found = candidate;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "b32d2cfd-b0a8-4a3a-8f3a-1d2b0c7e55aa";

    fn mount(root: &str, point: &str) -> String {
        format!("711 690 252:0 {root} {point} rw,relatime - ext4 /dev/vda rw\n")
    }

    #[test]
    fn the_container_is_named_by_the_file_for_its_last_words() {
        let base = format!("/var/lib/kubelet/pods/{UID}");
        let other = base.replace("b32d", "ffff");
        let log = |base: &str, name: &str| mount(&format!("{base}/containers/{name}/0a1b2c3d"), "/dev/termination-log");
        let volumes = mount(&format!("{base}/volumes/kubernetes.io~empty-dir/tmp"), "/tmp")
            + &mount(&format!("{base}/etc-hosts"), "/etc/hosts");
        let main = ContainerName {
            pod_uid: UID.into(),
            name: "main".into(),
        };
        let cases = [
            (log(&base, "main"), main.clone()),
            (volumes.clone() + &log(&base, "main"), main.clone()),
            // The kubelet's directory is a file system of its own.
            (log(&format!("/pods/{UID}"), "main"), main.clone()),
            (
                log(&base, "main") + &mount(&format!("{base}/containers/main/ffff"), "/log"),
                main,
            ),
            (volumes, ContainerName::default()),
            (log(&base, "main") + &log(&other, "main"), ContainerName::default()),
            (log(&base, "main") + &log(&base, "second"), ContainerName::default()),
            ("broken line\n\n".into(), ContainerName::default()),
        ];
        for (mounts, expected) in cases {
            assert_eq!(find_name(&mounts), expected, "{mounts}");
        }
    }

    #[test]
    fn a_child_is_in_the_same_container_and_one_with_other_mounts_is_not() {
        let own = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let sleep = ["--user", "--map-root-user", "--mount", "sleep", "30"];
        let other = std::process::Command::new("unshare").args(sleep).spawn().unwrap();
        let differs = || matches!(is_same(other.id() as i32), Ok(false));
        let started = std::time::Instant::now();
        while !differs() && started.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let result = (is_same(own.id() as i32).ok(), differs());
        for mut child in [own, other] {
            let _ = child.kill();
            let _ = child.wait();
        }
        assert_eq!(result, (Some(true), true));
        assert!(id().unwrap().starts_with(&id_prefix()));
    }
}
