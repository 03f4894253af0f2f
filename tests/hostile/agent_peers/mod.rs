//! Peers that attack the agent where it can be reached: its socket, by a client that breaks HTTP/2; its port for direct links, by strangers;
//! its abstract socket, by another user. `main` runs the cases.

mod connections;
mod direct_port;
mod http2;
mod other_user;
mod row;
mod socket;
mod unread_output;

use crate::frame::scene::{AGENT_CEILING, Case, SPOOLS, run_table};

/// Returns the cases. Those that break HTTP/2 take too long for each run of all tests.
pub(crate) fn cases(is_long_run: bool) -> Vec<Case> {
    let mut tables = vec![
        ("connections", connections::ROWS, AGENT_CEILING),
        ("direct_port", direct_port::ROWS, AGENT_CEILING),
        ("other_user", other_user::ROWS, AGENT_CEILING),
    ];
    if is_long_run {
        tables.push(("socket", socket::ROWS, AGENT_CEILING));
        tables.push(("unread_output", unread_output::ROWS, AGENT_CEILING + SPOOLS));
    }
    tables
        .into_iter()
        .map(|(name, rows, ceiling)| {
            let case: Case = (
                format!("agent_peers::{name}"),
                Box::new(move |setting| run_table(setting, rows, |setting, rows| row::run(setting, rows, ceiling))),
            );
            case
        })
        .collect()
}
