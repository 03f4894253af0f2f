//! Tests of warm Python: a module in a warm interpreter is an exec like any other, sees nothing of the modules before it, and no difference to a
//! new interpreter. The modules have the form of Ansible's; their files are this test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::{CancelRequest, EnvVar, StartRequest, StdinMode, Stream};
use tokio_stream::StreamExt as _;

use crate::harness::{Agent, Finished, alive, argv, eventually, run, soon};

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
from ansible.module_utils.common import shared
_ANSIBLE_ARGS = None
PLACE = pathlib.Path(__file__).parents[2]
seen = []
def place():
    return shared.__file__
";

/// Returns the text of a module whose body is `body`.
fn module(body: &str, arguments: &str) -> Vec<u8> {
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
        ("ansible/module_utils/common/shared.py", "values = {}\n"),
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
    let agent = Agent::start();
    let connection = agent.exec().await;
    let mut connected = connection.clone();
    // The channel connects with its first call.
    let _ = connected.list(podbridge_proto::v1::ListRequest::default()).await;
    (agent, connection)
}

/// Prints all that a module may see of its process, but for what differs from one process to the next.
const LOOK: &str = r#"
import os, sys, json, signal, resource, locale, threading, gc, warnings
from ansible.module_utils import basic
import ansible.module_utils.common.shared as shared
import __main__
archive = [p for p in sys.path if p.endswith('payload.zip')]
text = lambda value: str(value).replace(os.path.dirname(archive[0]), 'TMP')
mask = os.umask(0); os.umask(mask)
codes = [f.__code__.co_filename for f in (basic.place, lambda: 0)]
spec = lambda m: [m.__name__, m.__file__, m.__package__, m.__spec__.name, m.__spec__.origin, type(m.__loader__).__name__, getattr(m, '__path__', None), m.__loader__.archive, hasattr(m, '__cached__') and m.__cached__]
print(json.dumps([text(v) for v in (
    sys.argv, sys.path, sys.flags, sys.executable, sys.prefix, getattr(sys, 'orig_argv', None), archive,
    os.getuid(), os.getgid(), os.getgroups(), os.getcwd(), mask, sorted(os.environ.items()), sorted(os.environb.items()),
    locale.setlocale(locale.LC_ALL), sys.stdin.encoding, sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering,
    sys.stdin.seekable(), sys.stdout.isatty(), sys.stdin.read(), os.read(0, 9),
    [signal.getsignal(n) for n in sorted(signal.valid_signals())], sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    [(n, resource.getrlimit(n)) for n in range(16) if n != 10], [os.readlink('/proc/self/fd/%d' % n).split(':')[0] for n in (0, 1, 2)],
    sorted(int(n) for n in os.listdir('/proc/self/fd')), os.getpid() == os.getsid(0), os.getpgid(0) == os.getsid(0),
    open('/proc/self/oom_score_adj').read(), open('/proc/self/cmdline').read(), open('/proc/self/comm').read(),
    sorted(open('/proc/self/environ').read().split('\0')),
    threading.active_count(), threading.current_thread().name, warnings.filters, sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold(),
    type(sys.meta_path[0]), len(sys.meta_path), sys.dont_write_bytecode, sys.excepthook, sys.displayhook,
    basic._ANSIBLE_ARGS, basic.seen, shared.values, basic.PLACE, type(basic.PLACE), basic.place(), codes, spec(basic), spec(shared),
    spec(sys.modules['ansible']), spec(sys.modules['ansible.module_utils']), spec(sys.modules['ansible.module_utils.common']),
    sys.modules['ansible.module_utils'].basic is basic, sys.modules['ansible.module_utils.common'].shared is shared,
    sorted(m for m in sys.modules if m.startswith('ansible')), sorted(vars(basic)), sorted(vars(shared)),
    sorted(n for n in globals() if n.startswith('__')), __name__, __file__,
    sorted(vars(sys.modules['ansible.module_utils.common'])), basic.__loader__.get_source('ansible.module_utils.basic'),
)]))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_sees_the_process_that_it_sees_in_a_new_interpreter() {
    let (agent, _connection) = agent().await;
    let directory = agent.dir.path().join("ansible-tmp-1-2-3");
    fs::create_dir(&directory).unwrap();
    let text = module(LOOK, "arguments");
    let file = directory.join("AnsiballZ_test.py");
    fs::write(&file, &text).unwrap();
    let copied = format!("/bin/sh -c '/usr/bin/python3 {} && sleep 0'", file.display());
    let own = EnvVar {
        name: "OF_THE_REQUEST".into(),
        value: "1".into(),
    };
    let assigned = r#"/bin/sh -c 'A=b B='"'"'c d'"'"' LC_ALL=C.UTF-8 /usr/bin/python3 && sleep 0'"#;
    let rows = [
        ("pipelined", pipelined(PIPELINED, &text)),
        ("environment of the task", pipelined(assigned, &text)),
        (
            "environment of the exec",
            StartRequest {
                env: vec![own],
                ..pipelined(PIPELINED, &text)
            },
        ),
        ("bash", pipelined("/bin/bash -c '/usr/bin/python3 && sleep 0'", &text)),
        ("copied", argv(&["/bin/sh", "-c", &copied])),
        ("newer core", pipelined("/bin/sh -c /usr/bin/python3", &text)),
    ];
    for (name, start) in rows {
        let again = || StartRequest {
            exec_id: argv(&[]).exec_id,
            ..start.clone()
        };
        let (in_new, _) = finish(&agent, cold(again())).await;
        assert_eq!(
            in_new.cause(),
            Cause::Exited(0),
            "{name}: {}",
            String::from_utf8_lossy(&in_new.stderr)
        );
        let in_warm = finish_warm(&agent, again).await;
        let (mut a, mut b) = (values(&in_new), values(&in_warm));
        assert_eq!(a.len(), b.len(), "{name}: {}", String::from_utf8_lossy(&in_warm.stderr));
        if name == "copied" {
            // The command line of a process cannot be changed: that of a warm one lacks the file.
            let command_line =
                |values: &mut Vec<String>| values.retain(|value| !value.starts_with("/usr/bin/python3\0"));
            command_line(&mut a);
            command_line(&mut b);
        }
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a, b, "{name}");
        }
        assert_eq!(in_warm.cause(), Cause::Exited(0), "{name}");
    }
}

fn values(seen: &Finished) -> Vec<String> {
    // A list of strings in JSON; the only escapes in it are of one character, and those of control characters.
    let text = seen.stdout().trim().trim_start_matches('[').trim_end_matches(']');
    let addresses = |text: &str| {
        let mut parts = text.split(" at 0x");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |all, part| {
            all + part.trim_start_matches(|c: char| c.is_ascii_hexdigit())
        })
    };
    text.split("\", \"")
        .map(|value| addresses(&value.replace("\\u0000", "\0")).trim_matches('"').to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_ends_as_it_ends_in_a_new_interpreter() {
    let (agent, _connection) = agent().await;
    finish_warm(&agent, || pipelined(PIPELINED, &module("", ""))).await;
    for (name, body) in [
        ("prints", "print('out'); import sys; print('err', file=sys.stderr)"),
        ("exits with a code", "import sys; sys.exit(7)"),
        ("exits with a text", "import sys; sys.exit('reason')"),
        ("exits at once", "import os; print('lost'); os._exit(9)"),
        ("raises", "raise ValueError('x')"),
        (
            "raises in a function",
            "def f():\n    raise ValueError('x')\ntry:\n    1/0\nfinally:\n    f()",
        ),
        ("has a syntax error", "print('"),
        ("has an import that is missing", "import ansible.module_utils.nothing"),
        (
            "leaves output to its exit",
            "import sys; f = open('/dev/stdout', 'w'); f.write('late')",
        ),
        ("has exit functions", "import atexit; atexit.register(print, 'bye')"),
        (
            "has threads",
            "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
        ),
        (
            "kills itself",
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        ),
        (
            "is interrupted",
            "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        ),
        (
            "ends itself softly",
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        ),
        (
            "forks",
            "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('one of two', flush=True); os._exit(0)",
        ),
        (
            "has a session",
            "import os; os.setsid(); print(os.getsid(0) == os.getpid())",
        ),
        (
            "prints bytes",
            "import sys; sys.stdout.buffer.write(bytes(range(256)) * 300)",
        ),
        ("closes all", "import os; os.closerange(0, 100)"),
        (
            "runs a program",
            "import subprocess; print(subprocess.run(['sh', '-c', 'echo $0; exit 3', 'x'], stdout=-1))",
        ),
        ("warns", "import warnings; warnings.warn('old')"),
        ("compiles with a warning", "print('\\d')"),
    ] {
        let text = module(body, "");
        let (in_new, _) = finish(&agent, cold(pipelined(PIPELINED, &text))).await;
        let in_warm = finish_warm(&agent, || pipelined(PIPELINED, &text)).await;
        assert_eq!(in_warm.cause(), in_new.cause(), "{name}: {}", lines(&in_warm));
        assert_eq!(in_warm.stdout, in_new.stdout, "{name}");
        assert_eq!(lines(&in_warm), lines(&in_new), "{name}");
    }
}

/// Returns stderr without the names of temporary directories, and without the shell's word on a signal: no shell waits for a warm module.
fn lines(seen: &Finished) -> String {
    let text = String::from_utf8_lossy(&seen.stderr).into_owned();
    let lines = text
        .lines()
        .filter(|line| !["Killed", "Terminated"].contains(&line.trim()));
    // The import of a module with an error leads through the interpreter's own functions.
    let lines = lines.filter(|line| {
        !["in known_location", "in known_code"]
            .iter()
            .any(|name| line.ends_with(name))
    });
    let lines = lines.map(|line| match line.split_once("/tmp/ansible_test_payload_") {
        Some((head, tail)) => head.to_owned() + tail.split_once('/').map_or(tail, |(_, tail)| tail),
        None => line.to_owned(),
    });
    let mut lines: Vec<String> = lines.collect();
    // The stack of a warm module has one more frame at its bottom, which an interrupt shows.
    let is_bottom = |line: &String| line.starts_with("  File \"<stdin>\"") && line.ends_with("in <module>");
    if lines.iter().filter(|line| is_bottom(line)).count() == 2 {
        lines.remove(lines.iter().position(is_bottom).unwrap_or_default());
    }
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_sees_nothing_of_the_module_before() {
    let (agent, _connection) = agent().await;
    let plant = r#"
import os, sys, json, signal, locale, threading, atexit, socket, builtins, resource, warnings, time, tempfile
from ansible.module_utils import basic
from ansible.module_utils.common import shared
basic.seen.append('planted'); shared.values['planted'] = 1; basic.planted = 1; builtins.planted = 1; json.dumps = None
sys.path.append('/planted'); sys.modules['planted'] = sys; os.environ['PLANTED'] = '1'; os.chdir('/'); os.umask(0o77)
signal.signal(signal.SIGUSR1, lambda *a: None); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
locale.setlocale(locale.LC_ALL, 'C'); socket.setdefaulttimeout(1); resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
warnings.simplefilter('error'); sys.setrecursionlimit(222); tempfile.tempdir = '/planted'; os.nice(1)
for number in range(20): os.dup(1)
atexit.register(print, 'planted'); threading.Thread(target=time.sleep, args=(0.2,)).start()
"#;
    let (look, plant) = (module(LOOK, ""), module(plant, ""));
    let before = finish_warm(&agent, || pipelined(PIPELINED, &look)).await;
    finish_warm(&agent, || pipelined(PIPELINED, &plant)).await;
    let after = finish_warm(&agent, || pipelined(PIPELINED, &look)).await;
    for (a, b) in values(&before).iter().zip(&values(&after)) {
        assert_eq!(a, b);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_of_python_is_seen_by_the_next_module() {
    let (agent, _connection) = agent().await;
    let prefix = agent.dir.path().join("venv");
    let made = Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(&prefix)
        .status();
    assert!(made.unwrap().success());
    let site = fs::read_dir(prefix.join("lib"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join("site-packages");
    let line = format!("/bin/sh -c '{}/bin/python && sleep 0'", prefix.display());
    let text = module(
        "try:\n    import planted\n    print(planted.value)\nexcept ImportError: print('none')",
        "",
    );
    let start = || pipelined(&line, &text);
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(&str, Change<'_>); 4] = [
        ("1\n", &|site| fs::write(site.join("planted.py"), "value = 1").unwrap()),
        ("22\n", &|site| {
            fs::remove_file(site.join("planted.py")).unwrap();
            fs::write(
                site.join("planted.pth"),
                "import sys; sys.modules['planted'] = type(sys)('planted'); sys.modules['planted'].value = 22\n",
            )
            .unwrap();
        }),
        ("333\n", &|site| {
            fs::write(
                site.join("planted.pth"),
                "import sys; sys.modules['planted'] = type(sys)('planted'); sys.modules['planted'].value = 333\n",
            )
            .unwrap();
        }),
        ("none\n", &|site| {
            fs::remove_file(site.join("planted.pth")).unwrap();
            // The next interpreter has another version of its own settings.
            let settings = site.ancestors().nth(3).unwrap().join("pyvenv.cfg");
            let text = fs::read_to_string(&settings).unwrap();
            fs::write(&settings, text + "prompt = changed\n").unwrap();
        }),
    ];
    assert_eq!(finish_warm(&agent, start).await.stdout(), "none\n");
    for (expected, change) in changes {
        change(&site);
        assert_eq!(finish(&agent, start()).await.0.stdout(), expected);
        assert_eq!(finish_warm(&agent, start).await.stdout(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_tree_of_a_warm_module_alone() {
    let (agent, _connection) = agent().await;
    finish_warm(&agent, || pipelined(PIPELINED, &module("", ""))).await;
    // The second process leaves the session, the group and its parent.
    let stubborn = module(
        "import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
os.write(1, b'%d\\n' % os.getpid())
time.sleep(600)",
        "",
    );
    let begun = Instant::now();
    let (mut events, id) = loop {
        let start = pipelined(PIPELINED, &stubborn);
        let id = start.exec_id.clone();
        let mut events = agent.exec().await.run(run(start)).await.unwrap().into_inner();
        let first = soon(events.next()).await.unwrap().unwrap().event.unwrap();
        let Event::Started(started) = first else {
            panic!("{first:?}")
        };
        if started.python == "warm" {
            break (events, id);
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", started.python);
        let cancel = CancelRequest {
            exec_id: id,
            ..CancelRequest::default()
        };
        agent.exec().await.cancel(cancel).await.unwrap();
    };
    let mut text = String::new();
    while text.matches('\n').count() < 2 {
        if let Event::Output(output) = soon(events.next()).await.unwrap().unwrap().event.unwrap() {
            text += std::str::from_utf8(&output.data).unwrap();
        }
    }
    let pids: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| alive(*pid)));
    let other = finish_warm(&agent, || pipelined(PIPELINED, &module("print('other')", ""))).await;
    assert_eq!(other.stdout(), "other\n");
    let cancel = CancelRequest {
        exec_id: id,
        ..CancelRequest::default()
    };
    agent.exec().await.cancel(cancel).await.unwrap();
    eventually("the tree has ended", || !pids.iter().any(|pid| alive(*pid)));
    // The interpreter is not of that tree.
    let (_, python) = finish(&agent, pipelined(PIPELINED, &module("print('other')", ""))).await;
    assert_eq!(python, "warm");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_modules_at_once_run_once_each() {
    let (agent, _connection) = agent().await;
    let counter = agent.dir.path().join("counter");
    let text = module(&format!("open({:?}, 'a').write('x')", counter.to_str().unwrap()), "");
    finish_warm(&agent, || pipelined(PIPELINED, &text)).await;
    let before = fs::metadata(&counter).unwrap().len();
    let all = (0..60).map(|_| finish(&agent, pipelined(PIPELINED, &text)));
    let mut running = Vec::new();
    for one in all {
        running.push(one);
    }
    let mut warm = 0;
    for one in futures_all(running).await {
        assert_eq!(
            one.0.cause(),
            Cause::Exited(0),
            "{}",
            String::from_utf8_lossy(&one.0.stderr)
        );
        warm += usize::from(one.1 == "warm");
    }
    assert_eq!(fs::metadata(&counter).unwrap().len() - before, 60);
    assert!(warm > 0);
}

/// Polls all of the futures at once.
async fn futures_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_warm_where_it_may_not_be() {
    let (agent, _connection) = agent().await;
    let text = module("print('ran')", "");
    let fake = agent.dir.path().join("python");
    fs::write(&fake, "#!/bin/sh\nexec /usr/bin/python3 \"$@\"\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let launcher = format!("/bin/sh -c '{} && sleep 0'", fake.display());
    let verbose = "/bin/sh -c 'PYTHONWARNINGS=error /usr/bin/python3 && sleep 0'";
    for (reason, start) in [
        ("switched off", cold(pipelined(PIPELINED, &text))),
        ("starts another one", pipelined(&launcher, &text)),
        ("how Python starts", pipelined(verbose, &text)),
        (
            "no plain call",
            pipelined("/bin/sh -c '/usr/bin/python3 ; sleep 0'", &text),
        ),
    ] {
        let begun = Instant::now();
        let mut is_known = false;
        while !is_known {
            let again = StartRequest {
                exec_id: argv(&[]).exec_id,
                ..start.clone()
            };
            let (seen, python) = finish(&agent, again).await;
            assert_eq!(seen.stdout(), "ran\n", "{reason}");
            assert!(!python.is_empty() && python != "warm", "{reason}: {python}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{reason}: {python}");
            is_known = python.contains(reason);
        }
    }
    let plain = finish(&agent, argv(&["/bin/sh", "-c", "echo ~root && sleep 0"])).await;
    assert_eq!(plain.1, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interpreters_end_with_the_last_connection_and_with_the_agent() {
    let (agent, connection) = agent().await;
    let text = module("import os; print(os.getpid())", "");
    finish_warm(&agent, || pipelined(PIPELINED, &text)).await;
    let children = || {
        let pid = agent.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let of_threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let all: String = of_threads
            .map(|t| fs::read_to_string(t.path().join("children")).unwrap_or_default())
            .collect();
        (children + &all).split_whitespace().count()
    };
    assert!(children() > 0);
    drop(connection);
    eventually("no interpreter is left", || children() == 0);
}
