//! Options and environment, checked and put together: the target, and the settings of its bridge. The environment is read through
//! `env::Environment` only. `commands` and `sockets` call it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum as _;
use memchr::memmem;

use crate::cli::{BridgeOptions, TargetOptions};
use crate::env::{
    CONNECTION_VARIABLES, Environment, HOME, KUBECONFIG, PODBRIDGE_AGENT_SOCKET, PODBRIDGE_LEASE, PODBRIDGE_LINK,
    PODBRIDGE_TOKEN, reaches_credential_plugin,
};
use crate::error::{Failure, Kind};
use crate::pod;
use crate::protocol::object_name;
use crate::protocol::target::{KeyedTarget, LinkChoice, Target};

/// Default kubeconfig, below the home directory, as in client-go.
const DEFAULT_KUBECONFIG: &str = ".kube/config";
/// Default lease in seconds; agents use the same for a bridge that names none.
const LEASE: u64 = 15 * 60;

/// Settings of a bridge that are no part of its target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BridgeSettings {
    /// Time without a client after which the bridge ends; `None`: never.
    pub idle: Option<Duration>,
    pub connect_timeout: Duration,
    /// Time for which a command continues in the pod while no bridge is connected, and for which its broken link is dialled again.
    pub lease: Duration,
}

/// Returns the settings that options and environment give.
pub(crate) fn options(options: &BridgeOptions, environment: &impl Environment) -> Result<BridgeSettings, Failure> {
    Ok(BridgeSettings {
        idle: Some(options.idle)
            .filter(|seconds| *seconds != 0)
            .map(Duration::from_secs),
        connect_timeout: Duration::from_secs(options.connect_timeout),
        lease: lease(environment)?,
    })
}

/// Returns the lease from the environment, or the default. `Err` if the value is not from 1 to 86400.
pub(crate) fn lease(environment: &impl Environment) -> Result<Duration, Failure> {
    let Some(given) = environment.variable(PODBRIDGE_LEASE) else {
        return Ok(Duration::from_secs(LEASE));
    };
    match given.to_str().and_then(|seconds| seconds.parse().ok()) {
        Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(Failure::usage(format!(
            "{PODBRIDGE_LEASE} is {given:?}; it may be 1 to 86400, in seconds, or unset for {LEASE}"
        ))),
    }
}

/// Returns the target that options and environment name.
pub(crate) fn target(
    options: TargetOptions,
    pod: &str,
    environment: &impl Environment,
) -> Result<KeyedTarget, Failure> {
    if let Some(path) = options.target_file {
        return target_of_file(&path, pod);
    }
    let absolute = |path: &Path| absolute(path, environment);
    let file = |path: Option<PathBuf>| path.map(|path| absolute(&path)).transpose();
    let text = |name| match environment.variable(name) {
        Some(value) => utf8(&value, name).map(Some),
        None => Ok(None),
    };
    let (link, agent_socket) = link(options.link, options.agent_socket, environment)?;
    let mut extra_args = Vec::new();
    if let Some(user) = options.impersonate {
        extra_args.push(format!("--as={user}"));
    }
    extra_args.extend(
        options
            .impersonate_group
            .iter()
            .map(|group| format!("--as-group={group}")),
    );
    let target = Target {
        pod: Some(object_name::normalised(pod).to_owned()),
        namespace: options.namespace,
        context: options.context,
        kubeconfig_file: file(options.kubeconfig.map(PathBuf::from))?,
        server: options.server,
        token: match options.token_file {
            Some(path) => Some(token(&path)?),
            None => text(PODBRIDGE_TOKEN)?,
        },
        client_cert: file(options.client_certificate)?,
        client_key: file(options.client_key)?,
        ca_cert: file(options.certificate_authority)?,
        verify_ssl: options.insecure_skip_tls_verify.map(|insecure| !insecure),
        extra_args,
        link,
        agent_socket,
        ..Target::default()
    };
    KeyedTarget::new(complete(target, environment)?)
}

/// Returns the target that a program has written to a file, or to the path of a descriptor. It is complete: the environment adds nothing.
pub(crate) fn target_of_file(path: &Path, pod: &str) -> Result<KeyedTarget, Failure> {
    let json = std::fs::read(path).map_err(|error| {
        Failure::new(
            Kind::LocalFile,
            format!("the target file {} cannot be read: {error}", path.display()),
        )
    })?;
    let target = KeyedTarget::parse(&json)?;
    if object_name::normalised(target.target.pod_name()) == object_name::normalised(pod) {
        Ok(target)
    } else {
        Err(Failure::usage(format!(
            "the target file is for the pod {}, not for {pod}",
            target.target.pod_name()
        )))
    }
}

/// Adds to the options of a target what the environment decides: the kubeconfig, and the variables of its bridge. The plugin for Ansible
/// does the same (`complete_target`); both are tested with tests/vectors/targets.json.
pub(crate) fn complete(mut target: Target, environment: &impl Environment) -> Result<Target, Failure> {
    let local = target.link() == LinkChoice::Local;
    if target.kubeconfig_file.is_none() && target.kubeconfig_data.is_none() {
        let listed = environment.variable(KUBECONFIG);
        target.kubeconfig = listed.map(|list| each_absolute(&list, environment)).transpose()?;
        if target.kubeconfig.is_none() && !local {
            let home = environment.variable(HOME).filter(|home| Path::new(home).is_absolute());
            let default = home.map(|home| absolute(&Path::new(&home).join(DEFAULT_KUBECONFIG), environment));
            target.default_kubeconfig = default.transpose()?;
        }
    }
    let plugin = !local && may_run_plugin(&target)?;
    let counts = |name: &str| {
        if local {
            name == PODBRIDGE_LEASE
        } else {
            CONNECTION_VARIABLES.contains(&name) || plugin && reaches_credential_plugin(name)
        }
    };
    for (name, value) in environment.variables() {
        // A variable that is not UTF-8 is left out of the key and of the bridge's environment alike.
        if let (Ok(name), Ok(value)) = (name.into_string(), value.into_string())
            && !value.is_empty()
            && counts(&name)
        {
            target.env.entry(name).or_insert(value);
        }
    }
    Ok(target)
}

/// Returns whether the kubeconfig may name a credential plugin. Files are not parsed, so that the plugin for Ansible decides the same
/// without a YAML parser that agrees with this one in everything: a key `exec` needs these letters, a backslash escape or another
/// encoding, which has NUL bytes.
fn may_run_plugin(target: &Target) -> Result<bool, Failure> {
    let has_sign = |content: &[u8]| {
        [&b"exec"[..], b"\\", b"\0"]
            .iter()
            .any(|sign| memmem::find(content, sign).is_some())
    };
    let data = target.kubeconfig_data.as_ref().map(ToString::to_string);
    let files = pod::kubeconfig_files(target)?;
    Ok(data.is_some_and(|data| has_sign(data.as_bytes()))
        || files
            .iter()
            .any(|path| has_sign(&std::fs::read(path).unwrap_or_default())))
}

/// Returns the link and the agent's socket, from the options, or else from the environment.
pub(crate) fn link(
    link: Option<LinkChoice>,
    agent_socket: Option<PathBuf>,
    environment: &impl Environment,
) -> Result<(Option<LinkChoice>, Option<PathBuf>), Failure> {
    let link = match (link, environment.variable(PODBRIDGE_LINK)) {
        (Some(link), _) => Some(link),
        (None, Some(name)) => {
            let name = utf8(&name, PODBRIDGE_LINK)?;
            Some(LinkChoice::from_str(&name, false).map_err(|_| {
                Failure::usage(format!(
                    "{PODBRIDGE_LINK} is {name:?}; it may be auto, exec-proxy, direct, kubectl or local"
                ))
            })?)
        }
        (None, None) => None,
    };
    // An absent link and `auto` mean the same, so that both must give the target the same key.
    let link = link.filter(|link| *link != LinkChoice::Auto);
    let agent_socket = match (link, agent_socket) {
        (_, Some(path)) => Some(path),
        (Some(LinkChoice::Local), None) => environment.variable(PODBRIDGE_AGENT_SOCKET).map(PathBuf::from),
        (_, None) => None,
    };
    let agent_socket = agent_socket.map(|path| absolute(&path, environment).map(PathBuf::from));
    Ok((link, agent_socket.transpose()?))
}

fn token(path: &Path) -> Result<String, Failure> {
    let read = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Kind::LocalFile,
            format!("the token file {} cannot be read: {error}", path.display()),
        )
    })?;
    Ok(read.trim().to_owned())
}

fn utf8(value: &OsStr, what: &str) -> Result<String, Failure> {
    value
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::usage(format!("{what} is not UTF-8: {}", Path::new(value).display())))
}

/// Returns podbridge's variables that name files, with absolute paths: for a program that runs podbridge in another directory.
pub(crate) fn files_for_anywhere(environment: &impl Environment) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut files = Vec::new();
    if let Some(list) = environment.variable(KUBECONFIG) {
        files.push((KUBECONFIG, each_absolute(&list, environment)?));
    }
    if let Some(path) = environment.variable(PODBRIDGE_AGENT_SOCKET) {
        files.push((PODBRIDGE_AGENT_SOCKET, absolute(Path::new(&path), environment)?));
    }
    Ok(files)
}

/// Returns the absolute path, because the bridge has another working directory. One file has one spelling, except that `..` stays: after
/// a symbolic link it leads elsewhere. The plugin for Ansible does the same (`absolute_path`). `Err` if the path is not UTF-8.
pub(crate) fn absolute(path: &Path, environment: &impl Environment) -> Result<String, Failure> {
    let joined = if path.is_absolute() {
        path.to_owned()
    } else {
        let directory = environment.current_directory();
        directory
            .map_err(|error| Failure::usage(format!("the working directory cannot be found: {error}")))?
            .join(path)
    };
    let parts: PathBuf = joined.components().collect();
    utf8(parts.as_os_str(), "the path")
}

fn each_absolute(list: &OsStr, environment: &impl Environment) -> Result<String, Failure> {
    let list = utf8(list, KUBECONFIG)?;
    let paths = list
        .split(':')
        .filter(|path| !path.is_empty())
        .map(|path| absolute(Path::new(path), environment));
    Ok(paths.collect::<Result<Vec<_>, _>>()?.join(":"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::ffi::OsString;

    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    struct Fake<'a>(HashMap<&'a str, &'a str>);

    impl Environment for Fake<'_> {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.0.get(name).map(OsString::from)
        }

        fn variables(&self) -> Vec<(OsString, OsString)> {
            self.0.iter().map(|(name, value)| (name.into(), value.into())).collect()
        }

        fn current_directory(&self) -> std::io::Result<PathBuf> {
            Ok("/here".into())
        }
    }

    fn target_of(arguments: &[&str], variables: &[(&'static str, &'static str)]) -> Result<Target, Failure> {
        let line = ["podbridge"].iter().chain(arguments).chain(&["status", "web"]);
        let cli = Cli::try_parse_from(line).unwrap();
        let fake = Fake(variables.iter().copied().collect());
        target(cli.target, "web", &fake).map(|identified| identified.target)
    }

    /// The plugin for Ansible asserts the same vectors. "@NAME" stands for the path of a file of that name.
    #[test]
    fn the_environment_completes_a_target_as_the_vectors_say() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/targets.json")).unwrap();
        for vector in vectors.as_array().unwrap() {
            let name = vector["name"].as_str().unwrap();
            let directory = tempfile::tempdir().unwrap();
            for (file, content) in vector["files"].as_object().unwrap() {
                std::fs::write(directory.path().join(file), content.as_str().unwrap()).unwrap();
            }
            let text = |value: &serde_json::Value| {
                let base = format!("{}/", directory.path().display());
                value.to_string().replace('@', &base)
            };
            let given: Target = serde_json::from_str(&text(&vector["target"])).unwrap();
            let variables = vector["environment"].as_object().unwrap();
            let variables = variables
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str().unwrap()));
            let complete = complete(given, &Fake(variables.filter(|(_, value)| !value.is_empty()).collect())).unwrap();
            let expected: serde_json::Value = serde_json::from_str(&text(&vector["complete"])).unwrap();
            let keyed = KeyedTarget::new(complete).unwrap();
            assert_eq!(serde_json::to_value(&keyed.target).unwrap(), expected, "{name}");
            if let Some(key) = vector["key"].as_str() {
                assert_eq!(keyed.key.to_string(), key, "{name}");
            }
        }
    }

    #[test]
    fn nothing_given_is_nothing_in_the_target() {
        let expected = Target {
            pod: Some("web".into()),
            ..Target::default()
        };
        assert_eq!(target_of(&[], &[]).unwrap(), expected);
        let auto = target_of(&[], &[("PODBRIDGE_LINK", "auto"), ("PODBRIDGE_AGENT_SOCKET", "/x")]).unwrap();
        assert_eq!(auto, expected);
    }

    #[test]
    fn relative_paths_are_made_absolute() {
        let given = target_of(
            &["--kubeconfig", "kc", "--client-key", "k"],
            &[("KUBECONFIG", "/other")],
        )
        .unwrap();
        assert_eq!(given.kubeconfig_file.as_deref(), Some("/here/kc"));
        assert_eq!(given.kubeconfig, None);
        assert_eq!(given.client_key.as_deref(), Some("/here/k"));
        let listed = target_of(&[], &[("KUBECONFIG", "a::/b")]).unwrap();
        assert_eq!(listed.kubeconfig.as_deref(), Some("/here/a:/b"));
        let fake = Fake(HashMap::from([
            ("KUBECONFIG", "a:/b"),
            ("PODBRIDGE_AGENT_SOCKET", "s:1"),
        ]));
        let anywhere = files_for_anywhere(&fake).unwrap();
        let expected = [("KUBECONFIG", "/here/a:/b"), ("PODBRIDGE_AGENT_SOCKET", "/here/s:1")];
        assert_eq!(anywhere, expected.map(|(name, value)| (name, value.to_owned())));
    }

    /// The plugin's tests have the same table.
    #[test]
    fn a_file_has_one_spelling() {
        for (path, expected) in [
            ("kc", "/here/kc"),
            ("./kc", "/here/kc"),
            ("a//./b/", "/here/a/b"),
            ("../kc", "/here/../kc"),
            ("link/../kc", "/here/link/../kc"),
            ("/a/./b//c", "/a/b/c"),
            ("//a/..", "/a/.."),
            ("/", "/"),
        ] {
            let found = absolute(Path::new(path), &Fake(HashMap::new())).unwrap();
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn the_environment_chooses_the_link() {
        let local = [("PODBRIDGE_LINK", "local"), ("PODBRIDGE_AGENT_SOCKET", "agent.sock")];
        let target = target_of(&[], &local).unwrap();
        assert_eq!(target.link, Some(LinkChoice::Local));
        assert_eq!(target.agent_socket, Some("/here/agent.sock".into()));
        assert_eq!(
            target_of(&["--link", "exec-proxy"], &local).unwrap().link,
            Some(LinkChoice::ExecProxy)
        );
        let wrong = target_of(&[], &[("PODBRIDGE_LINK", "warp")]).unwrap_err();
        assert!(wrong.message.contains("warp"), "{wrong}");
    }

    #[test]
    fn a_lease_is_some_seconds() {
        let lease_of = |given| lease(&Fake(HashMap::from([("PODBRIDGE_LEASE", given)])));
        assert_eq!(lease(&Fake(HashMap::new())).unwrap(), Duration::from_secs(900));
        assert_eq!(lease_of("20").unwrap(), Duration::from_secs(20));
        for wrong in ["0", "-1", "1m", "86401"] {
            assert!(lease_of(wrong).unwrap_err().message.contains(wrong));
        }
    }
}
