//! Command lines of kubectl: what the shim serves and what `podbridge exec` takes, compared with what kubectl's own code makes of the same
//! words, kubeconfig included.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use clap::Parser as _;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Chance, Reference, Surroundings};
use crate::cli::{Cli, Command, as_kubectl_reads};
use crate::config;
use crate::kubectl_shim::{ParsedCommand, parse_arguments};
use crate::pod;
use crate::protocol::object_name::normalised;
use crate::sockets::PodReference;

/// Flags whose meaning is compared.
const COMPARED_FLAGS: [&str; 7] = [
    "container",
    "context",
    "kubeconfig",
    "namespace",
    "quiet",
    "stdin",
    "tty",
];

const KUBECONFIG: &str = "
clusters: [{name: one, cluster: {server: 'https://one:1/'}}, {name: two, cluster: {server: 'https://two:2'}}]
# Without credentials kubectl asks for a name and a password on standard input.
users: [{name: u, user: {token: t}}]
contexts:
- {name: a, context: {cluster: one, user: u, namespace: ci}}
- {name: b, context: {cluster: two, user: u}}
- {name: c, context: {cluster: gone, user: u}}
- {name: exec, context: {cluster: one, user: u, namespace: exec}}
current-context: a
";

/// Words of the random command lines. The verbs and the pod stand here more than once, so that many lines are complete.
const WORDS: &[&str] = &[
    "exec",
    "exec",
    "port-forward",
    "get",
    "exe",
    "Exec",
    "web",
    "web",
    "pod/web",
    "pods/web",
    "po/web",
    "deploy/web",
    "Pod/web",
    "pod/",
    "web.x-1",
    "-w",
    "--",
    "--",
    "--",
    "-",
    "---",
    "id",
    "ls",
    "true",
    "false",
    "a",
    "b",
    "c",
    "ns",
    "kc",
    "./kc",
    "gone",
    "40001:19885",
    "40002:19886",
    "40001:19885",
    "40002:19886",
    "0:19885",
    ":19885",
    "19885",
    "070:19885",
    "1:2:3",
    "-i",
    "-t",
    "-q",
    "-it",
    "-itq",
    "-ti",
    "-i=true",
    "-it=false",
    "-n",
    "-nns",
    "-n=ns",
    "-n=",
    "-c",
    "-cmain",
    "-c=main",
    "-itc",
    "-itcmain",
    "-itc=main",
    "-ic=",
    "-f",
    "-fx",
    "-v",
    "-v=1",
    "-s",
    "-h",
    "-x",
    "--stdin",
    "--stdin=true",
    "--stdin=false",
    "--stdin=0",
    "--stdin=",
    "--stdi",
    "--tty",
    "--tty=false",
    "--tty=T",
    "--quiet",
    "--quiet=true",
    "--namespace",
    "--namespace=ns",
    "--namespace=",
    "--name_space=ns",
    "--container",
    "--container=main",
    "--container=",
    "--container=a=b",
    "--context",
    "--context=a",
    "--context=b",
    "--context=c",
    "--context=exec",
    "--context=",
    "--kubeconfig",
    "--kubeconfig=kc",
    "--kubeconfig=./kc",
    "--kubeconfig=gone",
    "--kubeconfig=",
    "--server=https://x",
    "--as=u",
    "--help",
    "--address=0.0.0.0",
    "--pod-running-timeout=1m",
    "--request-timeout=1",
    "--filename=x",
    "--token=t",
    "--insecure-skip-tls-verify",
    "",
    "=",
    "--=",
    "\u{17c}",
    "-\u{17c}",
    "a b",
];

/// Command lines that are complete, for small changes.
const LINES: &[&str] = &[
    "--kubeconfig=kc --context=a -n ns port-forward pod/web 40001:19885 40002:19886",
    "port-forward web 40001:19885 40002:19886 --namespace=ns",
    "exec -n ns -c main -it web -- sh -c id",
    "exec --stdin --tty=false --quiet pod/web --context b -- ls -l",
    "--context b exec web -i -- cat -",
    "--kubeconfig kc exec po/web -c=main -- id",
    "exec web -i ls -n ns a",
];

fn command_line(chance: &mut Chance) -> Vec<OsString> {
    let mut words: Vec<&str> = if chance.once_in(3) {
        (0..chance.rng.usize(..9)).map(|_| chance.one_of(WORDS)).collect()
    } else {
        let mut words: Vec<_> = chance.one_of(LINES).split(' ').collect();
        for _ in 0..chance.rng.usize(..4) {
            let (at, word) = (chance.rng.usize(..=words.len()), chance.one_of(WORDS));
            match chance.rng.u8(..4) {
                0 if at < words.len() => drop(words.remove(at)),
                1 if at < words.len() => words[at] = word,
                2 if at + 1 < words.len() => words.swap(at, at + 1),
                _ => words.insert(at, word),
            }
        }
        words
    };
    if words.is_empty() {
        words.push("");
    }
    words.into_iter().map(OsString::from).collect()
}

/// Returns what the shim would do, in the words of the reference; `None` if the next kubectl gets the command line.
fn served(words: &[OsString], surroundings: &Surroundings) -> Option<Value> {
    let identity = |pod: &PodReference| {
        let file = config::absolute(&pod.kubeconfig(surroundings)?, surroundings).ok()?;
        pod::identity(Path::new(&file), pod.context.as_deref(), pod.namespace.as_deref()).ok()
    };
    match parse_arguments(words) {
        ParsedCommand::Exec { pod, exec } => {
            let identity = identity(&pod)?;
            let command = exec.command.iter().map(|word| HEXLOWER.encode(word.as_encoded_bytes()));
            Some(json!({
                "verb": "exec", "server": identity.server, "namespace": identity.namespace, "pod": pod.name,
                "container": exec.container.unwrap_or_default(), "stdin": exec.stdin, "tty": exec.tty, "quiet": exec.quiet,
                "command": command.collect::<Vec<_>>(),
            }))
        }
        ParsedCommand::PortForward { pod, ports } => {
            let identity = identity(&pod)?;
            Some(json!({
                "verb": "port-forward", "server": identity.server, "namespace": identity.namespace, "pod": pod.name,
                "ports": [format!("{}:19885", ports.console), format!("{}:19886", ports.windows)],
            }))
        }
        ParsedCommand::Other => None,
    }
}

/// Returns what kubectl does, written as `served` writes it.
fn by_kubectl(answer: &Value) -> Value {
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let switch = |name: &str| answer[name].as_bool().unwrap_or_default();
    let (verb, namespace, pod) = (text("verb"), text("namespace"), normalised(&text("pod")).to_owned());
    let server = text("server").trim_end_matches('/').to_owned();
    if verb == "exec" {
        json!({
            "verb": verb, "server": server, "namespace": namespace, "pod": pod, "container": text("container"),
            "stdin": switch("stdin"), "tty": switch("tty"), "quiet": switch("quiet"), "command": answer["command"],
        })
    } else {
        json!({"verb": verb, "server": server, "namespace": namespace, "pod": pod, "ports": answer["ports"]})
    }
}

/// Returns what `podbridge exec` would do, in the same words; `None` for what it refuses, other commands, and credentials by options.
fn executed(words: &[OsString], surroundings: &Surroundings) -> Option<Value> {
    let line = [OsString::from("podbridge")].into_iter().chain(words.iter().cloned());
    let cli = Cli::try_parse_from(as_kubectl_reads(line.collect())).ok()?;
    let Command::Exec(options) = cli.command else {
        return None;
    };
    let container = cli.target.container.clone().unwrap_or_default();
    let target = config::target(cli.target.without_empty(), &options.pod, surroundings)
        .ok()?
        .target;
    let pod = PodReference::of_target(&target)?;
    let identity = pod::identity(
        pod.kubeconfig.as_ref()?,
        pod.context.as_deref(),
        pod.namespace.as_deref(),
    )
    .ok()?;
    let command = options
        .command
        .iter()
        .map(|word| HEXLOWER.encode(word.as_encoded_bytes()));
    Some(json!({
        "verb": "exec", "server": identity.server, "namespace": identity.namespace, "pod": pod.name, "container": container,
        "stdin": options.stdin, "tty": options.tty, "quiet": false, "command": command.collect::<Vec<_>>(),
    }))
}

/// A directory with the kubeconfig, and kubectl in it.
struct Setting {
    surroundings: Surroundings,
    kubectl: Reference,
    _directory: TempDir,
}

impl Setting {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("kc"), KUBECONFIG).unwrap();
        let variables = [("HOME", path("")), ("KUBECONFIG", path("kc"))];
        let surroundings = Surroundings {
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
            directory: directory.path().to_owned(),
        };
        let kubectl = Reference::start("KUBECTL_ARGUMENTS", |command| {
            command.current_dir(directory.path());
            command.env_clear().envs(&surroundings.variables);
        });
        Self {
            surroundings,
            kubectl,
            _directory: directory,
        }
    }

    /// Asks kubectl; fails if the command line has another meaning for it. Returns the answer and the flags that are not compared.
    fn check(&mut self, words: &[OsString], meaning: &Value) -> (Value, Vec<String>) {
        let line: Vec<_> = words.iter().map(|word| word.as_encoded_bytes()).collect();
        let answer = self.kubectl.ask(&HEXLOWER.encode(&line.join(&0)));
        assert_eq!(*meaning, by_kubectl(&answer), "{words:?}: {answer}");
        let flags = answer["flags"].as_array().into_iter().flatten();
        let flags = flags.map(|flag| flag.as_str().unwrap().to_owned());
        let others = flags.filter(|flag| !COMPARED_FLAGS.contains(&flag.as_str())).collect();
        (answer, others)
    }
}

#[test]
#[ignore = "needs kubectl-arguments; make test-differential builds it"]
fn what_the_shim_serves_means_the_same_to_kubectl() {
    let (mut setting, mut chance) = (Setting::new(), Chance::new(1500));
    let (mut served_ones, mut undashed) = (0, 0);
    for _ in 0..chance.cases {
        let words = command_line(&mut chance);
        if let Some(meaning) = served(&words, &setting.surroundings) {
            let (answer, others) = setting.check(&words, &meaning);
            assert!(others.is_empty(), "{words:?}: the shim ignores {others:?}");
            served_ones += 1;
            undashed += usize::from(answer["undashed"] == true);
        }
    }
    println!(
        "{served_ones} of {} command lines are served; {undashed} of them without --",
        chance.cases
    );
    assert!(
        served_ones > chance.cases / 10,
        "{served_ones} of {} command lines are served",
        chance.cases
    );
}

#[test]
#[ignore = "needs kubectl-arguments; make test-differential builds it"]
fn what_podbridge_exec_takes_means_the_same_to_kubectl() {
    let (mut setting, mut chance) = (Setting::new(), Chance::new(1500));
    let mut taken = 0;
    for _ in 0..chance.cases {
        let words = command_line(&mut chance);
        if let Some(meaning) = executed(&words, &setting.surroundings) {
            let (answer, _) = setting.check(&words, &meaning);
            assert_ne!(answer["undashed"], true, "{words:?}");
            taken += 1;
        }
    }
    assert!(
        taken > chance.cases / 20,
        "{taken} of {} command lines are taken",
        chance.cases
    );
}
