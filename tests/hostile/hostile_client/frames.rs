//! Frames that break the protocol: wrong types, lengths, order, and random bytes.

use std::io::Write as _;

use podbridge_tests::client_protocol::{Connection, RESIZE, SIGNAL, STDIN, STDIN_EOF};
use serde_json::json;

use crate::frame::flood::Flood;
use crate::hostile_client::row::{Row, Target};

/// Connects and sends bytes that are no request; the bridge has to answer with a refusal, or to close.
fn expect_refusal(target: &Target<'_>, bytes: &[u8]) {
    let mut connection = target.connect();
    // The bridge may close before it has read all.
    let _ = connection.socket().write_all(bytes);
    let _ = connection.socket().shutdown(std::net::Shutdown::Write);
    if let Ok(result) = connection.read_result() {
        assert_eq!(
            result["outcome"],
            "failed",
            "{:?}: {result}",
            &bytes[..bytes.len().min(64)]
        );
    }
}

/// Returns the connection of a command that reads its stdin.
fn running_cat(target: &Target<'_>) -> Connection {
    target.request(&json!({"v": 1, "op": "exec", "argv": ["cat"], "stdin": "stream"}))
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "first_frames_of_every_type",
        start: |_, target| {
            for kind in 0..=255u8 {
                expect_refusal(target, &[0, 0, 0, 3, kind, b'{', b'}']);
            }
            Box::new(())
        },
    },
    Row {
        name: "first_frames_of_every_length",
        start: |_, target| {
            for length in [0, 1, 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 1 << 31, u32::MAX] {
                expect_refusal(target, &[&length.to_be_bytes()[..], b"\x01{"].concat());
            }
            Box::new(())
        },
    },
    Row {
        name: "random_bytes",
        start: |attack, target| {
            for _ in 0..100 * attack.scale {
                let bytes: Vec<u8> = (0..attack.rng.usize(0..300)).map(|_| attack.rng.u8(..)).collect();
                expect_refusal(target, &bytes);
            }
            Box::new(())
        },
    },
    Row {
        name: "random_frames_to_a_command",
        start: |attack, target| {
            let held: Vec<_> = (0..20 * attack.scale)
                .map(|_| {
                    let mut connection = running_cat(target);
                    for _ in 0..attack.rng.usize(0..20) {
                        // Mostly types that exist.
                        let kind = attack
                            .rng
                            .choice([STDIN, STDIN_EOF, SIGNAL, RESIZE, 1, 0x1f, 0xff])
                            .unwrap();
                        let payload: Vec<u8> = (0..attack.rng.usize(0..9)).map(|_| attack.rng.u8(..)).collect();
                        // The bridge may have closed.
                        let _ = connection.send(kind, &payload);
                    }
                    connection
                })
                .collect();
            Box::new(held)
        },
    },
    Row {
        name: "signals_without_end",
        start: |_, target| {
            let mut connection = running_cat(target);
            // CONT, which changes nothing.
            Box::new(Flood::start(move || drop(connection.send(SIGNAL, &[18]))))
        },
    },
    Row {
        name: "sizes_without_end",
        start: |_, target| {
            let size = json!({"rows": 24, "cols": 80});
            let request = json!({"v": 1, "op": "exec", "argv": ["cat"], "stdin": "stream", "pty": size});
            let mut connection = target.request(&request);
            Box::new(Flood::start(move || drop(connection.send(RESIZE, &[0, 24, 0, 80]))))
        },
    },
    Row {
        name: "input_after_its_end",
        start: |_, target| {
            let mut connection = running_cat(target);
            connection.send(STDIN_EOF, &[]).unwrap();
            for _ in 0..100 {
                // The bridge may have closed.
                let _ = connection.send(STDIN, b"more");
                let _ = connection.send(STDIN_EOF, &[]);
            }
            Box::new(connection)
        },
    },
];
