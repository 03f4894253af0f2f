//! Clients that attack the bridge on its socket, as untrusted code in the sandbox of a Zuul job can: many connections, requests and frames
//! that break the protocol, descriptors of every kind, streams that nobody reads. A row of a table has a function that makes one attack.
//! `main` runs the cases.

mod connections;
mod descriptors;
mod frames;
mod requests;
mod row;
mod streams;

use crate::frame::scene::{Case, run_table};

pub(crate) fn cases() -> Vec<Case> {
    let tables = [
        ("connections", connections::ROWS),
        ("descriptors", descriptors::ROWS),
        ("frames", frames::ROWS),
        ("requests", requests::ROWS),
        ("streams", streams::ROWS),
    ];
    tables
        .into_iter()
        .map(|(name, rows)| {
            let case: Case = (
                format!("hostile_client::{name}"),
                Box::new(|setting| run_table(setting, rows, row::run)),
            );
            case
        })
        .collect()
}
