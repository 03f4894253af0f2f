//! One case of the false pod: a bridge that dials it. `mod` runs the rows of the table.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use podbridge_tests::client_protocol::{Connection, ask};
use podbridge_tests::pair::{Pair, binary};
use serde_json::{Value, json};

use crate::false_pod::api_server::{ApiServer, Container, Programs};
use crate::frame::control::Control;
use crate::frame::output;
use crate::frame::scene::{self, BRIDGE_CEILING, Scene, Setting};

/// The bridge's connect timeout, in seconds, and how much later a dial may end.
const CONNECT_TIMEOUT: u64 = 1;
const SLACK: Duration = Duration::from_secs(8);

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) programs: Programs,
}

impl scene::Row for Row {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// Starts a bridge for the pod of a server; returns its socket.
pub(super) fn start_bridge(pair: &Pair, server: &ApiServer) -> PathBuf {
    start_bridge_with(pair, server, &json!({}))
}

/// Starts a bridge whose target has these options beside the usual ones.
pub(super) fn start_bridge_with(pair: &Pair, server: &ApiServer, options: &Value) -> PathBuf {
    let kubeconfig = pair.dir().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "ctx",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", server.port)}}], "users": [],
        "contexts": [{"name": "ctx", "context": {"cluster": "c", "namespace": "ns"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let mut target = json!({"kubeconfig_file": kubeconfig, "namespace": "ns", "pod": "web", "link": "exec-proxy"});
    let options = options.as_object().unwrap().clone();
    target.as_object_mut().unwrap().extend(options);
    let target_file = pair.dir().join("target");
    std::fs::write(&target_file, target.to_string()).unwrap();
    let mut command = Command::new(binary("podbridge"));
    command
        .args(["bridge", "--connect-timeout", &CONNECT_TIMEOUT.to_string()])
        .stdin(std::fs::File::open(&target_file).unwrap())
        .stderr(Stdio::inherit())
        .env("PODBRIDGE_DIR", pair.bridge_dir())
        .env("PODBRIDGE_LOG", "info")
        .env("PODBRIDGE_AGENT", binary("podbridge-agent"));
    let started = command.output().unwrap();
    let answer: Value = serde_json::from_slice(&started.stdout).unwrap_or_else(|_| panic!("{started:?}"));
    answer["socket"].as_str().unwrap_or_else(|| panic!("{answer}")).into()
}

/// Runs rows one after the other against one bridge.
pub(super) fn run(setting: &Setting, rows: &mut VecDeque<Row>) -> Vec<String> {
    let mut scene = Scene::begin_beside_others(setting);
    let pair = Pair::without_agent();
    let server = ApiServer::start(Container::Runs(rows[0].programs));
    let socket = start_bridge(&pair, &server);
    scene.watch_output(socket.with_extension("log"));
    let control = Control::Status(socket.clone());
    // A first dial opens what the bridge keeps open.
    ask(&socket, &json!({"v": 1, "op": "status"})).unwrap();
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    scene.guard("bridge", bridge, BRIDGE_CEILING);
    while let Some(row) = rows.pop_front() {
        scene.begin_row(row.name);
        server.set(Container::Runs(row.programs));
        let begun = Instant::now();
        let mut client = scene.attack_for(Duration::from_millis(300), &control, |_| {
            let mut client = Connection::open(&socket).unwrap();
            let request = json!({"v": 1, "op": "exec", "argv": ["true"]});
            client.send_request(&request, &[]).unwrap();
            client
        });
        match client.read_result() {
            Ok(result) => {
                scene.expect(result["outcome"] == "unreachable", || {
                    format!("the outcome is {result}")
                });
                let message = result["message"].as_str().unwrap_or_default().to_owned();
                for fault in output::faults(message.as_bytes()) {
                    scene.fault(format!("the message: {fault}"));
                }
            }
            Err(error) => scene.fault(format!("no result {:?} after the request: {error}", begun.elapsed())),
        }
        let limit = Duration::from_secs(CONNECT_TIMEOUT) + SLACK;
        scene.expect(begun.elapsed() < limit, || {
            format!("the dial took {:?}", begun.elapsed())
        });
        drop(client);
        if scene.is_spoilt() {
            break;
        }
    }
    scene.verdict()
}
