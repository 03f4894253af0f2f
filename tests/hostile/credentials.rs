//! Credentials for Kubernetes in every place where a target, a kubeconfig or the environment can have them, right or wrong, with an API
//! server that cannot be reached or does not let the dial end. None may be in a message, a log, the name of a file, or on the command line
//! or in the environment of a bridge. `main` runs the cases.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use podbridge_tests::client_protocol::ask;
use podbridge_tests::pair::{Pair, binary};
use serde_json::{Value, json};

use crate::frame::control::Control;
use crate::frame::scene::{Case, Scene, Setting};
use crate::secrets::Canaries;

/// Stands for the secret of a row.
const SECRET: &str = "SECRET";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        ("credentials::kubeconfigs".into(), Box::new(kubeconfigs)),
        ("credentials::targets".into(), Box::new(targets)),
    ]
}

/// What a cluster and a user of a kubeconfig have in a row.
fn rows() -> Vec<(&'static str, Value, Value)> {
    let server = json!({"server": "https://127.0.0.1:1"});
    let with = |more: Value| {
        let mut cluster = server.clone();
        cluster
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        cluster
    };
    let plugin = |script: &str| {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never",
            "args": ["-c", script, SECRET], "env": [{"name": "PLUGIN_SECRET", "value": SECRET}],
        }})
    };
    let credential =
        r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"SECRET"}}"#;
    vec![
        ("a token", server.clone(), json!({"token": SECRET})),
        ("a token of a wrong type", server.clone(), json!({"token": [SECRET]})),
        (
            "a token with a newline",
            server.clone(),
            json!({"token": format!("a\n{SECRET}")}),
        ),
        (
            "a password",
            server.clone(),
            json!({"username": "u", "password": SECRET}),
        ),
        (
            "a password of a wrong type",
            server.clone(),
            json!({"username": "u", "password": {SECRET: 1}}),
        ),
        (
            "a key that is none",
            server.clone(),
            json!({"client-certificate-data": "eA==", "client-key-data": SECRET}),
        ),
        (
            "an option of a removed kind",
            server.clone(),
            json!({"auth-provider": {"name": "gcp", "config": {"access-token": SECRET}}}),
        ),
        (
            "a plugin that prints a token",
            server.clone(),
            plugin(&format!("echo '{credential}'")),
        ),
        (
            "a plugin that prints half a token",
            server.clone(),
            plugin(&format!("echo '{}'", &credential[..100])),
        ),
        (
            "a plugin that prints something else",
            server.clone(),
            plugin("echo $PLUGIN_SECRET"),
        ),
        ("a plugin that fails", server.clone(), plugin("exit 3")),
        (
            "a proxy with a password",
            with(json!({"proxy-url": "http://u:SECRET@127.0.0.1:1"})),
            json!({}),
        ),
        (
            "a proxy that speaks TLS",
            with(json!({"proxy-url": "https://u:SECRET@127.0.0.1:1"})),
            json!({}),
        ),
        (
            "a proxy of another kind",
            with(json!({"proxy-url": "socks5://u:SECRET@127.0.0.1:1"})),
            json!({}),
        ),
        (
            "a proxy with no port",
            with(json!({"proxy-url": "http://u:SECRET@127.0.0.1:none"})),
            json!({}),
        ),
        (
            "a proxy that is no URL",
            with(json!({"proxy-url": "u:SECRET@127.0.0.1:1"})),
            json!({}),
        ),
        (
            "a proxy of no known kind",
            with(json!({"proxy-url": "gopher://u:SECRET@h:1"})),
            json!({}),
        ),
        (
            "a server with a password",
            json!({"server": "https://u:SECRET@127.0.0.1:1"}),
            json!({}),
        ),
        (
            "a server with a password and no port",
            json!({"server": "https://u:SECRET@127.0.0.1:none"}),
            json!({}),
        ),
        (
            "certificates that are none",
            with(json!({"certificate-authority-data": SECRET})),
            json!({}),
        ),
    ]
}

/// Targets that a bridge refuses or cannot use.
fn bad_targets() -> Vec<(&'static str, String)> {
    let target = |more: Value| {
        let mut target = json!({"pod": "web", "namespace": "ns", "server": "https://127.0.0.1:1"});
        target
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        target.to_string()
    };
    vec![
        ("a token of a wrong type", target(json!({"token": [SECRET]}))),
        ("a token in an object", target(json!({"token": {SECRET: SECRET}}))),
        ("a switch with another word", target(json!({"verify_ssl": SECRET}))),
        ("a link of no known kind", target(json!({"link": SECRET}))),
        ("variables in a list", target(json!({"env": [SECRET]}))),
        ("a variable of a wrong type", target(json!({"env": {"A": [SECRET]}}))),
        ("options in a text", target(json!({"extra_args": SECRET}))),
        (
            "an option without its name",
            target(json!({"extra_args": ["--token", SECRET, SECRET]})),
        ),
        (
            "an option that does not exist",
            target(json!({"extra_args": ["--tokn=SECRET"]})),
        ),
        (
            "a switch with a value",
            target(json!({"extra_args": ["--insecure-skip-tls-verify=SECRET"]})),
        ),
        (
            "a key in place of its path",
            target(json!({"client_key": "-----BEGIN PRIVATE KEY-----\nSECRET"})),
        ),
        (
            "a certificate in place of its path",
            target(json!({"client_cert": SECRET, "client_key": SECRET, "ca_cert": SECRET})),
        ),
        (
            "a kubeconfig that is a text",
            target(json!({"kubeconfig_data": SECRET})),
        ),
        (
            "a kubeconfig of another form",
            target(json!({"kubeconfig_data": {"users": [{"name": "u", "user": {"token": [SECRET]}}]}})),
        ),
        (
            "a server with a password and no port",
            target(json!({"server": "https://u:SECRET@h:none"})),
        ),
        (
            "two ways to log in",
            target(json!({"token": SECRET, "username": SECRET, "password": SECRET})),
        ),
        ("no JSON", r#"{"pod": "web", "token": "SECRET" "#.to_owned()),
        ("no JSON at another place", r#"{"token": "SECRET" SECRET}"#.to_owned()),
        ("no object", format!("{SECRET:?}")),
    ]
}

/// Starts a bridge as the plugin of Ansible does. Its caller has secrets in its own environment.
fn start(pair: &Pair, target: &str, environment: &str) -> Output {
    let mut child = Command::new(binary("podbridge"))
        .args(["bridge", "--connect-timeout", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("PODBRIDGE_DIR", pair.bridge_dir())
        .env("PODBRIDGE_LOG", "trace")
        .env("PODBRIDGE_TOKEN", environment)
        .env("AWS_SECRET_ACCESS_KEY", environment)
        .env("HTTPS_PROXY", format!("http://u:{environment}@127.0.0.1:1"))
        .spawn()
        .unwrap();
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(target.as_bytes());
    child.wait_with_output().unwrap()
}

/// What was said and written, each with its place.
type Texts = Vec<(String, Vec<u8>)>;

/// Starts a bridge with a target, runs a command that cannot run, and ends the bridge. Returns all that it has said.
fn run(pair: &Pair, target: &str, environment: &str) -> Texts {
    let started = start(pair, target, environment);
    let answer: Value = serde_json::from_slice(&started.stdout).unwrap_or_default();
    let mut texts = vec![
        ("the answer".to_owned(), started.stdout),
        ("the messages".to_owned(), started.stderr),
    ];
    let Some(socket) = answer["socket"].as_str().map(Path::new) else {
        return texts;
    };
    let mut ask = |what: &str, request: &Value| {
        let result = ask(socket, request).map_or_else(|error| error.to_string(), |answer| answer.to_string());
        texts.push((what.to_owned(), result.into_bytes()));
    };
    ask("the result", &json!({"v": 1, "op": "exec", "argv": ["true"]}));
    ask("the status", &json!({"v": 1, "op": "status"}));
    for bridge in pair.bridges() {
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{bridge}/{file}")).unwrap();
            texts.push((format!("the bridge's {file}"), text));
        }
    }
    let log = socket.with_extension("log");
    let ended = ask_to_stop(socket);
    texts.push(("the bridge's log".to_owned(), std::fs::read(log).unwrap()));
    texts.push(("the last answer".to_owned(), ended));
    let names = std::fs::read_dir(pair.bridge_dir()).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_encoded_bytes());
    texts.push(("the names of files".to_owned(), names.collect::<Vec<_>>().concat()));
    texts
}

fn ask_to_stop(socket: &Path) -> Vec<u8> {
    let stopped = ask(socket, &json!({"v": 1, "op": "stop"}));
    stopped
        .map_or_else(|error| error.to_string(), |answer| answer.to_string())
        .into_bytes()
}

/// Runs each row with canaries of its own; notes where they were seen.
fn check(setting: &Setting, rows: Vec<(&'static str, String)>) {
    let mut scene = Scene::begin_beside_others(setting);
    let mut canaries = Canaries::new(scene.rng.fork());
    let environment = canaries.make("a secret in the environment of the bridge's caller");
    let pair = Pair::without_agent();
    let seen = scene.attack(&Control::Nothing, |_| {
        let mut seen = Vec::new();
        for (name, target) in rows {
            let target = target.replace(SECRET, &canaries.make(name));
            for (place, text) in run(&pair, &target, &environment) {
                let found = canaries.found_in(&text);
                seen.extend(found.into_iter().map(|secret| {
                    format!(
                        "{name}: {place} shows {secret}: {}",
                        String::from_utf8_lossy(&text[..text.len().min(2000)])
                    )
                }));
            }
        }
        seen
    });
    for fault in seen {
        scene.fault(fault);
    }
    scene.conclude();
}

fn kubeconfigs(setting: &Setting) {
    let target = |(name, cluster, user): (&'static str, Value, Value)| {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "ctx",
            "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "ctx", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        });
        let target = json!({"kubeconfig_data": kubeconfig, "pod": "web", "link": "exec-proxy", "env": {"PATH": "/usr/bin:/bin"}});
        (name, target.to_string())
    };
    check(setting, rows().into_iter().map(target).collect());
}

fn targets(setting: &Setting) {
    check(setting, bad_targets());
}
