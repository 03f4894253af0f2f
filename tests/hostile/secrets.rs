//! Secrets that go through a bridge and an agent: canary values in every place where a secret may be. None may be in a log, on a command
//! line of a daemon, or in the text of an error. `main` runs the case.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use podbridge_tests::client_protocol::{Connection, RESULT, STDIN, STDIN_EOF, memory_file};
use podbridge_tests::pair::Pair;
use serde_json::{Value, json};

use crate::frame::bridge::start_bridge_with_log;
use crate::frame::control::Control;
use crate::frame::scene::{AGENT_CEILING, Case, Scene, Setting};

pub(crate) fn cases() -> Vec<Case> {
    vec![("secrets::canaries".into(), Box::new(run))]
}

/// Values that must not be seen, and what they were.
pub(crate) struct Canaries {
    rng: fastrand::Rng,
    values: Vec<(&'static str, String)>,
}

impl Canaries {
    pub(crate) fn new(rng: fastrand::Rng) -> Self {
        Self {
            rng,
            values: Vec::new(),
        }
    }

    /// Returns a new value for this use.
    pub(crate) fn make(&mut self, what: &'static str) -> String {
        let value = format!("canary{:032x}", self.rng.u128(..));
        self.values.push((what, value.clone()));
        value
    }

    /// Returns which values a text has.
    pub(crate) fn found_in(&self, text: &[u8]) -> Vec<&'static str> {
        let is_in = |value: &str| text.windows(value.len()).any(|window| window == value.as_bytes());
        let found = self.values.iter().filter(|(_, value)| is_in(value));
        found.map(|(what, _)| *what).collect()
    }
}

/// Runs an operation; returns its result. Nothing is checked, because some of them fail.
fn operate(socket: &Path, request: &Value, descriptor: Option<&[u8]>, stdin: Option<&[u8]>) -> Value {
    let mut connection = Connection::open(socket).unwrap();
    let memory = descriptor.map(memory_file);
    let descriptors: Vec<_> = memory.iter().map(|memory| memory.as_fd()).collect();
    connection.send_request(request, &descriptors).unwrap();
    if let Some(stdin) = stdin {
        connection.send(STDIN, stdin).unwrap();
        connection.send(STDIN_EOF, &[]).unwrap();
    }
    loop {
        let (kind, payload) = connection.read_frame().unwrap();
        if kind == RESULT {
            return serde_json::from_slice(&payload).unwrap();
        }
    }
}

fn run(setting: &Setting) {
    let mut scene = Scene::begin(setting);
    let log = tempfile::NamedTempFile::new().unwrap();
    let pair = Pair::with_log("trace", log.reopen().unwrap());
    let socket = start_bridge_with_log(&mut scene, &pair, "trace");
    scene.guard("agent", pair.agent(), AGENT_CEILING);
    let mut canaries = Canaries::new(scene.rng.fork());
    let control = Control::Exec(socket.clone());
    let results = scene.attack(&control, |_| send_secrets(&socket, pair.dir(), &mut canaries));
    for (what, result) in &results {
        for secret in canaries.found_in(result.to_string().as_bytes()) {
            scene.fault(format!("the result of {what} shows {secret}"));
        }
    }
    let mut places = vec![socket.with_extension("log"), log.path().to_owned()];
    for process in pair.bridges().into_iter().chain([pair.agent()]) {
        places.extend(["cmdline", "environ"].map(|file| PathBuf::from(format!("/proc/{process}/{file}"))));
    }
    for place in places {
        let text = fs::read(&place).unwrap();
        assert!(
            !text.is_empty() || place.ends_with("environ"),
            "{} is empty",
            place.display()
        );
        for secret in canaries.found_in(&text) {
            scene.fault(format!("{} shows {secret}", place.display()));
        }
    }
    let names = fs::read_dir(pair.bridge_dir()).unwrap().flatten();
    for name in names.map(|entry| entry.file_name()) {
        scene.expect(canaries.found_in(name.as_bytes()).is_empty(), || {
            format!("{name:?} is a secret")
        });
    }
    scene.conclude();
}

/// Sends a secret by every way that a client has. Returns what was done, with its result.
fn send_secrets(socket: &Path, dir: &Path, canaries: &mut Canaries) -> Vec<(&'static str, Value)> {
    let mut results = Vec::new();
    let mut run = |what, request: Value, descriptor: Option<String>, stdin: Option<String>| {
        let result = operate(
            socket,
            &request,
            descriptor.as_ref().map(String::as_bytes),
            stdin.as_ref().map(String::as_bytes),
        );
        results.push((what, result));
    };
    let exec = |argv: &[&str]| json!({"v": 1, "op": "exec", "argv": argv});
    run("a command", exec(&["true", &canaries.make("an argument")]), None, None);
    run(
        "a command that fails",
        exec(&["sh", "-c", "exit 3", &canaries.make("an argument of a failing command")]),
        None,
        None,
    );
    let mut request = exec(&["true"]);
    request["env"] = json!([["BECOME_PASSWORD", canaries.make("a variable")]]);
    run("a command with a variable", request, None, None);
    let mut request = json!({"v": 1, "op": "exec", "shell": format!(": {}", canaries.make("a shell line"))});
    run("a shell line", request.clone(), None, None);
    request["stdin"] = json!("stream");
    run("a command with input", request, None, Some(canaries.make("input")));
    let mut request = exec(&["cat"]);
    request["stdin"] = json!("fd");
    run(
        "a command with input in a descriptor",
        request,
        Some(canaries.make("input in a descriptor, and output")),
        None,
    );
    let file = dir.join("secret");
    run(
        "put",
        json!({"v": 1, "op": "put", "path": &file, "mode": 0o600}),
        Some(canaries.make("a file that is put")),
        None,
    );
    fs::write(&file, canaries.make("a file that is got")).unwrap();
    run("get", json!({"v": 1, "op": "get", "path": &file}), None, None);
    run(
        "admit_token",
        json!({"v": 1, "op": "admit_token", "token": canaries.make("a token")}),
        None,
        None,
    );
    // Requests that are refused.
    run(
        "a request without an operation",
        json!({"v": 1, "op": "none", "argv": [canaries.make("an argument of no operation")]}),
        None,
        None,
    );
    for (what, request) in [
        (
            "a request with a wrong type",
            json!({"op": "exec", "argv": ["true"], "env": "SECRET"}),
        ),
        (
            "a request with a wrong number",
            json!({"op": "exec", "argv": ["true"], "pty": {"rows": "SECRET", "cols": 1}}),
        ),
        (
            "a request with a wrong word",
            json!({"op": "exec", "argv": ["true"], "stdin": "SECRET"}),
        ),
        (
            "a request with two keys of bytes",
            json!({"op": "exec", "argv": [{"b64": "AA==", "SECRET": 1}]}),
        ),
        ("a request that is a text", json!("SECRET")),
        ("a request with a wrong version", json!({"v": "SECRET", "op": "status"})),
    ] {
        let mut text = request.to_string().replace("SECRET", &canaries.make(what));
        if !text.contains("\"v\"") {
            text = text.replacen('{', "{\"v\":1,", 1);
        }
        run(what, serde_json::from_str(&text).unwrap(), None, None);
    }
    results
}
