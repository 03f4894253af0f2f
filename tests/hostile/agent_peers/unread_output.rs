//! Output that fills the agent's spools, because its receiver opens no window. Its memory is theirs: it stays while they keep the output of
//! commands that have ended. So these attacks have an agent of their own.

use podbridge_proto::v1::{RunRequest, StartRequest};

use crate::agent_peers::http2::{Http2, INITIAL_WINDOW_SIZE};
use crate::agent_peers::row::Row;
use crate::agent_peers::socket::{RUN, command};

pub(super) const ROWS: &[Row] = &[Row {
    name: "output_into_a_window_of_nothing",
    start: |_, target| {
        let mut connection = Http2::open_with(target.socket, &[(INITIAL_WINDOW_SIZE, 0)]).unwrap();
        connection.drain();
        for number in 0..20 {
            let start = StartRequest {
                // Output that nobody has read is kept so long.
                lease_ms: 1000,
                ..command(&["cat", "/dev/zero"], number)
            };
            let run = RunRequest {
                start: Some(start),
                ..RunRequest::default()
            };
            connection.call(2 * number as u32 + 1, RUN, &run).unwrap();
        }
        Box::new(connection)
    },
}];
