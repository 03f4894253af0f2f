//! A pod behind a false API server: what runs in the container answers the scripts of a dial as it likes, and the WebSocket carries what it
//! likes. A row of a table has a function for each of the three scripts. `main` runs the cases.

mod api_server;
mod enrolment;
mod row;
mod rows;
mod websocket;

use crate::frame::scene::{Case, run_table};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        (
            "false_pod::dials".into(),
            Box::new(|setting| run_table(setting, rows::ROWS, row::run)),
        ),
        (
            "false_pod::enrolment".into(),
            Box::new(|setting| run_table(setting, enrolment::ROWS, enrolment::run)),
        ),
    ]
}
