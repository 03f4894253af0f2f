//! Which socket the connection plugin for Ansible names, compared with podbridge: two programs that find each other's bridges.

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::{Value, json};

use super::{Chance, Reference, Surroundings};
use crate::config;
use crate::pod;
use crate::protocol::target::{KeyedTarget, Target};
use crate::sockets::PodReference;

fn plugin(directory: &Path) -> Reference {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Reference::start("ANSIBLE_PYTHON", |command| {
        command.arg(root.join("tests/differential/plugin_worker.py"));
        command.arg(root.join("ansible")).current_dir(directory);
    })
}

/// Texts that a JSON writer may escape, or sort in another order.
const TEXTS: &[&str] = &[
    "x",
    "ci",
    "a b",
    "\"",
    "\\",
    "/",
    "\u{7f}",
    "\u{1}",
    "\u{1f}",
    "\t",
    "\n",
    "\r",
    "\u{85}",
    "\u{2028}",
    "\u{e9}",
    "\u{17c}",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10000}",
    "\u{1f600}",
    "exec",
    "&<>'",
    "$HOME",
    "%41",
    "#",
    "@",
    "=",
];

const PATHS: &[&str] = &[
    "/kc",
    "kc",
    "./kc",
    "sub/kc",
    "sub/../kc",
    "../kc",
    "link/../kc",
    "//kc",
    "sub//kc",
    "sub/./kc",
    "kc/",
    "/",
    ".",
    "..",
    "a b",
    "~/kc",
    "plugin",
    "./plugin",
    "",
];

const VARIABLES: &[&str] = &[
    "HOME",
    "KUBECONFIG",
    "PATH",
    "TERM",
    "PWD",
    "_",
    "LANG",
    "AWS_PROFILE",
    "HTTPS_PROXY",
    "http_proxy",
    "NO_PROXY",
    "KUBERNETES_MASTER",
    "POD_NAMESPACE",
    "PODBRIDGE_LEASE",
    "PODBRIDGE_AGENT",
    "PODBRIDGE_LOG",
    "ANSIBLE_FORKS",
    "K8S_AUTH_HOST",
    "K8S_AUTH_",
    "SSL_CERT_FILE",
    "XDG_SESSION_ID",
    "XDG_RUNTIME_DIR",
    "\u{17c}",
    "a b",
    "all_proxy",
    "All_Proxy",
];

const DATA: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "9007199254740993",
    "18446744073709551615",
    "1.5",
    "\"exec\"",
    "\"a\\nb\"",
    "\"\\u017c\"",
    "[]",
    "{}",
    "[1, \"two\", {\"b\": null, \"a\": []}]",
    "{\"users\": [{\"name\": \"u\", \"user\": {\"exec\": {\"command\": \"c\"}}}]}",
];

fn random_target(chance: &mut Chance, directory: &str) -> String {
    let mut fields = vec![format!(
        "\"pod\": {}",
        json!(chance.one_of(&["web", "pod/web", "deploy/web", "x.y-1"]))
    )];
    let absolute = |path: &str| json!(format!("{directory}/{path}"));
    match chance.rng.u8(..6) {
        0 => fields.push(format!("\"kubeconfig_file\": {}", absolute(chance.one_of(PATHS)))),
        1 => fields.push(format!("\"kubeconfig_data\": {{\"x\": {}}}", chance.one_of(DATA))),
        _ => {}
    }
    for name in ["namespace", "context", "server", "token", "username", "password"] {
        if chance.once_in(4) {
            let value = if name == "namespace" {
                "ci".to_owned()
            } else {
                chance.joined(TEXTS, 3)
            };
            fields.push(format!("\"{name}\": {}", json!(value)));
        }
    }
    if chance.once_in(4) {
        let flag = chance.one_of(&[
            "--kubeconfig=/plugin",
            "--namespace=ns",
            "--kubeconfig=",
            "--as=u",
            "--kubeconfig=/a:b",
        ]);
        let flag = flag.replace("=/", &format!("={directory}/"));
        fields.push(format!("\"extra_args\": [{}]", json!(flag)));
    }
    if chance.once_in(4) {
        let (name, value) = (chance.one_of(VARIABLES), chance.joined(TEXTS, 2));
        fields.push(format!("\"env\": {{{}: {}}}", json!(name), json!(value)));
    }
    if chance.once_in(5) {
        fields.push("\"link\": \"local\", \"agent_socket\": \"/agent\"".into());
    }
    if chance.once_in(5) {
        fields.push(format!("\"verify_ssl\": {}", chance.rng.bool()));
    }
    chance.rng.shuffle(&mut fields);
    format!("{{{}}}", fields.join(", "))
}

fn random_environment(chance: &mut Chance, directory: &str) -> HashMap<String, String> {
    let mut variables = HashMap::new();
    for _ in 0..chance.rng.usize(..8) {
        let name = chance.one_of(VARIABLES);
        let value = match name {
            "KUBECONFIG" => {
                let paths: Vec<_> = (0..chance.rng.usize(1..4)).map(|_| chance.one_of(PATHS)).collect();
                paths.join(":")
            }
            "HOME" => chance
                .one_of(&["/", "//", "", "relative", "/home/ci/", "/home//ci/.", directory])
                .to_owned(),
            _ => chance.joined(TEXTS, 2),
        };
        variables.insert(name.to_owned(), value);
    }
    variables
}

#[test]
#[ignore = "needs an interpreter with ansible-core; make test-differential installs it"]
fn the_plugin_gives_every_target_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for name in ["sub", "else/where"] {
        fs::create_dir_all(directory.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink("else/where", directory.path().join("link")).unwrap();
    fs::write(directory.path().join("kc"), "users: []").unwrap();
    // A relative path with `..` after a link leads here, not to the working directory.
    fs::write(directory.path().join("else/kc"), "users: [{user: {exec: {}}}]").unwrap();
    fs::write(directory.path().join("plugin"), "users: [{user: {exec: {}}}]").unwrap();
    let mut plugin = plugin(directory.path());
    let mut chance = Chance::new(3000);
    let mut same = 0;
    for _ in 0..chance.cases {
        let given = random_target(&mut chance, path);
        let surroundings = Surroundings {
            variables: random_environment(&mut chance, path),
            directory: directory.path().to_owned(),
        };
        let target: Target = serde_json::from_str(&given).unwrap();
        let Ok(keyed) = config::complete(target, &surroundings).and_then(KeyedTarget::new) else {
            continue;
        };
        let question = format!(
            "{{\"target\": {given}, \"environment\": {}}}",
            json!(surroundings.variables)
        );
        let answer = plugin.ask(&question);
        assert_eq!(
            serde_json::to_value(&keyed.target).unwrap(),
            answer["complete"],
            "{question}: {answer}"
        );
        assert_eq!(answer["key"], keyed.key.to_string(), "{question}");
        // podbridge reads what the plugin writes.
        let read = KeyedTarget::parse(answer["complete"].to_string().as_bytes()).unwrap();
        assert_eq!(read.key, keyed.key, "{question}");
        same += 1;
    }
    assert!(same > chance.cases / 2, "{same} of {} targets have a key", chance.cases);
}

/// Scalars of YAML, the ones without a content first. Those that YAML 1.1 and 1.2 take for different types are left out (`on`, `1e3`, `2020-01-01`, `<<`): the plugin and podbridge
/// have a parser of one each.
const SCALARS: &[&str] = &[
    "null",
    "~",
    "",
    "''",
    "x",
    "x",
    "x",
    "y",
    "'x'",
    "\"x\"",
    "\"\\u0078\"",
    "!!str x",
    "true",
    "True",
    "0",
    "010",
    "8",
    "0x8",
    "1.5",
    ".inf",
    "12-3",
    "*x",
    "|\n      x\n",
    ">-\n      x",
    "{x: y}",
    "[x]",
    "x # comment",
    "x#y",
    "\u{17c}",
    "\"a\\\n b\"",
    "'a''b'",
    "? x",
    "-",
    "@x",
    "`x`",
    "%x",
];

const SERVERS: &[&str] = &[
    "https://one:1",
    "https://one:1/",
    "'https://one:1//'",
    "\"https://one:1\"",
    "https://one:1 # x",
    "https://one:1#x",
    "one",
    "''",
    "",
    "1",
    "~",
    "[]",
    "http://[::1]:8080",
];

/// The first ones of `SCALARS`. kubectl takes them for an empty name of a context or cluster, and the plugin for none.
const EMPTY_SCALARS: usize = 4;

/// Returns a kubeconfig, and whether any of its bytes may be another one: YAML of that kind has tabs and other signs that the plugin's
/// parser refuses and podbridge's takes.
fn random_kubeconfig(chance: &mut Chance) -> (Vec<u8>, bool) {
    let scalar = |chance: &mut Chance| if chance.once_in(3) { chance.one_of(SCALARS) } else { "x" };
    let name = |chance: &mut Chance| {
        if chance.once_in(3) {
            chance.one_of(&SCALARS[EMPTY_SCALARS..])
        } else {
            "x"
        }
    };
    let server = |chance: &mut Chance| {
        if chance.once_in(6) {
            chance.one_of(SERVERS)
        } else {
            "https://one:1"
        }
    };
    let mut text = String::from(chance.one_of(&[
        "",
        "",
        "",
        "",
        "---\n",
        "\u{feff}",
        "# c\n",
        // The only anchor, because a second one of its name is an error to the plugin's parser alone.
        "anchor: &x x\n",
        "%YAML 1.1\n---\n",
        " ",
        "--- # x\n",
    ]));
    let (cluster, named) = (name(chance), name(chance));
    let (name, current) = (name(chance), name(chance));
    let (server, other) = (server(chance), server(chance));
    let namespace = match chance.rng.u8(..3) {
        0 => String::new(),
        1 => "namespace: ci".into(),
        _ => format!("namespace: {}", scalar(chance)),
    };
    if chance.once_in(6) {
        text += &json!({
            "clusters": [{"name": cluster, "cluster": {"server": server}}], "current-context": current,
            "contexts": [{"name": name, "context": {"cluster": named, "namespace": "ci"}}],
        })
        .to_string();
        if chance.once_in(3) {
            text = text.replace(',', ",\n ");
        }
    } else {
        text += &format!("clusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n");
        if chance.once_in(4) {
            text += &format!("- name: {cluster}\n  cluster: {{server: {other}}}\n");
        }
        text += &format!("contexts:\n- context:\n    cluster: {named}\n    {namespace}\n  name: {name}\n");
        if chance.once_in(6) {
            text += "- name: y\n  context: {cluster: x, namespace: two}\n";
        }
        if !chance.once_in(8) {
            text += &format!("current-context: {current}\n");
        }
    }
    text += chance.one_of(&[
        "",
        "",
        "",
        "",
        "---\nx: y\n",
        "...\n",
        "---\n",
        "users: []\n",
        "kind: Config\n",
        "kind: Other\n",
        "apiVersion: v2\n",
        "current-context: y\n",
        "clusters: []\n",
        "users: ~\n",
        "preferences: {}\n",
        "}",
        "\0",
        "x: *gone\n",
    ]);
    if chance.once_in(40) {
        text += &format!("deep: {}\n", "[".repeat(chance.rng.usize(..3000)));
    }
    if chance.once_in(10) {
        text = text.replace('\n', "\r\n");
    }
    let mut bytes = text.into_bytes();
    let changed = if chance.once_in(4) { chance.rng.usize(..3) } else { 0 };
    for _ in 0..changed {
        let at = chance.rng.usize(..bytes.len());
        bytes[at] = chance.rng.u8(..);
    }
    (bytes, changed > 0)
}

/// The plugin has no client-go, and takes more than podbridge: entries that it does not need may be wrong.
#[test]
#[ignore = "needs an interpreter with ansible-core; make test-differential installs it"]
fn the_plugin_names_the_same_slot_of_a_kubeconfig() {
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("config");
    let _socket = UnixListener::bind(directory.path().join("socket")).unwrap();
    let mut plugin = plugin(directory.path());
    let mut chance = Chance::new(1500);
    let mut same = 0;
    for _ in 0..chance.cases {
        let (bytes, is_changed) = random_kubeconfig(&mut chance);
        fs::write(&kubeconfig, &bytes).unwrap();
        let mut target = json!({"pod": "web", "kubeconfig": kubeconfig});
        for (name, values) in [
            ("context", &["x", "y", "on", "8", ""][..]),
            ("namespace", &["ns", "ci"]),
            ("server", &["https://two:2"]),
            ("token", &["t"]),
        ] {
            if chance.once_in(6) {
                target[name] = json!(chance.one_of(values));
            }
        }
        let parsed: Target = serde_json::from_value(target.clone()).unwrap();
        let here = PodReference::of_target(&parsed)
            .and_then(|pod| pod::identity(&kubeconfig, pod.context.as_deref(), pod.namespace.as_deref()).ok())
            .map(|found| json!({"namespace": found.namespace, "pod": "web", "server": found.server}));
        let answer = plugin.ask(&json!({"target": target}).to_string());
        let about = || format!("{target} {answer}\n{}", String::from_utf8_lossy(&bytes));
        assert_eq!(answer["error"], Value::Null, "{}", about());
        // Without a server no bridge was ever made.
        let there = Some(&answer["slot"]).filter(|slot| !slot.is_null() && slot["server"] != "");
        match &here {
            // The plugin then starts a bridge of its own.
            Some(_) if is_changed && there.is_none() => {}
            Some(_) => assert_eq!(there, here.as_ref(), "{}", about()),
            // No bridge listens for a kubeconfig that podbridge refuses. What the plugin may see is another one's that it reads the same.
            None => assert!(
                there.is_none_or(|slot| slot["server"].is_string() && slot["namespace"].is_string()),
                "{}",
                about()
            ),
        }
        same += usize::from(here.is_some());
    }
    assert!(
        same > chance.cases / 50,
        "{same} of {} kubeconfigs lead to a slot",
        chance.cases
    );
}
