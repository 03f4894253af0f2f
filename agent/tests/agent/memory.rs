//! What the agent holds, measured from outside: anonymous memory, descriptors, threads. The ceilings are those of a release
//! build; a debug build keeps them too, as they count no code.

use std::fs;

use bytes::Bytes;
use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::{AttachRequest, ExecEvent, ReleaseRequest, SignalRequest, SignalScope, WaitRequest};
use tonic::Streaming;

use crate::harness::{Agent, argv, eventually, finish, run, shell, soon, zombies_of};

/// Of one process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Anonymous memory, kB.
    memory: u64,
    /// The same at its highest with all else that is resident, kB.
    peak: u64,
    descriptors: usize,
    threads: u64,
}

fn held(pid: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    Held {
        memory: field("RssAnon:"),
        peak: field("VmHWM:"),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        threads: field("Threads:"),
    }
}

/// Once descriptors have been closed and memory has been given back.
fn settled(agent: &Agent) -> Held {
    let mut last = Held::default();
    eventually("the agent is at rest", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let before = std::mem::replace(&mut last, held(agent.pid()));
        before == last
    });
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_execs_leave_nothing() {
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let mut once = async |count: usize| {
        for _ in 0..count {
            let start = shell("echo out; echo err >&2");
            let exec_id: Bytes = start.exec_id.clone();
            soon(finish(exec.run(run(start)).await.unwrap().into_inner())).await;
            exec.release(ReleaseRequest { exec_id }).await.unwrap();
        }
    };
    once(20).await;
    let before = settled(&agent);
    once(1000).await;
    let after = settled(&agent);
    assert!(after.descriptors <= before.descriptors, "{after:?} after {before:?}");
    assert!(after.threads <= before.threads + 1, "{after:?} after {before:?}");
    assert!(after.memory <= 1536, "{after:?}");
    assert_eq!(zombies_of(agent.pid()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_execs_in_flight_are_small() {
    const COUNT: u64 = 1000;
    // Of the 20 MB that they took; what stays is pages that something small still lives in.
    const GIVEN_BACK: u64 = 3 << 10;
    let agent = Agent::start();
    let mut exec = agent.exec().await;
    let idle = settled(&agent);
    assert!(idle.memory <= 1024, "{idle:?}");
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        let start = argv(&["sleep", "1000"]);
        ids.push(start.exec_id.clone());
        exec.start(start).await.unwrap();
    }
    let unattached = settled(&agent);
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
    let attached = settled(&agent);
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
    eventually("memory and threads are given back", || {
        let now = held(agent.pid());
        now.memory <= GIVEN_BACK && now.threads <= idle.threads + 1
    });
    let after = settled(&agent);
    let each = |held: Held| (held.memory - idle.memory) as f64 / COUNT as f64;
    println!(
        "kB per exec: {:.1} unattached, {:.1} attached; idle {} kB, {} kB after",
        each(unattached),
        each(attached),
        idle.memory,
        after.memory
    );
    assert!(each(unattached) <= 16.0, "{idle:?} {unattached:?}");
    assert!(each(attached) <= 24.0, "{idle:?} {attached:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_that_waits_for_its_reader_needs_little_memory() {
    const LENGTH: u64 = 1 << 30;
    let own = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
    let agent = Agent::with(&["--spool", directory.path().to_str().unwrap()]);
    let mut exec = agent.exec().await;
    let start = shell(&format!("head -c {LENGTH} /dev/zero"));
    let mut reader = exec.run(run(start)).await.unwrap().into_inner();
    std::thread::sleep(std::time::Duration::from_secs(10));
    let mut got = 0;
    while let Some(event) = soon(reader.message()).await.unwrap() {
        if let Some(Event::Output(output)) = event.event {
            assert_eq!(output.offset, got);
            got += output.data.len() as u64;
        }
    }
    assert_eq!(got, LENGTH);
    let held = held(agent.pid());
    println!("peak {} kB", held.peak);
    assert!(held.memory <= 24 << 10 && held.peak <= 32 << 10, "{held:?}");
}
