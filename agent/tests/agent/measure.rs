//! Measures the resources of an agent from outside: idle, with many commands, with unread output. `memory` and `logs` check limits, the
//! benchmark prints.

use std::fs;

use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::{AttachRequest, ExecEvent, ReleaseRequest, SignalRequest, SignalScope, WaitRequest};
use tonic::Streaming;

use crate::harness::{Agent, argv, eventually, run, shell, soon};

/// Resources of one process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Anonymous memory without `relocated`, in kB; 0 under qemu-user, whose own memory is with it.
    pub(crate) memory: u64,
    /// Pages of the program's file that the loader has changed, in kB. A debug build has several times more of them.
    pub(crate) relocated: u64,
    /// Resident memory, in kB.
    pub(crate) resident: u64,
    /// Highest resident memory so far, in kB.
    pub(crate) peak: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
}

/// Returns the resources that a process uses now.
pub(crate) fn usage(pid: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let relocated = relocated(&fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap());
    Usage {
        memory: if cfg!(podbridge_qemu_user) {
            0
        } else {
            field("RssAnon:").saturating_sub(relocated)
        },
        relocated,
        resident: field("VmRSS:"),
        peak: field("VmHWM:"),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        threads: field("Threads:"),
    }
}

/// Returns the size of anonymous pages in mappings of a file, in kB.
fn relocated(smaps: &str) -> u64 {
    let mut of_file = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Anonymous:", kilobytes, _] if of_file => sum += kilobytes.parse::<u64>().unwrap(),
            // A mapping: addresses, permissions, offset, device, inode, and a name if there is one.
            [range, _, _, _, inode, ..] if range.contains('-') => of_file = inode != "0",
            _ => {}
        }
    }
    sum
}

/// Waits until the usage no longer changes, and returns it: by then descriptors are closed and freed memory is returned.
pub(crate) fn settled_usage(agent: &Agent) -> Usage {
    let mut last = Usage::default();
    eventually("the agent is at rest", || {
        // At rest means the same usage twice, this far apart.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let before = std::mem::replace(&mut last, usage(agent.pid()));
        before == last
    });
    last
}

/// Memory of an agent with many commands, before, during and after.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) idle: Usage,
    /// Anonymous memory for each command without a reader, in kB.
    pub(crate) unattached: f64,
    /// Anonymous memory for each command with a reader, in kB.
    pub(crate) attached: f64,
    pub(crate) after: Usage,
}

/// Starts `count` commands, attaches to them, ends them, and waits until the agent holds at most `returned_to` kB.
pub(crate) async fn in_flight(agent: &Agent, count: u64, returned_to: u64) -> InFlight {
    let mut exec = agent.exec().await;
    let idle = settled_usage(agent);
    let mut ids = Vec::new();
    for _ in 0..count {
        let start = argv(&["sleep", "1000"]);
        ids.push(start.exec_id.clone());
        exec.start(start).await.unwrap();
    }
    let unattached = settled_usage(agent);
    let mut readers: Vec<Streaming<ExecEvent>> = Vec::new();
    for exec_id in ids.clone() {
        let attach = AttachRequest {
            exec_id,
            ..AttachRequest::default()
        };
        let mut reader = exec.attach(attach).await.unwrap().into_inner();
        soon(reader.message()).await.unwrap();
        readers.push(reader);
    }
    let attached = settled_usage(agent);
    for exec_id in ids.clone() {
        let kill = SignalRequest {
            exec_id,
            signal: 9,
            scope: SignalScope::Leader as i32,
        };
        exec.signal(kill).await.unwrap();
    }
    for exec_id in ids {
        let wait = WaitRequest {
            exec_id: exec_id.clone(),
        };
        soon(exec.wait(wait)).await.unwrap();
        exec.release(ReleaseRequest { exec_id }).await.unwrap();
    }
    drop(readers);
    drop(exec);
    eventually("memory and threads are returned", || {
        let now = usage(agent.pid());
        now.memory <= returned_to && now.threads <= idle.threads + 1
    });
    let each = |usage: Usage| (usage.memory - idle.memory) as f64 / count as f64;
    InFlight {
        idle,
        unattached: each(unattached),
        attached: each(attached),
        after: settled_usage(agent),
    }
}

/// Sends 1 GiB of output to a connection that is unread for 10 s, then reads to the end. Returns the usage after it.
pub(crate) async fn unread_gibibyte() -> Usage {
    const LENGTH: u64 = 1 << 30;
    let own = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
    let agent = Agent::start_with(&["--spool", directory.path().to_str().unwrap()]);
    let mut exec = agent.exec().await;
    let start = shell(&format!("head -c {LENGTH} /dev/zero"));
    let mut reader = exec.run(run(start)).await.unwrap().into_inner();
    // Time without a reader is what is measured.
    std::thread::sleep(std::time::Duration::from_secs(10));
    let mut got = 0;
    while let Some(event) = soon(reader.message()).await.unwrap() {
        if let Some(Event::Output(output)) = event.event {
            assert_eq!(output.offset, got);
            got += output.data.len() as u64;
        }
    }
    assert_eq!(got, LENGTH);
    usage(agent.pid())
}
