//! The place of one pod's bridge beside Zuul's kubeconfig: its socket is named by server, namespace and pod, so that the
//! bridge and every client find it by what their options resolve to. Waits while Zuul rewrites the kubeconfig; makes no file
//! and dials nothing. `port_forward` listens there, `exec` connects.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::config;
use crate::env::{self, Environment, KUBECONFIG};
use crate::error::{Failure, Kind};
use crate::pod::{self, Identity};
use crate::protocol::object_name;
use crate::protocol::target::{self, LinkChoice, Target};
use crate::sockets::directory::SOCKET_PATH_MAX;

/// Zuul truncates and writes the kubeconfig again for each node that it adds.
const REWRITE: Duration = Duration::from_secs(2);
const REWRITE_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct ZuulSlot {
    /// With the context and namespace that were resolved: the file's current context may change.
    pub(crate) target: Target,
    pub(crate) socket: PathBuf,
    /// Absolute.
    pub(crate) kubeconfig: PathBuf,
}

impl ZuulSlot {
    pub(crate) fn locate(
        kubeconfig: &Path,
        pod: &PodReference,
        environment: &impl Environment,
    ) -> Result<Self, Failure> {
        let path = config::absolute(kubeconfig, environment)?;
        let kubeconfig = PathBuf::from(&path);
        let (link, agent_socket) = config::link(None, None, environment)?;
        let (context, namespace) = (pod.context.as_deref(), pod.namespace.as_deref());
        let identity = match settled(&kubeconfig, context, namespace) {
            Ok(identity) => identity,
            Err(_) if link == Some(LinkChoice::Local) => Identity::without_server(context, namespace),
            Err(failure) => return Err(failure),
        };
        let target = Target {
            pod: Some(pod.name.clone()),
            namespace: Some(identity.namespace.clone()),
            context: identity.context.clone(),
            kubeconfig: Some(path),
            link,
            agent_socket,
            ..Target::default()
        };
        target.check()?;
        Ok(Self {
            socket: socket(&kubeconfig, &identity, &pod.name)?,
            target,
            kubeconfig,
        })
    }
}

/// The identity, once the file holds it.
fn settled(kubeconfig: &Path, context: Option<&str>, namespace: Option<&str>) -> Result<Identity, Failure> {
    let begun = Instant::now();
    loop {
        match pod::identity(kubeconfig, context, namespace) {
            // A file that is not there is not being rewritten.
            Err(_) if kubeconfig.exists() && begun.elapsed() < REWRITE => sleep(REWRITE_PAUSE),
            result => return result,
        }
    }
}

/// Whether any slot can be found beside this kubeconfig: it may be somebody's own, which is none of our business.
fn any_beside(kubeconfig: &Path) -> bool {
    let directory = kubeconfig.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Ok(entries) = fs::read_dir(directory.unwrap_or(Path::new("."))) else {
        return false;
    };
    let mut types = entries.flatten().filter_map(|entry| entry.file_type().ok());
    types.any(|found| found.is_socket())
}

/// A bridge listens there, or did.
fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn socket(kubeconfig: &Path, identity: &Identity, pod: &str) -> Result<PathBuf, Failure> {
    let Identity { server, namespace, .. } = identity;
    let key = target::key(&serde_json::json!({"namespace": namespace, "pod": pod, "server": server}));
    let socket = kubeconfig.with_file_name(key.to_string());
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(Failure::new(
            Kind::Bridge,
            format!(
                "the socket path {} is longer than {SOCKET_PATH_MAX} bytes; put the kubeconfig into a shorter directory",
                socket.display()
            ),
        ));
    }
    Ok(socket)
}

/// A pod as the options of a command name it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PodReference {
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) context: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl PodReference {
    /// The pod of a target that was completed before; `None` if it names credentials or options that a slot's bridge does not have.
    pub(crate) fn of_target(target: &Target) -> Option<Self> {
        let others = [
            &target.server,
            &target.token,
            &target.username,
            &target.client_cert,
            &target.client_key,
            &target.ca_cert,
        ];
        let special = others.into_iter().any(Option::is_some) || target.kubeconfig_data.is_some();
        // The kubeconfig of the build may say that the certificate is not verified.
        if special || target.verify_ssl == Some(true) || !target.extra_args.is_empty() {
            return None;
        }
        let listed = target.kubeconfig.as_ref().filter(|list| !list.contains(':'));
        Some(Self {
            kubeconfig: Some(target.kubeconfig_file.as_ref().or(listed)?.into()),
            context: target.context.clone(),
            namespace: target.namespace.clone(),
            name: object_name::normalised(target.pod.as_deref()?).to_owned(),
        })
    }

    /// The one kubeconfig that is meant, from the option or `KUBECONFIG`; `None` if it is none, or a list. The socket is beside it.
    pub(crate) fn kubeconfig(&self, environment: &impl Environment) -> Option<PathBuf> {
        let named = self.kubeconfig.clone();
        named.or_else(|| {
            let list = environment.variable(KUBECONFIG)?;
            let mut paths = env::split_paths(&list).filter(|path| !path.as_os_str().is_empty());
            paths.next().filter(|_| paths.next().is_none())
        })
    }

    /// The slot of a pod that has a bridge there, be it dead. What is wrong with the options, the next kubectl says.
    pub(crate) fn served_slot(&self, environment: &impl Environment) -> Option<ZuulSlot> {
        let file = self.kubeconfig(environment)?;
        // Of other kubeconfigs, most of them, not a byte is read.
        if !any_beside(&file) {
            return None;
        }
        let slot = ZuulSlot::locate(&file, self, environment).ok()?;
        is_socket(&slot.socket).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    struct Fake(&'static [(&'static str, &'static str)], PathBuf);

    impl Environment for Fake {
        fn variable(&self, name: &str) -> Option<OsString> {
            let found = self.0.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        }

        fn variables(&self) -> Vec<(OsString, OsString)> {
            self.0.iter().map(|(name, value)| (name.into(), value.into())).collect()
        }

        fn current_directory(&self) -> std::io::Result<PathBuf> {
            Ok(self.1.clone())
        }
    }

    const LOCAL: &[(&str, &str)] = &[("PODBRIDGE_LINK", "local"), ("PODBRIDGE_AGENT_SOCKET", "/agent")];
    const FILE: &str = r#"{"clusters": [{"name": "c", "cluster": {"server": "https://one:1/"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "namespace": "ci"}}], "current-context": "x"}"#;

    fn locate(
        directory: &Path,
        variables: &'static [(&'static str, &'static str)],
        context: Option<&str>,
    ) -> Result<ZuulSlot, Failure> {
        let fake = Fake(variables, directory.to_owned());
        let pod = PodReference {
            context: context.map(str::to_owned),
            name: "web".into(),
            ..PodReference::default()
        };
        ZuulSlot::locate(Path::new("config"), &pod, &fake)
    }

    /// The vectors that the Python plugin asserts too.
    #[test]
    fn the_sockets_of_known_pods() {
        let directory = tempfile::tempdir().unwrap();
        // sha256('{"namespace":"default","pod":"web","server":""}')[:16]
        let local = locate(directory.path(), LOCAL, None).unwrap();
        assert_eq!(local.socket, directory.path().join("1a11d5bf9e2cc476"));
        assert_eq!(local.target.agent_socket, Some("/agent".into()));

        fs::write(directory.path().join("config"), FILE).unwrap();
        let slot = locate(directory.path(), &[], None).unwrap();
        // sha256('{"namespace":"ci","pod":"web","server":"https://one:1"}')[:16]
        assert_eq!(slot.socket, directory.path().join("0199756f54f43fe8"));
        let expected = Target {
            pod: Some("web".into()),
            namespace: Some("ci".into()),
            context: Some("x".into()),
            kubeconfig: Some(directory.path().join("config").to_str().unwrap().into()),
            ..Target::default()
        };
        assert_eq!(slot.target, expected);
        assert_eq!(slot.kubeconfig, directory.path().join("config"));
        assert_eq!(locate(directory.path(), LOCAL, None).unwrap().socket, slot.socket);
    }

    #[test]
    fn a_kubeconfig_that_is_being_rewritten_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for half in ["", r#"{"clusters": [{"name"#, r#"{"clusters": []}"#] {
            fs::write(&path, half).unwrap();
            let writer = std::thread::spawn({
                let path = path.clone();
                move || {
                    sleep(REWRITE_PAUSE * 3);
                    fs::write(path, FILE).unwrap();
                }
            });
            locate(directory.path(), &[], Some("x")).unwrap();
            writer.join().unwrap();
        }
        let begun = Instant::now();
        let failure = locate(directory.path(), &[], Some("y")).unwrap_err();
        assert_eq!(failure.kind, Kind::Context);
        assert!(begun.elapsed() >= REWRITE);
    }

    #[test]
    fn what_cannot_be_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        assert_eq!(locate(directory.path(), &[], None).unwrap_err().kind, Kind::Kubeconfig);
        let warp = locate(directory.path(), &[("PODBRIDGE_LINK", "warp")], None);
        assert_eq!(warp.unwrap_err().kind, Kind::Usage);
        let deep = directory.path().join("d".repeat(100));
        let failure = locate(&deep, LOCAL, None).unwrap_err();
        assert!(failure.message.contains("107 bytes"), "{failure}");
        assert!(begun.elapsed() < REWRITE);
    }
}
