//! What a module in a warm interpreter sees: what it sees in a new one, and nothing of the modules before it.

use std::fs;
use std::path::Path;
use std::process::Command;

use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::{EnvVar, StartRequest};

use super::{PIPELINED, agent, agent_in, cold, finish, finish_warm, module, module_with, pipelined};
use crate::harness::{Finished, argv};

/// Prints all that a module may see of its process, but for what differs from one process to the next.
const LOOK: &str = r#"
import os, sys, json, signal, resource, locale, threading, gc, warnings
from ansible.module_utils import basic
import ansible.module_utils.common.file as shared
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
    sys.modules['ansible.module_utils'].basic is basic, sys.modules['ansible.module_utils.common'].file is shared,
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
async fn a_module_sees_nothing_of_the_module_before() {
    let (agent, _connection) = agent().await;
    let plant = r#"
import os, sys, json, signal, locale, threading, atexit, socket, builtins, resource, warnings, time, tempfile
from ansible.module_utils import basic
from ansible.module_utils.common import file as shared
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
        "import os\ntry:\n    import planted\n    print(planted.value)\nexcept ImportError:\n    print('none' if os.readlink('/proc/self/exe').startswith('/usr/') else 'upgraded')",
        "",
    );
    let start = || pipelined(&line, &text);
    type Change<'a> = &'a dyn Fn(&Path);
    let other = agent.dir.path().join("other");
    let changes: [(&str, Change<'_>); 7] = [
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
            fs::write(site.join("planted.pth"), format!("{}\n", other.display())).unwrap();
        }),
        ("4444\n", &|_| {
            fs::create_dir(&other).unwrap();
            fs::write(other.join("planted.py"), "value = 4444").unwrap();
        }),
        ("none\n", &|site| {
            fs::remove_file(site.join("planted.pth")).unwrap();
            // The next interpreter has another version of its own settings.
            let settings = site.ancestors().nth(3).unwrap().join("pyvenv.cfg");
            let text = fs::read_to_string(&settings).unwrap();
            fs::write(&settings, text + "prompt = changed\n").unwrap();
        }),
        ("upgraded\n", &|site| {
            // As a package manager does: the new program takes the name of the old one.
            let programs = site.ancestors().nth(3).unwrap().join("bin");
            fs::copy("/usr/bin/python3", programs.join("new")).unwrap();
            fs::rename(programs.join("new"), programs.join("python")).unwrap();
        }),
    ];
    assert_eq!(finish_warm(&agent, start).await.stdout(), "none\n");
    for (expected, change) in changes {
        change(&site);
        assert_eq!(finish(&agent, start()).await.0.stdout(), expected);
        assert_eq!(finish_warm(&agent, start).await.stdout(), expected);
    }
}

/// What the file of a role does when it is imported reaches its own module only, and happens in each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_import_of_a_role_s_file_is_of_its_module_alone() {
    let print = "import builtins, os, json, ssl, sys; from ansible.module_utils import of_role; print(of_role.value)";
    for (name, of_role, body, expected) in [
        (
            "a value",
            "import os\nvalue = os.getpid()",
            "import os; from ansible.module_utils import of_role; print(of_role.value == os.getpid())",
            "True\n",
        ),
        ("text", "print('text')\nvalue = 1", print, "text\n1\n"),
        (
            "a path in a class",
            "class value:\n    path = __file__",
            "from ansible.module_utils import of_role; print(of_role.value.path == of_role.__file__)",
            "True\n",
        ),
        (
            "the environment",
            "import os\nvalue = os.environ.get('PLANTED')\nos.environ['PLANTED'] = '1'",
            print,
            "None\n",
        ),
        (
            "a new builtin",
            "import builtins\nvalue = hasattr(builtins, 'planted')\nbuiltins.planted = 1",
            print,
            "False\n",
        ),
        (
            "a function of ssl",
            "import ssl\nvalue = ssl._create_default_https_context is ssl.create_default_context\nssl._create_default_https_context = ssl._create_unverified_context",
            print,
            "True\n",
        ),
        (
            "a class of json",
            "import json\nvalue = hasattr(json.JSONEncoder, 'planted')\njson.JSONEncoder.planted = 1",
            print,
            "False\n",
        ),
        (
            "a function for the exit",
            "import atexit\nvalue = 1\natexit.register(print, 'planted')",
            print,
            "1\nplanted\n",
        ),
        (
            "a thread",
            "import threading, time\nvalue = threading.active_count()\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
            print,
            "1\n",
        ),
    ] {
        let (agent, _connection) = agent().await;
        let text = module_with(of_role, body, "");
        for _ in 0..3 {
            let seen = finish_warm(&agent, || pipelined(PIPELINED, &text)).await;
            let stderr = String::from_utf8_lossy(&seen.stderr);
            assert_eq!(seen.stdout(), expected, "{name}: {stderr}");
        }
        // The next module is of another task.
        let next = module(
            "import builtins, os, json, ssl, threading
print(os.environ.get('PLANTED'), hasattr(builtins, 'planted'), hasattr(json.JSONEncoder, 'planted'),
    ssl._create_default_https_context is ssl.create_default_context, threading.active_count())",
            "",
        );
        let seen = finish_warm(&agent, || pipelined(PIPELINED, &next)).await;
        assert_eq!(seen.stdout(), "None False False True 1\n", "{name}");
    }
}

/// Ansible's wrapper removes the working directory from `sys.path` before it imports anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_of_the_working_directory_is_imported() {
    let directory = tempfile::tempdir().unwrap();
    for name in
        "ast base64 ctypes glob hashlib json logging platform queue selinux shlex socket subprocess zipfile".split(' ')
    {
        let text = "open(__file__ + '.imported', 'w')\nraise ImportError";
        fs::write(directory.path().join(format!("{name}.py")), text).unwrap();
    }
    let (agent, _connection) = agent_in(directory.path()).await;
    let text = module(
        "import json, os, sys; print(os.getcwd(), '' in sys.path, json.loads('1'))",
        "",
    );
    let expected = format!("{} False 1\n", directory.path().display());
    assert_eq!(
        finish_warm(&agent, || pipelined(PIPELINED, &text)).await.stdout(),
        expected
    );
    let names = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let imported: Vec<_> = names
        .filter(|name| name.to_string_lossy().ends_with(".imported"))
        .collect();
    assert!(imported.is_empty(), "{imported:?}");
}
