//! Tests of execs: start once, complete output, exit records, stdin, signals, process trees, terminals, users.

use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::{
    AttachRequest, CancelRequest, EnvVar, ListRequest, OnDisconnect, Pty, ReleaseRequest, ResizeRequest, SignalRequest,
    StartRequest, StdinChunk, StdinMode, WaitRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::harness::{
    Agent, Finished, alive, argv, eventually, finish, run, shell, soon, until_an_idle_agent_has_ended, with_stdin,
    zombies_of,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_and_exit_code_arrive_complete() {
    let agent = Agent::start();
    let seen = soon(agent.sh("echo out; echo err >&2; exit 7")).await;
    assert_eq!(
        (seen.stdout(), &seen.stderr[..], seen.cause()),
        ("out\n", &b"err\n"[..], Cause::Exited(7))
    );
    let seen = soon(agent.sh("head -c 30000000 /dev/zero | tr '\\0' x")).await;
    assert_eq!((seen.stdout.len(), seen.cause()), (30_000_000, Cause::Exited(0)));
    assert!(seen.stdout.iter().all(|byte| *byte == b'x'));
    assert_eq!(soon(agent.sh("kill -SEGV $$")).await.cause(), Cause::Signaled(11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_command_starts_with_default_signals_umask_and_descriptors() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let mut start =
        shell("cat; pwd; umask; echo $A-$B$GLIBC_TUNABLES; grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd");
    start.cwd = "/usr".into();
    let variable = |name: &'static str, value: &'static str| EnvVar {
        name: name.into(),
        value: value.into(),
    };
    start.env = vec![variable("A", "1"), variable("B", "2"), variable("A", "3")];
    let seen = soon(finish(
        exec.run(run(with_stdin(start, b"in\n"))).await.unwrap().into_inner(),
    ))
    .await;
    let lines: Vec<&str> = seen.stdout().lines().collect();
    assert_eq!(lines[..4], ["in", "/usr", "0022", "3-2"]);
    for mask in &lines[4..6] {
        assert!(mask.ends_with("0000000000000000"), "{mask}");
    }
    // Descriptor 3 is the directory that ls reads.
    assert_eq!(lines[6..], ["0", "1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_command_that_cannot_start_reports_the_failed_step() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let script = agent.dir.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bad_cwd = StartRequest {
        cwd: "/no/such".into(),
        ..argv(&["true"])
    };
    let relative = StartRequest {
        cwd: agent.dir.path().as_os_str().as_encoded_bytes().to_vec().into(),
        ..argv(&["./script"])
    };
    let bad_user = StartRequest {
        user: "nosuchuser".into(),
        ..argv(&["true"])
    };
    let cases = [
        (
            argv(&["no-such-program"]),
            "exec",
            127,
            "no-such-program: no such program",
        ),
        (argv(&[script.to_str().unwrap()]), "interpreter", 127, "interpreter"),
        (relative, "interpreter", 127, "interpreter"),
        (argv(&["/etc/passwd"]), "exec", 126, "permission denied"),
        (bad_cwd, "cwd", 126, "/no/such"),
        (bad_user, "user", 126, "no user \"nosuchuser\""),
    ];
    for (start, step, code, text) in cases {
        let seen = soon(finish(exec.run(run(start)).await.unwrap().into_inner())).await;
        let Cause::StartFailed(failed) = seen.cause() else {
            panic!("{seen:?}")
        };
        assert_eq!((failed.step.as_str(), failed.exit_code, seen.pid), (step, code, 0));
        assert!(failed.message.to_lowercase().contains(text), "{}", failed.message);
    }
    eventually("no zombie", || zombies_of(agent.pid()) == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_id_starts_once() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let file = agent.dir.path().join("count");
    let start = shell(&format!("echo x >> {}; sleep 0.2", file.display()));
    let runs = (0..8).map(|_| {
        let (mut exec, start) = (exec.clone(), start.clone());
        tokio::spawn(async move { finish(exec.run(run(start)).await.unwrap().into_inner()).await })
    });
    for seen in runs.collect::<Vec<_>>() {
        assert_eq!(soon(seen).await.unwrap().cause(), Cause::Exited(0));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\n");

    let conflict = exec
        .start(StartRequest {
            digest: vec![8u8; 32].into(),
            ..start.clone()
        })
        .await;
    assert_eq!(conflict.unwrap_err().code(), Code::AlreadyExists);
    exec.release(ReleaseRequest {
        exec_id: start.exec_id.clone(),
    })
    .await
    .unwrap();
    exec.release(ReleaseRequest {
        exec_id: start.exec_id.clone(),
    })
    .await
    .unwrap();
    assert_eq!(exec.start(start).await.unwrap_err().code(), Code::FailedPrecondition);

    let never = shell("true");
    exec.cancel(CancelRequest {
        exec_id: never.exec_id.clone(),
        reason: String::new(),
    })
    .await
    .unwrap();
    assert_eq!(exec.start(never).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn readers_attach_at_any_offset_and_a_stalled_reader_blocks_no_other() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let start = shell("printf 0123456789; head -c 3000000 /dev/zero");
    let id = start.exec_id.clone();
    let unread = exec.run(run(start)).await.unwrap().into_inner();
    let exit = soon(exec.wait(WaitRequest { exec_id: id.clone() }))
        .await
        .unwrap()
        .into_inner()
        .exit
        .unwrap();
    assert_eq!(exit.cause, Some(Cause::Exited(0)));
    drop(unread);
    let attach = AttachRequest {
        exec_id: id,
        stdout_offset: 5,
        stderr_offset: 0,
        window: 0,
    };
    let mut events = exec.attach(attach).await.unwrap().into_inner();
    assert!(matches!(
        soon(events.message()).await.unwrap().unwrap().event,
        Some(Event::Started(_))
    ));
    let Some(Event::Output(output)) = soon(events.message()).await.unwrap().unwrap().event else {
        panic!()
    };
    assert_eq!((output.offset, &output.data[..5]), (5, &b"56789"[..]));
    let unknown = exec
        .attach(AttachRequest {
            exec_id: vec![1u8; 16].into(),
            ..Default::default()
        })
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stdin_is_written_by_offset() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let start = StartRequest {
        stdin_mode: StdinMode::Stream as i32,
        ..argv(&["cat"])
    };
    let id = start.exec_id.clone();
    let output = exec.run(run(start)).await.unwrap().into_inner();
    let (chunks, receiver) = mpsc::channel(8);
    let chunk = |offset, data: &'static [u8], eof| StdinChunk {
        exec_id: id.clone(),
        offset,
        data: data.into(),
        eof,
    };
    chunks.send(chunk(0, b"hello", false)).await.unwrap();
    let mut acks = exec
        .write_stdin(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(soon(acks.message()).await.unwrap().unwrap().offset, 5);
    // Repeated bytes are dropped, and a gap is refused.
    chunks.send(chunk(2, b"llo wo", false)).await.unwrap();
    assert_eq!(soon(acks.message()).await.unwrap().unwrap().offset, 8);
    chunks.send(chunk(100, b"x", false)).await.unwrap();
    assert_eq!(soon(acks.message()).await.unwrap_err().code(), Code::OutOfRange);
    // A new writer asks for the offset to continue at.
    let (chunks, receiver) = mpsc::channel(8);
    chunks.send(chunk(0, b"", false)).await.unwrap();
    let mut acks = exec
        .write_stdin(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(soon(acks.message()).await.unwrap().unwrap().offset, 8);
    chunks.send(chunk(8, b"rld", true)).await.unwrap();
    let ack = soon(acks.message()).await.unwrap().unwrap();
    assert_eq!((ack.offset, ack.closed), (11, true));
    assert_eq!(soon(finish(output)).await.stdout(), "hello world");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_steady_stdin_is_not_acknowledged_chunk_by_chunk() {
    const CHUNKS: u64 = 256;
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let start = StartRequest {
        stdin_mode: StdinMode::Stream as i32,
        ..shell("cat >/dev/null")
    };
    let exec_id = start.exec_id.clone();
    let output = exec.run(run(start)).await.unwrap().into_inner();
    let chunk = move |number| StdinChunk {
        exec_id: exec_id.clone(),
        offset: number << 14,
        data: vec![0; 1 << 14].into(),
        eof: number == CHUNKS - 1,
    };
    let chunks = tokio_stream::iter((0..CHUNKS).map(chunk));
    let mut acks = exec.write_stdin(chunks).await.unwrap().into_inner();
    let (mut offsets, mut closed) = (Vec::new(), false);
    while let Some(ack) = soon(acks.message()).await.unwrap() {
        offsets.push(ack.offset);
        closed = ack.closed;
    }
    assert!(closed && offsets.is_sorted(), "{offsets:?}");
    assert_eq!(offsets.last(), Some(&(CHUNKS << 14)));
    assert!(offsets.len() <= CHUNKS as usize / 4, "{offsets:?}");
    assert_eq!(soon(finish(output)).await.cause(), Cause::Exited(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_normal_exit_signals_nothing() {
    let agent = Agent::start();
    let seen = soon(agent.sh("sleep 300 >/dev/null 2>&1 & echo $!")).await;
    let daemon: u32 = seen.stdout().trim().parse().unwrap();
    assert!(alive(daemon) && !seen.held_open);
    // A daemon that holds the pipe does not delay the result.
    let seen = soon(agent.sh("sleep 300 & echo $!")).await;
    let holder: u32 = seen.stdout().trim().parse().unwrap();
    assert!(alive(holder) && seen.held_open);
    assert_eq!(seen.cause(), Cause::Exited(0));
    for pid in [daemon, holder] {
        soon(agent.sh(&format!("kill {pid}"))).await;
        eventually("the daemon is gone", || !alive(pid));
    }
    eventually("no zombie", || zombies_of(agent.pid()) == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_daemon_that_keeps_writing_neither_delays_the_result_nor_gets_sigpipe() {
    let agent = Agent::start();
    let file = agent.dir.path().join("count");
    let command = format!(
        "setsid sh -c 'echo $$; n=0; while :; do echo tick; n=$((n+1)); echo $n >{}; sleep 0.1; done' & exit 5",
        file.display()
    );
    let seen = soon(agent.sh(&command)).await;
    assert_eq!((seen.cause(), seen.held_open), (Cause::Exited(5), true));
    let daemon: u32 = seen.stdout().lines().next().unwrap().parse().unwrap();
    let count = || {
        std::fs::read_to_string(&file)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap_or(0)
    };
    let before = count();
    eventually("the daemon continues to write", || count() > before + 10);
    soon(agent.sh(&format!("kill {daemon}"))).await;
    eventually("the daemon is gone", || !alive(daemon));
}

/// Starts a process tree that ignores TERM and in part has left its session. Returns its pids, its id and its events.
async fn start_stubborn_tree(
    agent: &Agent,
    start: impl FnOnce(StartRequest) -> StartRequest,
) -> (Vec<u32>, bytes::Bytes, Events) {
    let line = "trap '' TERM; setsid sh -c 'trap \"\" TERM; (sleep 300; :) & echo $$ $!; wait' & echo $$; wait";
    let start = start(shell(line));
    let id = start.exec_id.clone();
    let mut exec = agent.exec().await;
    let mut events = exec.run(run(start)).await.unwrap().into_inner();
    let mut text = String::new();
    while text.split_whitespace().count() < 3 {
        if let Some(Event::Output(output)) = soon(events.message()).await.unwrap().unwrap().event {
            text.push_str(std::str::from_utf8(&output.data).unwrap());
        }
    }
    let pids: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| alive(*pid)));
    (pids, id, events)
}

type Events = tonic::Streaming<podbridge_proto::v1::ExecEvent>;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cancel_ends_the_whole_tree() {
    let agent = Agent::start();
    let (pids, exec_id, _events) = start_stubborn_tree(&agent, |start| StartRequest {
        kill_grace_ms: 100,
        ..start
    })
    .await;
    let mut exec = agent.exec().await;
    exec.cancel(CancelRequest {
        exec_id: exec_id.clone(),
        reason: "test".into(),
    })
    .await
    .unwrap();
    let exit = soon(exec.wait(WaitRequest { exec_id }))
        .await
        .unwrap()
        .into_inner()
        .exit
        .unwrap();
    let Some(Cause::Cancelled(ended)) = exit.cause else {
        panic!("{exit:?}")
    };
    assert_eq!((ended.reason.as_str(), exit.survivors.len()), ("test", 0));
    eventually("the tree is gone", || pids.iter().all(|pid| !alive(*pid)));
    eventually("no zombie", || zombies_of(agent.pid()) == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_client_ends_the_tree_if_asked_to() {
    let agent = Agent::start();
    let on_disconnect = OnDisconnect::Cancel as i32;
    let (pids, _, events) = start_stubborn_tree(&agent, |start| StartRequest {
        on_disconnect,
        kill_grace_ms: 100,
        ..start
    })
    .await;
    drop(events);
    eventually("the tree is gone", || pids.iter().all(|pid| !alive(*pid)));
    let (pids, _, events) = start_stubborn_tree(&agent, |start| StartRequest {
        lease_ms: 200,
        kill_grace_ms: 100,
        ..start
    })
    .await;
    // This takes longer than the lease.
    until_an_idle_agent_has_ended().await;
    assert!(
        pids.iter().all(|pid| alive(*pid)),
        "the lease does not run while a reader is attached"
    );
    drop(events);
    eventually("the lease has ended", || pids.iter().all(|pid| !alive(*pid)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_timeout_ends_the_tree() {
    let agent = Agent::start();
    let start = StartRequest {
        timeout_ms: 200,
        ..shell("sleep 300 | cat")
    };
    let seen = soon(finish(agent.exec().await.run(run(start)).await.unwrap().into_inner())).await;
    assert!(matches!(seen.cause(), Cause::TimedOut(_)), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn signals_reach_the_group() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let start = shell("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done");
    let exec_id = start.exec_id.clone();
    let mut events = exec.run(run(start)).await.unwrap().into_inner();
    while !matches!(
        soon(events.message()).await.unwrap().unwrap().event,
        Some(Event::Output(_))
    ) {}
    exec.signal(SignalRequest {
        exec_id: exec_id.clone(),
        signal: 10,
        scope: 1,
    })
    .await
    .unwrap();
    let exit = soon(exec.wait(WaitRequest {
        exec_id: exec_id.clone(),
    }))
    .await
    .unwrap()
    .into_inner()
    .exit
    .unwrap();
    assert_eq!(exit.cause, Some(Cause::Exited(3)));
    let late = exec
        .signal(SignalRequest {
            exec_id,
            signal: 10,
            scope: 1,
        })
        .await;
    assert_eq!(late.unwrap_err().code(), Code::FailedPrecondition);
    let bad = exec
        .signal(SignalRequest {
            exec_id: vec![1u8; 16].into(),
            signal: 99,
            scope: 0,
        })
        .await;
    assert_eq!(bad.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_terminal_has_a_size_and_an_end() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let pty = Some(Pty { rows: 33, cols: 111 });
    let mut start = shell("tty >/dev/null && stty size; read line; echo got $line; stty size; cat; echo end");
    start = StartRequest {
        pty,
        stdin_mode: StdinMode::Stream as i32,
        ..start
    };
    let id = start.exec_id.clone();
    let mut events = exec.run(run(start)).await.unwrap().into_inner();
    let mut text = String::new();
    while !text.contains("33 111") {
        if let Some(Event::Output(output)) = soon(events.message()).await.unwrap().unwrap().event {
            text.push_str(std::str::from_utf8(&output.data).unwrap());
        }
    }
    let size = Some(Pty { rows: 40, cols: 120 });
    exec.resize(ResizeRequest {
        exec_id: id.clone(),
        size,
    })
    .await
    .unwrap();
    let (chunks, receiver) = mpsc::channel(8);
    chunks
        .send(StdinChunk {
            exec_id: id,
            offset: 0,
            data: "hi\n".into(),
            eof: true,
        })
        .await
        .unwrap();
    let _acks = exec.write_stdin(ReceiverStream::new(receiver)).await.unwrap();
    while !text.contains("end") {
        if let Some(Event::Output(output)) = soon(events.message()).await.unwrap().unwrap().event {
            text.push_str(std::str::from_utf8(&output.data).unwrap());
        }
    }
    assert!(text.contains("got hi\r\n40 120"), "{text:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_agents_own_program_runs_as_any_user() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let root = rustix::process::geteuid().is_root();
    for user in [Some(""), root.then_some("nobody")].into_iter().flatten() {
        let start = StartRequest {
            agent_program: true,
            user: user.into(),
            ..argv(&["no-such-name", "version"])
        };
        let seen = soon(finish(exec.run(run(start)).await.unwrap().into_inner())).await;
        assert_eq!(
            (seen.stdout(), seen.cause()),
            (
                concat!("podbridge-agent ", env!("CARGO_PKG_VERSION"), "\n"),
                Cause::Exited(0)
            ),
            "as {user:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_program_in_the_agents_directory_is_found() {
    let agent = Agent::start();
    let run = run(argv(&["podbridge-agent", "version"]));
    let seen = soon(finish(agent.exec().await.run(run).await.unwrap().into_inner())).await;
    assert_eq!(seen.cause(), Cause::Exited(0));
    assert!(seen.stdout().starts_with("podbridge-agent "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_user_needs_root() {
    let agent = Agent::start();
    let start = StartRequest {
        user: "nobody".into(),
        ..shell("id -u; id -G; echo $HOME; echo $USER")
    };
    let seen: Finished = soon(finish(agent.exec().await.run(run(start)).await.unwrap().into_inner())).await;
    if rustix::process::geteuid().is_root() {
        let lines: Vec<&str> = seen.stdout().lines().collect();
        assert_eq!((lines[0], lines[1], lines[3]), ("65534", "65534", "nobody"));
    } else {
        assert!(matches!(seen.cause(), Cause::StartFailed(failed) if failed.step == "user"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_list_shows_one_session_only() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let mine = StartRequest {
        session: "mine".into(),
        ..shell("true")
    };
    let id = mine.exec_id.clone();
    exec.start(mine).await.unwrap();
    exec.start(StartRequest {
        session: "other".into(),
        ..shell("true")
    })
    .await
    .unwrap();
    let list = exec
        .list(ListRequest { session: "mine".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        list.execs.into_iter().map(|exec| exec.exec_id).collect::<Vec<_>>(),
        [id]
    );
    assert_eq!(
        exec.list(ListRequest::default()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bad_requests_are_refused() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let bad = [
        StartRequest {
            exec_id: "short".into(),
            ..shell("true")
        },
        StartRequest {
            digest: "short".into(),
            ..shell("true")
        },
        StartRequest {
            argv: vec![],
            ..shell("true")
        },
        argv(&["a\0b"]),
        StartRequest {
            stdin_mode: 9,
            ..shell("true")
        },
        StartRequest {
            env: vec![EnvVar {
                name: "A=B".into(),
                value: "".into(),
            }],
            ..shell("true")
        },
    ];
    for start in bad {
        assert_eq!(exec.start(start).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let newer = StartRequest {
        requires: vec!["exec.v9".into()],
        ..shell("true")
    };
    let refusal = exec.start(newer).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert!(refusal.message().contains("exec.v9"));
}
