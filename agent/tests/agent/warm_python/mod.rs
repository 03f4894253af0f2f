//! Tests of warm Python: a module in a warm interpreter is an exec like any other, sees nothing of the modules before it, and no difference to a
//! new interpreter. The modules have the form of Ansible's; their files are this test's own.

mod ends;
mod interpreters;
mod sees;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::{StartRequest, StdinMode, Stream};
use tokio_stream::StreamExt as _;

use crate::harness::{Agent, Finished, argv, run, soon};

/// The wrapper of a module, as ansible-core 2.18 sends it, without what no test needs.
const WRAPPER: &str = r#"#!/usr/bin/python3
# -*- coding: utf-8 -*-
_ANSIBALLZ_WRAPPER = True
def _ansiballz_main():
    import os
    import sys
    import __main__
    scriptdir = os.path.dirname(os.path.realpath(__main__.__file__))
    sys.path = [p for p in sys.path if p not in {'', '.', scriptdir}]
    import base64
    import runpy
    import shutil
    import tempfile
    ZIPDATA = '@PAYLOAD@'
    temp_path = tempfile.mkdtemp(prefix='ansible_test_payload_')
    try:
        modlib_path = os.path.join(temp_path, 'ansible_test_payload.zip')
        with open(modlib_path, 'wb') as modlib:
            modlib.write(base64.b64decode(ZIPDATA))
        sys.path.insert(0, modlib_path)
        from ansible.module_utils import basic
        basic._ANSIBLE_ARGS = '@ARGUMENTS@'
        runpy.run_module(mod_name='ansible.modules.test', run_name='__main__', alter_sys=True)
    finally:
        shutil.rmtree(temp_path)
if __name__ == '__main__':
    _ansiballz_main()
"#;

/// Makes a payload of the files in the directory, compressed.
const PACK: &str = "import base64, io, os, sys, zipfile
memory = io.BytesIO()
archive = zipfile.ZipFile(memory, 'w', zipfile.ZIP_DEFLATED)
for directory, _, names in os.walk(sys.argv[1]):
    for name in sorted(names):
        path = os.path.join(directory, name)
        archive.write(path, os.path.relpath(path, sys.argv[1]))
archive.close()
print(base64.b64encode(memory.getvalue()).decode())";

/// The module_utils of the payload. `seen` is state that a module may leave behind.
const BASIC: &str = "import json, os, pathlib, sys
from ansible.module_utils.common import file as shared
_ANSIBLE_ARGS = None
PLACE = pathlib.Path(__file__).parents[2]
seen = []
def place():
    return shared.__file__
";

/// Returns the text of a module whose body is `body`.
fn module(body: &str, arguments: &str) -> Vec<u8> {
    module_with("", body, arguments)
}

/// The same with a file of a role, `ansible.module_utils.of_role`.
fn module_with(of_role: &str, body: &str, arguments: &str) -> Vec<u8> {
    let files = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "ansible/__init__.py",
            "from pkgutil import extend_path\n__path__=extend_path(__path__,__name__)\n",
        ),
        (
            "ansible/module_utils/__init__.py",
            "from pkgutil import extend_path\n__path__=extend_path(__path__,__name__)\n",
        ),
        ("ansible/module_utils/basic.py", BASIC),
        ("ansible/module_utils/common/__init__.py", ""),
        ("ansible/module_utils/common/file.py", "values = {}\n"),
        ("ansible/module_utils/of_role.py", of_role),
        ("ansible/modules/__init__.py", ""),
        ("ansible/modules/test.py", body),
    ] {
        let path = files.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let packed = Command::new("/usr/bin/python3")
        .args(["-c", PACK])
        .arg(files.path())
        .output()
        .unwrap();
    assert!(packed.status.success(), "{packed:?}");
    let payload = String::from_utf8(packed.stdout).unwrap();
    let text = WRAPPER
        .replace("@PAYLOAD@", payload.trim())
        .replace("@ARGUMENTS@", arguments);
    text.into_bytes()
}

const PIPELINED: &str = "/bin/sh -c '/usr/bin/python3 && sleep 0'";

fn pipelined(line: &str, module: &[u8]) -> StartRequest {
    StartRequest {
        stdin_mode: StdinMode::Inline as i32,
        stdin: module.to_vec().into(),
        ..argv(&["/bin/sh", "-c", line])
    }
}

fn cold(start: StartRequest) -> StartRequest {
    StartRequest {
        cold_python: true,
        ..start
    }
}

/// Runs an exec to its end; also returns what the agent says of its interpreter.
async fn finish(agent: &Agent, start: StartRequest) -> (Finished, String) {
    let mut events = agent.exec().await.run(run(start)).await.unwrap().into_inner();
    let (mut seen, mut python) = (Finished::default(), String::new());
    while let Some(event) = soon(events.next()).await {
        match event.unwrap().event.unwrap() {
            Event::Started(started) => (seen.pid, python) = (started.pid, started.python),
            Event::Output(output) if output.stream == Stream::Stderr as i32 => seen.stderr.extend(output.data),
            Event::Output(output) => seen.stdout.extend(output.data),
            Event::Gap(gap) => panic!("{gap:?}"),
            Event::Exited(record) => seen.exit = Some(record),
            Event::Closed(closed) => seen.held_open = closed.held_open,
        }
    }
    (seen, python)
}

/// Runs the module until it ran in a warm interpreter.
async fn finish_warm(agent: &Agent, start: impl Fn() -> StartRequest) -> Finished {
    let begun = Instant::now();
    loop {
        let (seen, python) = finish(agent, start()).await;
        if python == "warm" {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it stays cold: {python}");
        // Nothing tells when the interpreter is ready.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Keeps a connection open: without one, the agent ends its interpreters.
async fn agent() -> (Agent, impl Sized) {
    connected(Agent::start()).await
}

/// The same with this working directory.
async fn agent_in(directory: &Path) -> (Agent, impl Sized) {
    connected(Agent::start_by("env", &["--chdir", directory.to_str().unwrap()])).await
}

async fn connected(agent: Agent) -> (Agent, impl Sized) {
    let connection = agent.exec().await;
    let mut connected = connection.clone();
    // The channel connects with its first call.
    let _ = connected.list(podbridge_proto::v1::ListRequest::default()).await;
    (agent, connection)
}
