//! What other users of the container, and clients that stand still, must not be able to do. The tests with another user need root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use podbridge_proto::v1::exec_client::ExecClient;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::files_client::FilesClient;
use podbridge_proto::v1::put_request::Part;
use podbridge_proto::v1::{
    CancelRequest, GetRequest, PutHeader, PutRequest, StartRequest, StdinChunk, StdinMode, WaitRequest,
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{AGENT, Agent, SHORT_IDLE, argv, eventually, finish, run, shell, soon};
use crate::measure::usage;

const OTHER: u32 = 1000;
/// Longest time for a command beside clients that stand still. A frozen agent never answers.
const PROMPT: Duration = Duration::from_secs(if cfg!(podbridge_qemu_user) { 60 } else { 5 });
/// Memory that an agent may have beside its spools, in kB.
const MEMORY: u64 = 64 << 10;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

async fn run_true(mut exec: ExecClient<Channel>) {
    let finished = tokio::time::timeout(PROMPT, async {
        finish(exec.run(run(argv(&["true"]))).await.unwrap().into_inner()).await
    });
    assert_eq!(
        finished.await.expect("a command runs beside them").cause(),
        Cause::Exited(0)
    );
}

/// Connects with the windows of a bridge. What fits into them leaves the agent only as fast as the socket takes it.
async fn wide_channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(24 << 20)
        .connect_with_connector(connector)
        .await
        .unwrap()
}

/// A bridge sends no more than 28 MiB that commands have not read. What its clients leave behind when they go is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_no_command_reads_keeps_nobody_waiting_and_ends_with_its_client() {
    const CLIENTS: u64 = 24;
    const CHUNKS: u64 = 9;
    const CHUNK: usize = 128 << 10;
    let agent = Agent::start();
    let exec = ExecClient::new(agent.channel().await);
    let mut running = Vec::new();
    for _round in 0..3 {
        let mut streams = Vec::new();
        for _ in 0..CLIENTS {
            let mut exec = exec.clone();
            let start = StartRequest {
                stdin_mode: StdinMode::Stream as i32,
                ..argv(&["sleep", "300"])
            };
            let exec_id = start.exec_id.clone();
            exec.start(start).await.unwrap();
            running.push(exec_id.clone());
            let (chunks, receiver) = mpsc::channel(1);
            let sending = tokio::spawn(async move {
                for number in 0..CHUNKS {
                    let chunk = StdinChunk {
                        exec_id: exec_id.clone(),
                        offset: number * CHUNK as u64,
                        data: vec![0; CHUNK].into(),
                        eof: false,
                    };
                    chunks.send(chunk).await.unwrap();
                }
                chunks
            });
            let acks = soon(exec.write_stdin(ReceiverStream::new(receiver))).await.unwrap();
            streams.push((soon(sending).await.unwrap(), acks));
        }
        run_true(exec.clone()).await;
        let used = usage(agent.pid());
        assert!(used.memory <= MEMORY, "{used:?}");
        // The clients are killed: their streams are reset.
        drop(streams);
    }
    for exec_id in running {
        let cancel = CancelRequest {
            exec_id,
            reason: "the test ends".into(),
        };
        soon(exec.clone().cancel(cancel)).await.unwrap();
    }
    run_true(exec).await;
}

/// Each of these trees has processes that the agent finds in /proc only. All of them are ended at the same time, as when a play is killed,
/// and none ends at TERM.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commands_that_are_ended_at_once_keep_nobody_waiting() {
    const COMMANDS: usize = 200;
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let mut running = Vec::new();
    for _ in 0..COMMANDS {
        let start = StartRequest {
            kill_grace_ms: 1000,
            ..shell("trap '' TERM; (trap '' TERM; sleep 300) & while :; do sleep 300; done")
        };
        running.push(start.exec_id.clone());
        soon(exec.start(start)).await.unwrap();
    }
    for exec_id in running.clone() {
        let reason = "its client was killed".into();
        soon(exec.cancel(CancelRequest { exec_id, reason })).await.unwrap();
    }
    let ends = tokio::spawn({
        let mut exec = exec.clone();
        async move {
            for exec_id in running {
                soon(exec.wait(WaitRequest { exec_id })).await.unwrap();
            }
        }
    });
    let mut beside = 0;
    while !ends.is_finished() {
        run_true(exec.clone()).await;
        beside += 1;
    }
    ends.await.unwrap();
    // They were ended as late as they may be, and many commands ran meanwhile.
    assert!(beside >= 10, "{beside} commands beside {COMMANDS} that end");
    eventually("no process is left", || children_of(agent.pid()) == 0);
}

fn children_of(parent: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children.map(|children| children.split_whitespace().count()).sum()
}

/// Transfers that stand still at once: more than the agent has threads.
const TRANSFERS: usize = 530;

/// Runs a command beside transfers that stand still. The agent holds little memory for them, and no thread.
async fn check_agent_beside_transfers(agent: &Agent) {
    run_true(agent.exec().await).await;
    let used = usage(agent.pid());
    assert!(used.memory <= MEMORY, "{used:?}");
    eventually("the threads that opened files have ended", || {
        usage(agent.pid()).threads < 32
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_that_nobody_reads_hold_neither_threads_nor_memory() {
    let agent = Agent::start();
    let file = agent.dir.path().join("file");
    fs::write(&file, vec![7; 4 << 20]).unwrap();
    let request = || GetRequest {
        path: file.as_os_str().as_encoded_bytes().to_vec().into(),
        ..GetRequest::default()
    };
    let mut files = FilesClient::new(wide_channel(agent.socket()).await);
    let mut standing = Vec::new();
    for _ in 0..TRANSFERS {
        standing.push(soon(files.get(request())).await.unwrap().into_inner());
    }
    check_agent_beside_transfers(&agent).await;
    // Another client reads a file to its end meanwhile.
    let mut moving = soon(agent.files().await.get(request())).await.unwrap().into_inner();
    let mut parts = 0;
    while soon(moving.message()).await.unwrap().is_some() {
        parts += 1;
    }
    assert!(parts > 2);
    drop(standing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_send_nothing_more_hold_neither_threads_nor_memory() {
    let agent = Agent::start();
    let mut files = FilesClient::new(agent.channel().await);
    let mut standing = Vec::new();
    for number in 0..TRANSFERS {
        let (parts, receiver) = mpsc::channel(1);
        let header = PutHeader {
            path: format!("{}/put-{number}", agent.dir.path().display()).into(),
            transfer_id: Bytes::copy_from_slice(&(number as u128).to_ne_bytes()),
            ..PutHeader::default()
        };
        let header = PutRequest {
            part: Some(Part::Header(header)),
        };
        parts.send(header).await.unwrap();
        standing.push((parts, soon(files.write(ReceiverStream::new(receiver))).await.unwrap()));
    }
    check_agent_beside_transfers(&agent).await;
    drop(standing);
}

#[tokio::test]
async fn commands_get_the_limits_that_the_agent_was_started_with() {
    let agent = Agent::start_by("prlimit", &["--core=1048576:", "--nofile=1000:"]);
    let seen = agent.sh("ulimit -S -c; ulimit -S -n").await;
    assert_eq!(seen.stdout(), "2048\n1000\n");
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

/// A process of the same user that is no agent, and has no privileges, may not look into the agent. It may look into a command.
#[tokio::test]
async fn the_memory_of_the_agent_is_closed_to_other_processes_of_its_user() {
    if !is_root() {
        return;
    }
    let directory = "/proc/1/../";
    let agent = Agent::start_by("setpriv", &["--reuid=1000", "--regid=1000", "--clear-groups"]);
    let seen = agent
        .sh(&format!(
            "readlink {directory}{}/exe || echo closed; sleep 60 & readlink /proc/$!/exe >/dev/null && echo open; kill $!",
            agent.pid()
        ))
        .await;
    assert_eq!(seen.stdout(), "closed\nopen\n");
}

/// A program of another user that leaves a trace when it runs.
fn evil_program(path: &Path, trace: &Path) {
    fs::write(path, format!("#!/bin/sh\nid -u >>{}\n", trace.display())).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    chown(path, Some(OTHER), None).unwrap();
}

/// The first process of a container; its pid namespace ends with it.
struct Init(Child);

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn an_init_starts_its_own_program_again_whatever_has_its_path() {
    if !is_root() {
        return;
    }
    let volume = tempfile::tempdir().unwrap();
    let (program, trace) = (volume.path().join("podbridge-agent"), volume.path().join("trace"));
    let socket = volume.path().join("agent.sock");
    // Not by this process: a fork of another test would keep the file open for writing.
    assert!(Command::new("cp").arg(AGENT).arg(&program).status().unwrap().success());
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(&program);
    command
        .args(["serve", "--socket"])
        .arg(&socket)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let init = Init(command.spawn().unwrap());
    let listens = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
    eventually("the agent listens", listens);
    let worker = child_of(init.0.id()).and_then(child_of).unwrap();
    let replacement = volume.path().join("replacement");
    evil_program(&replacement, &trace);
    fs::rename(&replacement, &program).unwrap();
    let worker = rustix::process::Pid::from_raw(worker as i32).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    eventually("the old worker is gone", || !listens());
    eventually("a new worker listens, or the other program ran", || {
        listens() || trace.exists()
    });
    assert!(!trace.exists(), "the program of uid {OTHER} ran as root");
}

/// Runs shell lines as root in a mount namespace with a /tmp and a /run of its own.
fn in_own_directories(lines: &str) -> std::process::Output {
    let mounts = "mount -t tmpfs -o mode=1777 tmpfs /tmp && mount -t tmpfs -o mode=755 tmpfs /run";
    let script = format!("{mounts}\ncp /proc/self/fd/5 /tmp/agent && chmod 755 /tmp/agent\n{lines}");
    let mut command = Command::new("unshare");
    // The agent is outside of /tmp for a moment: the namespace hides it.
    command.args(["--mount", "sh", "-c", &format!("exec 5<\"$0\"; {script}"), AGENT]);
    command.stdin(Stdio::null()).output().unwrap()
}

/// Each row: what another user has made before the agent starts.
#[test]
fn an_agent_serves_although_another_user_has_taken_its_names() {
    if !is_root() {
        return;
    }
    for planted in [
        "touch /tmp/.podbridge-0",
        "mkdir /tmp/.podbridge-0",
        "ln -s /run/elsewhere /tmp/.podbridge-0",
        "mkdir -p /run/podbridge /run/elsewhere; chmod 777 /run/podbridge; ln -s /run/elsewhere/probe /run/podbridge/.probe",
        "mkdir -p /run/podbridge /run/elsewhere; chmod 777 /run/podbridge; ln -s /run/elsewhere/lock /run/podbridge/agent.sock.lock",
        "mkdir -p /run/podbridge; chmod 777 /run/podbridge; mkfifo /run/podbridge/agent.sock.lock",
    ] {
        let lines = format!(
            r#"{planted} 2>/dev/null
            chown -h {OTHER} /tmp/.podbridge-0 /run/podbridge/.probe /run/podbridge/agent.sock.lock 2>/dev/null
            case '{planted}' in *' /tmp/'*) mount -t tmpfs -o ro tmpfs /run;; esac
            /tmp/agent serve --daemon --idle {SHORT_IDLE} >&2 && /tmp/agent proxy --probe
            ls -A /run/elsewhere 2>/dev/null"#
        );
        let output = in_own_directories(&lines);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "running\n",
            "{planted}: {output:?}"
        );
    }
}

/// As a user, listens on an address with a full queue, accepts nothing, and prints a line when a connect would wait.
const STANDS_STILL: &str = r#"
import os, socket, sys, time
address, uid = sys.argv[1].replace("@", "\0"), int(sys.argv[2])
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
listener = socket.socket(socket.AF_UNIX)
listener.bind(address)
if address[0] != "\0":
    os.chmod(address, 0o777)
listener.listen(0)
kept = []
while True:
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        client.connect(address)
    except BlockingIOError:
        break
    kept.append(client)
print("full", flush=True)
time.sleep(300)
"#;

/// Each row: what is made, the uid that listens with a full queue, and where. The name of the abstract socket is that of the agent that
/// has served here before.
#[test]
fn a_full_queue_of_another_user_keeps_no_proxy_waiting_and_no_agent_from_serving() {
    if !is_root() {
        return;
    }
    let shared = "mkdir /run/podbridge; chmod 777 /run/podbridge";
    for (planted, uid, address) in [
        (
            "mkdir /tmp/.podbridge-0; chown 1000 /tmp/.podbridge-0",
            OTHER,
            "/tmp/.podbridge-0/agent.sock",
        ),
        (shared, OTHER, "/run/podbridge/agent.sock"),
        (shared, OTHER, "$name"),
        (
            "ln -s /run/elsewhere /tmp/.podbridge-0; chown -h 1000 /tmp/.podbridge-0; mkdir /run/elsewhere",
            0,
            "/run/elsewhere/agent.sock",
        ),
    ] {
        let lines = format!(
            r#"cd /
            /tmp/agent serve & first=$!
            until name=$(grep -o '@podbridge-agent/0/.*' /proc/net/unix | grep "$(stat -Lc %i /proc/self/ns/mnt | xargs printf %x)/"); do sleep 0.01; done
            kill $first; wait $first
            rm -rf /run/podbridge /tmp/.podbridge-0
            {planted}
            mkfifo /run/full
            python3 -c '{STANDS_STILL}' "{address}" {uid} >/run/full & other=$!
            read full </run/full && echo $full
            timeout 20 /tmp/agent proxy --probe
            timeout 20 /tmp/agent serve --daemon --idle {SHORT_IDLE} >&2
            timeout 20 /tmp/agent proxy --probe
            kill $other"#
        );
        let output = in_own_directories(&lines);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "full\nready\nrunning\n", "{planted}, {address}: {output:?}");
    }
}

/// An agent that serves, and that has stood still since more clients came than its queue holds. No other agent is started beside it.
#[test]
fn an_agent_of_this_user_that_stands_still_is_waited_for_and_named() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let mut standing = Command::new("python3");
    standing.args(["-c", STANDS_STILL]).arg(&socket).arg("0");
    let mut standing = standing.stdout(Stdio::piped()).spawn().unwrap();
    let full = std::io::Read::read_exact(standing.stdout.as_mut().unwrap(), &mut [0; 4]);
    full.unwrap();
    let proxy = |options: &[&str]| {
        let mut command = Command::new("timeout");
        command
            .args(["20", AGENT, "proxy"])
            .args(options)
            .arg("--socket")
            .arg(&socket);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let probed = proxy(&["--probe"]);
    assert_eq!(probed.stdout, b"running\n", "{probed:?}");
    for options in [&[][..], &["--start"]] {
        let refused = proxy(options);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert!(message.contains("has not accepted a connection for 2 s"), "{refused:?}");
        assert_eq!((refused.status.code(), message.lines().count()), (Some(1), 1));
    }
    standing.kill().unwrap();
    standing.wait().unwrap();
}

/// Makes a repository with a hook that writes down whose rights it has.
fn repository(directory: &TempDir, owner: u32) -> (PathBuf, PathBuf) {
    let (path, trace) = (directory.path().join("repository"), directory.path().join("trace"));
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(
        git(&["init", "--quiet", path.to_str().unwrap()])
            .status()
            .unwrap()
            .success()
    );
    let hook = path.join(".git/hooks/pre-receive");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, format!("#!/bin/sh\nid -u >{}\n", trace.display())).unwrap();
    fs::set_permissions(&hook, Permissions::from_mode(0o755)).unwrap();
    let owner = format!("{owner}:{owner}");
    assert!(
        Command::new("chown")
            .args(["-R", &owner])
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    (path, trace)
}

fn git(arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.args([
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "-c",
        "protocol.ext.allow=always",
    ]);
    git.args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdin(Stdio::null());
    git
}

#[test]
fn hooks_have_the_rights_of_the_repositorys_owner() {
    if !is_root() {
        return;
    }
    for owner in [0, OTHER] {
        let (directory, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, trace) = repository(&directory, owner);
        // A marker that leads to a file of root.
        let victim = source.path().join("victim");
        fs::write(&victim, "secret").unwrap();
        if owner != 0 {
            symlink(&victim, path.join(".git/podbridge-unborn")).unwrap();
        }
        let here = source.path().to_str().unwrap();
        for arguments in [
            &["init", "--quiet", here][..],
            &["-C", here, "commit", "--quiet", "--allow-empty", "-m", "one"],
            &[
                "-C",
                here,
                "push",
                "--quiet",
                &format!("ext::{AGENT} git receive-pack {}", path.display()),
                "HEAD:refs/heads/new",
            ],
        ] {
            let output = git(arguments).output().unwrap();
            assert!(output.status.success(), "{owner}: {arguments:?} {output:?}");
        }
        assert_eq!(fs::read_to_string(&trace).unwrap(), format!("{owner}\n"));
        assert_eq!(fs::metadata(path.join(".git/refs/heads/new")).unwrap().uid(), owner);
        assert_eq!(fs::read(&victim).unwrap(), b"secret");
    }
}
