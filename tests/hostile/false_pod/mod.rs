//! A pod behind a false API server: what runs in the container answers the scripts of a dial as it likes, and the WebSocket carries what it
//! likes. A row of a table has a function for each of the three scripts. `main` runs the cases.

mod api_server;
mod enrolment;
mod names;
mod row;
mod rows;
mod websocket;

use crate::frame::scene::{Case, Setting, run_table};

/// Cases that share the table of dials, and run beside each other. Most of a row's time is the limit of its dial.
const DIALS_AT_ONCE: usize = 3;

pub(crate) fn cases() -> Vec<Case> {
    let parts = rows::ROWS.chunks(rows::ROWS.len().div_ceil(DIALS_AT_ONCE));
    let dials = parts.enumerate().map(|(number, part)| -> Case {
        let run = move |setting: &Setting| run_table(setting, part, row::run);
        (format!("false_pod::dials_{number}"), Box::new(run))
    });
    let enrolment = |setting: &Setting| run_table(setting, enrolment::ROWS, enrolment::run);
    let enrolment: Case = ("false_pod::enrolment".into(), Box::new(enrolment));
    let names: Case = ("false_pod::invented_containers".into(), Box::new(names::run));
    dials.chain([enrolment, names]).collect()
}
