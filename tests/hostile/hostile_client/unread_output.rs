//! Output that fills the agent's spools, because no client reads it. Its memory is theirs, and what is on its way.

use serde_json::json;

use crate::hostile_client::row::Row;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "output_that_no_client_reads",
        start: |_, target| {
            let request = json!({"v": 1, "op": "exec", "argv": ["cat", "/dev/zero"]});
            let many = (0..60).map(|_| target.request(&request));
            Box::new(many.collect::<Vec<_>>())
        },
    },
    Row {
        name: "output_and_errors_that_no_client_reads",
        start: |_, target| {
            let line = "cat /dev/zero & exec cat /dev/zero >&2";
            let request = json!({"v": 1, "op": "exec", "argv": ["sh", "-c", line]});
            let many = (0..30).map(|_| target.request(&request));
            Box::new(many.collect::<Vec<_>>())
        },
    },
];
