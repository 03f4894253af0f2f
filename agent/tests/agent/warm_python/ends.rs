//! What a module in a warm interpreter does, and how it ends: as in a new one.

use std::fs;

use super::{PIPELINED, agent, cold, finish, finish_warm, module, pipelined};
use crate::harness::Finished;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_ends_as_it_ends_in_a_new_interpreter() {
    let (agent, _connection) = agent().await;
    finish_warm(&agent, || pipelined(PIPELINED, &module("", ""))).await;
    for (name, body) in [
        ("prints", "print('out'); import sys; print('err', file=sys.stderr)"),
        ("exits with a code", "import sys; sys.exit(7)"),
        (
            "leaves text to the C library",
            "import ctypes; c = ctypes.CDLL(None); c.setvbuf(ctypes.c_void_p.in_dll(c, 'stdout'), None, 0, 4096); c.puts(b'late')",
        ),
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
        ("exits with true", "import sys; sys.exit(True)"),
        ("exits with nothing", "import sys; sys.exit('')"),
        ("exits with a large code", "import sys; sys.exit(259)"),
        ("exits with a code below zero", "import sys; sys.exit(-2)"),
        (
            "exits with a code that is no C integer",
            "import sys; sys.exit(2 ** 70 + 3)",
        ),
        (
            "exits with an exception of its own",
            "class Exit(SystemExit): code = 5\nraise Exit()",
        ),
        (
            "exits while it handles an error",
            "import sys\ntry: 1 / 0\nexcept ZeroDivisionError: sys.exit(4)",
        ),
        (
            "leaves an object with an end of its own",
            "class End:\n    def __del__(self): print('end')\nend = End()",
        ),
        (
            "leaves such an object in a function",
            "import sys\nclass End:\n    def __del__(self): print('end')\ndef f():\n    end = End(); sys.exit(3)\nf()",
        ),
        (
            "leaves such an object in a module of Python",
            "import json\nclass End:\n    def __del__(self, print=print): print('end', flush=True)\njson.end = End()",
        ),
        (
            "leaves such an object in a module of Ansible",
            "from ansible.module_utils import basic\nclass End:\n    def __del__(self, print=print): print('end', flush=True)\nbasic.end = End()",
        ),
        (
            "leaves such an object that holds itself",
            "class End:\n    def __del__(self): print('end')\nend = End(); end.self = end; del end",
        ),
        (
            "leaves a small object with an end of its own",
            "class End:\n    __slots__ = ()\n    def __del__(self): print('end')\nends = (End(),)",
        ),
        (
            "leaves a generator",
            "def f():\n    try: yield\n    finally: print('end')\ng = f(); next(g)",
        ),
        (
            "leaves a temporary file",
            "import tempfile\nf = tempfile.NamedTemporaryFile('w', dir='/dev/shm', prefix='podbridge-test-')\nf.write('x')",
        ),
        (
            "has what weakref ends",
            "import weakref\nclass A: pass\na = A(); weakref.finalize(a, print, 'end')",
        ),
        (
            "writes to another standard output",
            "import sys; sys.stdout = open('/dev/stdout', 'w'); print('other')",
        ),
        (
            "closes its output",
            "import sys; print('x'); sys.stdout.close(); sys.exit(3)",
        ),
        (
            "cannot write its output",
            "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
        ),
        (
            "has an exit function that fails",
            "import atexit; atexit.register(print, 'after'); atexit.register(divmod, 1, 0)",
        ),
        (
            "has a thread that waits for ever",
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start(); print('out')",
        ),
        (
            "loads code that is not Python",
            "import sqlite3, sys; print('out'); sys.exit(6)",
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
        (
            "runs programs as run_command does",
            "import os, subprocess\ndef run(umask):\n    def preexec():\n        if umask:\n            os.umask(umask)\n    subprocess.run(['sh', '-c', 'umask; trap'], preexec_fn=preexec)\nrun(None); run(0); run(0o27)",
        ),
        (
            "calls something in each program's process",
            "import os, subprocess\nsubprocess.run(['true'], preexec_fn=lambda: os.write(1, b'called'))\ntry: subprocess.run(['true'], preexec_fn=lambda: 1 / 0)\nexcept subprocess.SubprocessError as e: print(e)",
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
    let left = fs::read_dir("/dev/shm")
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left
        .filter(|name| name.to_string_lossy().starts_with("podbridge-test-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
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
    let lines = lines.map(|line| match line.split_once("/ansible_test_payload_") {
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
async fn a_text_that_looks_like_a_payload_stays_what_it_is() {
    let (agent, _connection) = agent().await;
    let text = String::from_utf8(module(
        "from ansible.module_utils import basic; print(basic._ANSIBLE_ARGS)",
        "x",
    ))
    .unwrap();
    for note in [
        "'see ZIPDATA = \"QUJD\" below'",
        "'<podbridge payload>'",
        "f'{1}' 'zip_data=\"QUJD\"'",
    ] {
        let text = text
            .replace(
                "    import base64\n",
                &format!("    import base64\n    NOTE = {note}\n"),
            )
            .replace("'x'", "NOTE");
        let (in_new, _) = finish(&agent, cold(pipelined(PIPELINED, text.as_bytes()))).await;
        let in_warm = finish_warm(&agent, || pipelined(PIPELINED, text.as_bytes())).await;
        assert_eq!(
            (in_warm.stdout(), lines(&in_warm)),
            (in_new.stdout(), lines(&in_new)),
            "{note}"
        );
        assert!(!in_new.stdout().is_empty(), "{note}");
    }
}
