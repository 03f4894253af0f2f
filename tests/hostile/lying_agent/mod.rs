//! A pod's agent that lies to the bridge and to its clients. A row of a table has a lie, the operation that meets it, and how the client
//! has to end. `main` runs the cases.

pub(crate) mod answer;
mod commands;
mod files;
mod hello;
mod logs;
mod row;
pub(crate) mod server;
mod trees;

use crate::frame::scene::{Case, run_table};
use crate::lying_agent::row::Row;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![
        (
            "lying_agent::commands".into(),
            Box::new(|setting| run_table(setting, commands::ROWS, Row::run_with_clients)),
        ),
        (
            "lying_agent::files".into(),
            Box::new(|setting| run_table(setting, files::ROWS, Row::run_with_clients)),
        ),
        (
            "lying_agent::trees".into(),
            Box::new(|setting| run_table(setting, trees::ROWS, Row::run_with_clients)),
        ),
        (
            "lying_agent::logs".into(),
            Box::new(|setting| run_table(setting, logs::ROWS, Row::run_in_slot)),
        ),
    ];
    cases.extend(commands::AT_THE_END.iter().map(|row| {
        let case: Case = (
            format!("lying_agent::{}", row.name),
            Box::new(|setting| row.run_until_term(setting)),
        );
        case
    }));
    cases.extend(hello::ROWS.iter().map(|row| {
        let case: Case = (
            format!("lying_agent::{}", row.name),
            Box::new(|setting| row.run_greeting(setting)),
        );
        case
    }));
    cases
}
