//! Limits on the memory, descriptors and threads of the agent. They are those of a release build. A debug build keeps them too: they
//! count no code, and of the pages that the loader changes they count as many as a release build has.

use bytes::Bytes;
use podbridge_proto::v1::ReleaseRequest;

use crate::files::{get, put};
use crate::harness::{Agent, eventually, finish, run, shell, soon, zombies_of};
use crate::measure::{in_flight, settled_usage, unread_gibibyte, usage};

/// `Usage::relocated` of a release build, in kB.
const RELOCATED: u64 = 160;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_execs_leave_no_memory_descriptors_or_zombies() {
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
    let before = settled_usage(&agent);
    once(1000).await;
    // Idle threads end, and freed memory is returned, a few seconds later.
    eventually("everything is returned", || {
        let now = usage(agent.pid());
        now.descriptors <= before.descriptors && now.threads <= before.threads + 1 && now.memory + RELOCATED <= 1536
    });
    assert_eq!(zombies_of(agent.pid()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_execs_in_flight_use_little_memory() {
    // The commands took 20 MB.
    const MEMORY_AFTER: u64 = 1536 - RELOCATED;
    let agent = Agent::start();
    let seen = in_flight(&agent, 1000, MEMORY_AFTER).await;
    assert!(seen.idle.memory + RELOCATED <= 1024, "{seen:?}");
    assert!(seen.unattached <= 16.0 && seen.attached <= 24.0, "{seen:?}");
    assert!(seen.after.memory <= MEMORY_AFTER, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn transfers_leave_no_memory() {
    let agent = Agent::start();
    let path = agent.dir.path().join("file");
    let content = vec![7; 32 << 20];
    let chunks: Vec<&[u8]> = content.chunks(100_000).collect();
    put(&agent, &path, &chunks, None).await.unwrap();
    get(&agent, &path, 0).await.unwrap();
    eventually("the memory of both is returned", || {
        usage(agent.pid()).memory + RELOCATED <= 1536
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unread_output_uses_little_memory() {
    let usage = unread_gibibyte().await;
    // Resident memory includes the code, and a debug build has more of it.
    assert!(usage.memory <= 24 << 10 && usage.peak <= 32 << 10, "{usage:?}");
}
