//! The suite of hostile peers: everybody who may lie to podbridge, or exhaust it, does so. Each role has a table of cases, and one frame
//! checks the same things in all of them (`frame/scene.rs`). A case is added as a row of its role's table.
//!
//! `SEED=N` repeats a run with its random numbers. `MINUTES=N` runs all cases again and again for that time, each time longer and with
//! another seed. `ROW=text` runs only the rows whose name contains it. Other arguments are those of `cargo test`: `cargo test -p
//! podbridge-tests --test hostile -- lying_agent`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // a test fails by panicking, and reads its environment

mod agent_peers;
mod credentials;
mod false_pod;
mod frame;
mod hostile_client;
mod lying_agent;
mod secrets;
mod self_test;
mod strangers;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

use crate::frame::record;
use crate::frame::scene::{Case, Setting};

/// Seed of a run whose caller names none.
const DEFAULT_SEED: u64 = 19_850_101;
/// How much longer the attacks of a long run are.
const LONG_SCALE: u32 = 4;
/// Cases that may be in work at once. One attacks; the others wait until their processes have recovered.
const CASES_AT_ONCE: usize = 24;

/// Returns the cases of all roles.
fn cases() -> Vec<Case> {
    let is_long_run = variable("MINUTES").is_some();
    [
        self_test::cases(),
        lying_agent::cases(),
        hostile_client::cases(is_long_run),
        agent_peers::cases(is_long_run),
        false_pod::cases(),
        strangers::cases(),
        secrets::cases(),
        credentials::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} has to be a number")))
}

/// Returns the trials of one round.
fn trials(seed: u64, scale: u32) -> Vec<Trial> {
    let cases = cases().into_iter();
    cases
        .map(|(name, run)| {
            // A case that is run alone has the same random numbers as in a whole run.
            let own = name.bytes().fold(seed, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            let setting = Setting {
                name: name.clone(),
                seed: own,
                scale,
            };
            Trial::test(name, move || {
                run(&setting);
                Ok(())
            })
        })
        .collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(CASES_AT_ONCE);
    let mut seed = variable("SEED").unwrap_or(DEFAULT_SEED);
    let run = |seed, scale| {
        println!("seed {seed}; SEED={seed} repeats this run");
        let conclusion = libtest_mimic::run(&arguments, trials(seed, scale));
        if !arguments.list {
            record::summary().iter().for_each(|line| println!("{line}"));
        }
        conclusion
    };
    let Some(minutes) = variable("MINUTES") else {
        return run(seed, 1).exit_code();
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60 * minutes) {
        let conclusion = run(seed, LONG_SCALE);
        if conclusion.has_failed() {
            return conclusion.exit_code();
        }
        seed = fastrand::Rng::with_seed(seed).u64(..);
    }
    ExitCode::SUCCESS
}
