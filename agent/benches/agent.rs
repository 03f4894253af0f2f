//! Measures time and memory of the agent's execs, and the same work without the agent for comparison. `make bench-agent` runs it on the
//! release binary.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // a tool

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/agent/harness.rs"]
mod harness;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/agent/measure.rs"]
mod measure;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{AGENT, Agent, argv, finish, run};
use podbridge_proto::v1::ReleaseRequest;

const ROUNDS: usize = 2000;

fn main() {
    // A bridge's runtime has one thread as well.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure_all());
}

async fn measure_all() {
    let agent = Agent::start();
    let idle = measure::settled_usage(&agent);
    let size = std::fs::metadata(AGENT).unwrap().len();
    println!(
        "idle: {} kB anonymous, {} kB resident, {} threads; binary {} kB",
        idle.memory + idle.relocated,
        idle.resident,
        idle.threads,
        size >> 10
    );
    let (through_agent, alone) = spawns(&agent).await;
    println!(
        "true, {ROUNDS} times: p50 {:?}, p99 {:?}; fork and exec alone p50 {:?}: {:.2} times",
        percentile(&through_agent, 50),
        percentile(&through_agent, 99),
        percentile(&alone, 50),
        percentile(&through_agent, 50).as_secs_f64() / percentile(&alone, 50).as_secs_f64()
    );
    drop(agent);
    let agent = Agent::start();
    let seen = measure::in_flight(&agent, 1000, 3 << 10).await;
    println!(
        "1000 in flight: {:.1} kB each, {:.1} kB with a reader; {} kB anonymous after them",
        seen.unattached,
        seen.attached,
        seen.after.memory + seen.after.relocated
    );
    let usage = measure::unread_gibibyte().await;
    println!("1 GiB that is unread for 10 s: {} kB resident at most", usage.peak);
}

/// Measures spawn, run and reap of `true`, through the agent over a warm connection and by this process, alternately. Returns both
/// lists of times, sorted.
async fn spawns(agent: &Agent) -> (Vec<Duration>, Vec<Duration>) {
    let mut exec = agent.exec().await;
    let (mut through_agent, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = argv(&["/bin/true"]);
        let exec_id = start.exec_id.clone();
        let started = Instant::now();
        finish(exec.run(run(start)).await.unwrap().into_inner()).await;
        through_agent.push(started.elapsed());
        exec.release(ReleaseRequest { exec_id }).await.unwrap();
        let started = Instant::now();
        let mut command = Command::new("/bin/true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
        alone.push(started.elapsed());
    }
    through_agent.sort();
    alone.sort();
    (through_agent, alone)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[sorted.len() * percent / 100]
}
