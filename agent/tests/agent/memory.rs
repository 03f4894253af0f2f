//! Ceilings of what the agent holds. They are those of a release build; a debug build keeps them too, as they count no code, and
//! of what the loader has changed in it what it is in a release build.

use bytes::Bytes;
use podbridge_proto::v1::ReleaseRequest;

use crate::harness::{Agent, eventually, finish, run, shell, soon, zombies_of};
use crate::measure::{in_flight, settled_usage, unread_gibibyte, usage};

/// `Usage::relocated` of a release build, kB.
const RELOCATED: u64 = 160;

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
    let before = settled_usage(&agent);
    once(1000).await;
    // Idle threads end, and memory is given back, a few seconds later.
    eventually("all is given back", || {
        let now = usage(agent.pid());
        now.descriptors <= before.descriptors && now.threads <= before.threads + 1 && now.memory + RELOCATED <= 1536
    });
    assert_eq!(zombies_of(agent.pid()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_execs_in_flight_are_small() {
    // Of the 20 MB that they took.
    const GIVEN_BACK: u64 = 1536 - RELOCATED;
    let agent = Agent::start();
    let seen = in_flight(&agent, 1000, GIVEN_BACK).await;
    assert!(seen.idle.memory + RELOCATED <= 1024, "{seen:?}");
    assert!(seen.unattached <= 16.0 && seen.attached <= 24.0, "{seen:?}");
    assert!(seen.after.memory <= GIVEN_BACK, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_that_waits_for_its_reader_needs_little_memory() {
    let usage = unread_gibibyte().await;
    // Resident is also the code, of which a debug build has more.
    assert!(usage.memory <= 24 << 10 && usage.peak <= 32 << 10, "{usage:?}");
}
