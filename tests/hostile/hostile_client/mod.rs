//! Clients that attack the bridge on its socket, as untrusted code in the sandbox of a Zuul job can: many connections, requests and frames
//! that break the protocol, descriptors of every kind, streams that nobody reads. A row of a table has a function that makes one attack.
//! `main` runs the cases.

mod connections;
mod descriptors;
mod frames;
mod requests;
mod row;
mod stopped_agent;
mod streams;
mod unread_output;

use crate::frame::scene::{AGENT_CEILING, Case, SPOOLS, run_table};

/// Returns the cases. Sixty commands that print at once need a machine that does nothing else.
pub(crate) fn cases(is_long_run: bool) -> Vec<Case> {
    let mut tables = vec![
        ("connections", connections::ROWS, AGENT_CEILING),
        ("descriptors", descriptors::ROWS, AGENT_CEILING),
        ("frames", frames::ROWS, AGENT_CEILING),
        ("requests", requests::ROWS, AGENT_CEILING),
        ("streams", streams::ROWS, AGENT_CEILING),
    ];
    if is_long_run {
        tables.push(("unread_output", unread_output::ROWS, AGENT_CEILING + SPOOLS));
    }
    let stopped: Case = (
        "hostile_client::stopped_agent".into(),
        Box::new(|setting| run_table(setting, stopped_agent::ROWS, stopped_agent::run)),
    );
    tables
        .into_iter()
        .map(|(name, rows, agent_ceiling)| {
            let case: Case = (
                format!("hostile_client::{name}"),
                Box::new(move |setting| {
                    run_table(setting, rows, |setting, rows| row::run(setting, rows, agent_ceiling))
                }),
            );
            case
        })
        .chain([stopped])
        .collect()
}
