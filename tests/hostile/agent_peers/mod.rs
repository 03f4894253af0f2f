//! Peers that attack the agent where it can be reached: its socket, by a client that breaks HTTP/2; its port for direct links, by strangers;
//! its abstract socket, by another user. `main` runs the cases.

mod connections;
mod direct_port;
mod http2;
mod other_user;
mod row;
mod socket;

use crate::frame::scene::{Case, run_table};

/// Returns the cases. Those that break HTTP/2 take too long for each run of all tests.
pub(crate) fn cases(is_long_run: bool) -> Vec<Case> {
    let mut tables = vec![
        ("connections", connections::ROWS),
        ("direct_port", direct_port::ROWS),
        ("other_user", other_user::ROWS),
    ];
    if is_long_run {
        tables.push(("socket", socket::ROWS));
    }
    tables
        .into_iter()
        .map(|(name, rows)| {
            let case: Case = (
                format!("agent_peers::{name}"),
                Box::new(|setting| run_table(setting, rows, row::run)),
            );
            case
        })
        .collect()
}
