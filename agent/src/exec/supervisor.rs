//! Runs one exec from its spawn to its end: moves its output, waits for its process, and ends its tree on a cancel, a timeout or
//! an expired lease. It knows no other exec. `registry` calls it in a task of its own, so a client that disconnects changes
//! nothing but the number of readers.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;
use tokio::io::Interest;
use tokio::sync::{oneshot, watch as value};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::process::AgentStdio;
use super::spool::Channel;
use super::start::{self, Resources, Started};
use super::state::{Exec, Readers};
use super::stdin::Sink;
use super::stdin_writer::StdinWriter;
use super::{Cause, Command, ExitRecord, OnDisconnect, StartFailure, StdinMode, output, process_tree};
use crate::sys::cgroup;
use crate::sys::descriptors::watch;
use crate::sys::reaper::{Child, ExitStatus};

/// Time within which a reader may return: a client that sends one request after another has not disconnected.
const RECONNECT_WINDOW: Duration = Duration::from_millis(100);

/// Runs the command to its end, and then closes its stdin. The exit record is published first.
pub(super) async fn run(resources: &Resources, exec: &Arc<Exec>, command: Command) {
    let started = Instant::now();
    let id = command.id;
    let (ended, _) = value::channel(false);
    let record = spawn_and_wait(resources, exec, command, &ended).await;
    tracing::info!(exec = ?id, cause = ?record.cause, seconds = started.elapsed().as_secs_f64(), "exec ended");
    exec.exit.send_replace(Some(record));
    ended.send_replace(true);
    exec.stdin.close().await;
}

/// Waits until an ended exec is released (false), or no reader has been attached for a whole lease (true).
pub(super) async fn lease_ends_before_release(exec: &Exec, lease: Duration) -> bool {
    let mut released = exec.released.subscribe();
    tokio::select! {
        _ = released.wait_for(|released| *released) => false,
        () = wait_until_abandoned(exec, OnDisconnect::Lease, lease) => true,
    }
}

async fn spawn_and_wait(
    resources: &Resources,
    exec: &Arc<Exec>,
    mut command: Command,
    ended: &value::Sender<bool>,
) -> ExitRecord {
    let stdin = std::mem::replace(&mut command.stdin, StdinMode::Null);
    let keeps_stdin = stdin.clone();
    let id = command.id;
    let rules = EndRules {
        timeout: command.timeout,
        on_disconnect: command.on_disconnect,
        lease: command.lease,
        grace: command.kill_grace,
    };
    let oom_kills = cgroup::oom_kills();
    let spawned = spawn_blocking({
        let resources = resources.clone();
        move || {
            let command = Command {
                stdin: keeps_stdin,
                ..command
            };
            start::start(&resources, &command)
        }
    });
    let spawned = match spawned.await.expect("spawning does not panic") {
        Ok(Started { child, stdio, python }) => {
            exec.python.get_or_init(|| python);
            connect(exec, stdio, ended).await.map(|()| child)
        }
        Err(failure) => Err(failure),
    };
    let child = match spawned {
        Ok(child) => child,
        Err(failure) => {
            exec.spool.close(Channel::Stdout, false);
            exec.spool.close(Channel::Stderr, false);
            exec.pid.send_replace(Some(0));
            return Cause::StartFailed(failure).into();
        }
    };
    exec.pid.send_replace(Some(child.pid.as_raw_nonzero().get() as u32));
    if let StdinMode::Inline(data) = stdin {
        let mut writer = StdinWriter::new(id, exec.clone());
        tokio::spawn(async move { writer.write(Some(0), &data, true).await });
    }
    let mut record = wait_or_end(resources, exec, id, child, rules).await;
    if was_killed(&record.cause) && cgroup::oom_kills() > oom_kills {
        record.cause = Cause::OomKilled(match cgroup::memory_limit() {
            Some(limit) => format!("the container's memory limit of {} MiB was exceeded", limit >> 20),
            None => {
                "the container has no memory limit; the limit of its pod or the memory of the node was used up".into()
            }
        });
    }
    record
}

/// Returns true if SIGKILL ended the command, or a shell reports that of its child.
fn was_killed(cause: &Cause) -> bool {
    matches!(cause, Cause::Signaled(9) | Cause::Exited(137))
}

/// Starts the tasks that move output, and opens stdin. `Err` if the runtime refuses a descriptor.
async fn connect(exec: &Arc<Exec>, stdio: AgentStdio, ended: &value::Sender<bool>) -> Result<(), StartFailure> {
    let pump = |source, channel| output::pump(source, exec.spool.clone(), channel, ended.subscribe());
    match stdio {
        AgentStdio::Pipes { stdin, stdout, stderr } => {
            let read = |fd| watch(fd, Interest::READABLE).map(Arc::new).map_err(descriptor_failure);
            let (stdout, stderr) = (read(stdout)?, read(stderr)?);
            if let Some(stdin) = stdin {
                let stdin = watch(stdin, Interest::WRITABLE).map_err(descriptor_failure)?;
                exec.stdin.open(Sink::Pipe(stdin)).await;
            }
            for (source, channel) in [(stdout, Channel::Stdout), (stderr, Channel::Stderr)] {
                let pumped = pump(source.clone(), channel);
                tokio::spawn(async move {
                    if pumped.await {
                        output::discard(source).await;
                    }
                });
            }
        }
        AgentStdio::Pty { master } => {
            let master = Arc::new(watch(master, Interest::READABLE | Interest::WRITABLE).map_err(descriptor_failure)?);
            exec.stdin.open(Sink::Terminal(master.clone())).await;
            exec.terminal.get_or_init(|| master.clone());
            // The pump closes the master at its end: processes that still hold the terminal then get a hangup, as over ssh.
            tokio::spawn(pump(master, Channel::Stdout));
            exec.spool.close(Channel::Stderr, false);
        }
    }
    Ok(())
}

fn descriptor_failure(error: io::Error) -> StartFailure {
    StartFailure {
        step: "stdin",
        errno: error.raw_os_error().unwrap_or_default(),
        message: format!("the command's descriptors cannot be watched: {error}"),
        exit_code: 126,
    }
}

/// Conditions that end a command.
struct EndRules {
    timeout: Option<Duration>,
    on_disconnect: OnDisconnect,
    lease: Duration,
    /// Time between SIGTERM and SIGKILL.
    grace: Duration,
}

/// Waits until the command ends, or ends its tree when a rule says so.
async fn wait_or_end(
    resources: &Resources,
    exec: &Exec,
    id: super::ExecId,
    mut child: Child,
    rules: EndRules,
) -> ExitRecord {
    let mut cancel = exec.cancel.subscribe();
    let deadline = rules.timeout.map(|timeout| Instant::now() + timeout);
    let timeout = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => pending().await,
        }
    };
    let cause = tokio::select! {
        biased;
        status = &mut child.exit => return natural_cause(status).into(),
        reason = cancel.wait_for(Option::is_some) => {
            let reason = reason.ok().and_then(|reason| reason.clone());
            Cause::Cancelled(reason.unwrap_or_default())
        }
        () = timeout => Cause::TimedOut(format!("still running after {:?}", rules.timeout.unwrap_or_default())),
        () = wait_until_abandoned(exec, rules.on_disconnect, rules.lease) => {
            Cause::Cancelled("no client was connected any more".into())
        }
    };
    let survivors = process_tree::end(&resources.reaper, &resources.processes, id, child.pid, rules.grace).await;
    if !survivors.contains(&raw_pid(child.pid)) {
        // The leader was killed, so the reaper reports its exit soon. The cause stays the rule that ended it.
        let _ = child.exit.await;
    }
    ExitRecord { cause, survivors }
}

fn raw_pid(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get() as u32
}

/// Returns the cause of an end that no rule brought about.
fn natural_cause(status: Result<ExitStatus, oneshot::error::RecvError>) -> Cause {
    match status.expect("the reaper answers for every child") {
        ExitStatus::Exited(code) => Cause::Exited(code),
        ExitStatus::Signaled(signal) => Cause::Signaled(signal),
    }
}

/// Returns when no reader has been attached for too long: for a lease, or for a moment if the loss of a reader cancels.
async fn wait_until_abandoned(exec: &Exec, on_disconnect: OnDisconnect, lease: Duration) {
    let mut readers = exec.readers.subscribe();
    loop {
        let Readers { count, ever_attached } = *readers.borrow_and_update();
        let time_limit = match on_disconnect {
            OnDisconnect::Cancel if ever_attached => RECONNECT_WINDOW,
            _ => lease,
        };
        tokio::select! {
            () = sleep(time_limit), if count == 0 => return,
            changed = readers.changed() => if changed.is_err() { return },
        }
    }
}
