//! The interpreters and their processes: when there are some, how they end, what they cost, and what a false one can do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::{CancelRequest, EnvVar, StartRequest};
use tokio_stream::StreamExt as _;

use super::{PIPELINED, agent, cold, finish, finish_warm, module, pipelined};
use crate::harness::{alive, argv, eventually, run, soon};

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

/// Returns the memory in kB that these processes' descendants share with no other process.
fn private_memory_below(pid: u32) -> u64 {
    let parent = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default();
        after_name.split(' ').nth(1).map(str::to_owned)
    };
    let agent = pid.to_string();
    let is_below = |pid: &str| {
        let ancestors = std::iter::successors(parent(pid), |pid| parent(pid));
        ancestors.take_while(|pid| pid != "0").any(|pid| pid == agent)
    };
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let pids = pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && is_below(name));
    let private = |pid: String| {
        let sums = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = sums
            .lines()
            .find_map(|line| line.strip_prefix("Private_Dirty:"))?
            .to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    pids.filter_map(private).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_waits_has_memory_of_its_own_only_while_modules_come() {
    let (agent, _connection) = agent().await;
    finish_warm(&agent, || pipelined(PIPELINED, &module("", ""))).await;
    eventually("the next process has copied its memory", || {
        private_memory_below(agent.pid()) > 10 << 10
    });
    eventually("no process has, as no module comes", || {
        private_memory_below(agent.pid()) < 5 << 10
    });
    // The process that waits then takes a module, too. It may be on its way still.
    let seen = finish_warm(&agent, || pipelined(PIPELINED, &module("print('ran')", ""))).await;
    assert_eq!(seen.stdout(), "ran\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_modules_at_once_run_once_each() {
    let (agent, _connection) = agent().await;
    let counter = agent.dir.path().join("counter");
    let text = module(&format!("open({:?}, 'a').write('x')", counter.to_str().unwrap()), "");
    finish_warm(&agent, || pipelined(PIPELINED, &text)).await;
    let before = fs::metadata(&counter).unwrap().len();
    let all = (0..200).map(|_| finish(&agent, pipelined(PIPELINED, &text)));
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
    assert_eq!(fs::metadata(&counter).unwrap().len() - before, 200);
    assert!(warm > 0);
}

/// A false interpreter, as a hostile module can make one. It says that the process of the next module is another one.
const FALSE_INTERPRETER: &str = r#"#!/usr/bin/python3
import array, os, socket, struct, sys
text = sys.stdin.buffer.read()
if b'def _podbridge' not in text:
    exec(compile(text, '<stdin>', 'exec'))
    sys.exit()
control = socket.socket(fileno=1)
control.send(b'H' + os.path.abspath(__file__).encode())
while True:
    message, descriptors, _, _ = socket.recv_fds(control, 100, 1)
    if message == b'L':
        control.send(b'L' + os.path.abspath(__file__).encode())
    elif message == b'S':
        channel = socket.socket(fileno=descriptors[0])
        channel.send(b'B' + struct.pack('=ii', VICTIM, VICTIM))
        channel.send(b'R')
        channel.recv(100)
        channel.send(b'K')
    else:
        break
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_interpreter_gets_no_power_over_a_process_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (agent, _connection) = agent().await;
    let (started, _) = finish(
        &agent,
        argv(&["/bin/sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"]),
    )
    .await;
    let victim: u32 = started.stdout().trim().parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let python = directory.path().join("python3");
    fs::write(&python, FALSE_INTERPRETER.replace("VICTIM", &victim.to_string())).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let line = format!("/bin/sh -c '{} && sleep 0'", python.display());
    let text = module("print('ran')", "");
    let begun = Instant::now();
    loop {
        let start = StartRequest {
            user: "nobody".into(),
            ..pipelined(&line, &text)
        };
        let (seen, python) = finish(&agent, start).await;
        assert_eq!(seen.stdout(), "ran\n", "{python}");
        if python.starts_with("it does not answer") {
            break;
        }
        assert_ne!(python, "warm");
        assert!(begun.elapsed() < Duration::from_secs(30), "{python}");
        // Nothing tells when the agent has asked the interpreter for a process.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(alive(victim));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(victim.cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

/// `userdel` refuses to remove a user who has a process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_no_interpreter_when_a_module_of_another_user_has_started() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (agent, _connection) = agent().await;
    let text = module("import os; print(os.getuid())", "");
    let of_daemon = || StartRequest {
        user: "daemon".into(),
        ..pipelined(PIPELINED, &text)
    };
    assert_eq!(finish_warm(&agent, of_daemon).await.stdout(), "1\n");
    assert_ne!(processes_of(1), 0);
    assert_eq!(finish(&agent, pipelined(PIPELINED, &text)).await.0.stdout(), "0\n");
    eventually("the processes of the user have ended", || processes_of(1) == 0);
    assert_eq!(finish_warm(&agent, of_daemon).await.stdout(), "1\n");
}

/// Returns the number of Python processes of a user.
fn processes_of(uid: u32) -> usize {
    let is_of_user = |status: &String| {
        status.starts_with("Name:\tpython3") && status.lines().any(|line| line.starts_with(&format!("Uid:\t{uid}\t")))
    };
    let entries = fs::read_dir("/proc").unwrap();
    let statuses = entries.filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("status")).ok());
    statuses.filter(is_of_user).count()
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
    // Bash says that it lacks this locale.
    let missing_locale = EnvVar {
        name: "LC_ALL".into(),
        value: "xx_XX.UTF-8".into(),
    };
    let noisy = StartRequest {
        env: vec![missing_locale],
        ..pipelined("/bin/bash -c '/usr/bin/python3 && sleep 0'", &text)
    };
    let verbose = "/bin/sh -c 'PYTHONWARNINGS=error /usr/bin/python3 && sleep 0'";
    for (reason, start) in [
        ("switched off", cold(pipelined(PIPELINED, &text))),
        ("starts another one", pipelined(&launcher, &text)),
        ("writes to standard error", noisy),
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
