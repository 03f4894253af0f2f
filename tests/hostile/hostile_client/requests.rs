//! Requests that are no valid JSON, or valid JSON that no client would send.

use podbridge_tests::client_protocol::{Connection, REQUEST, STDIN_EOF};
use serde_json::{Value, json};

use crate::hostile_client::row::{Row, Target};

/// Sends a request as text. The bridge has to answer: it refuses the request, or what it asks for fails.
fn expect_failure(target: &Target<'_>, request: &[u8]) {
    let mut connection = target.connect();
    // The bridge may answer before it has read all.
    let _ = connection.send(REQUEST, request);
    // A put is answered when its content has come.
    let _ = connection.send(STDIN_EOF, &[]);
    let answer = connection.read_result();
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    let answer = answer.unwrap_or_else(|error| panic!("no answer to {shown}: {error}"));
    let failures = ["failed", "unreachable", "start_failed"];
    assert!(
        failures.iter().any(|failure| answer["outcome"] == *failure),
        "{shown}: {answer}"
    );
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(
        message.len() <= 2048 && !message.contains(char::is_control),
        "{shown}: {message:?}"
    );
}

fn expect_failures(target: &Target<'_>, requests: &[Value]) {
    for request in requests {
        expect_failure(target, request.to_string().as_bytes());
    }
}

/// Returns a random JSON value.
fn random_value(rng: &mut fastrand::Rng, depth: u32) -> Value {
    match rng.u32(0..if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => json!(rng.bool()),
        2 => json!(rng.choice([0, 1, -1, i64::MAX, i64::MIN]).unwrap()),
        3 => json!(u64::MAX),
        4 => json!(rng.choice(["", "true", "\u{0}", "\u{1b}[31m", "fd", "stream"]).unwrap()),
        5 => json!({"b64": rng.choice(["", "!", "AA==", "/////w=="]).unwrap()}),
        6 => (0..rng.usize(0..4)).map(|_| random_value(rng, depth - 1)).collect(),
        _ => json!({"rows": random_value(rng, depth - 1), "path": random_value(rng, depth - 1)}),
    }
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "text_that_is_no_request",
        start: |_, target| {
            let long = format!("{{\"v\":1,\"op\":\"{}\"}}", "x".repeat((1 << 20) - 100));
            for text in [
                "",
                "{",
                "[]",
                "null",
                "1",
                "\"\"",
                "\u{0}",
                "{\"v\":1}",
                "{\"v\":1,\"op\":1}",
                &long,
            ] {
                expect_failure(target, text.as_bytes());
            }
            expect_failure(target, b"\xff\xfe");
            Box::new(())
        },
    },
    Row {
        name: "deep_nesting",
        start: |_, target| {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                let deep = open.repeat(100_000) + "1" + &close.repeat(100_000);
                expect_failure(target, deep.as_bytes());
                expect_failure(
                    target,
                    format!("{{\"v\":1,\"op\":\"exec\",\"argv\":{deep}}}").as_bytes(),
                );
                expect_failure(target, open.repeat(200_000).as_bytes());
            }
            Box::new(())
        },
    },
    Row {
        name: "operations_that_do_not_exist",
        start: |_, target| {
            let escapes = "\u{1b}]0;owned\u{7}\r\n";
            expect_failures(
                target,
                &[
                    json!({"v": 1, "op": escapes}),
                    json!({"v": 1, "op": escapes.repeat(10_000)}),
                    json!({"v": 2, "op": "exec", "argv": ["true"]}),
                    json!({"v": u32::MAX, "op": "status"}),
                    json!({"v": 1, "op": "status", "requires": [escapes]}),
                    json!({"v": 1, "op": "status", "requires": ["x".repeat(100_000)]}),
                    json!({"v": 1, "op": "status", "requires": vec!["resume"; 10_000], "container": 1}),
                    json!({"v": 1, "op": "logs"}),
                    json!({"v": 1, "op": "log", "id": "../../etc/shadow"}),
                    json!({"v": 1, "op": "log", "id": "x".repeat(100_000)}),
                ],
            );
            Box::new(())
        },
    },
    Row {
        name: "names_of_a_quarter_mebibyte",
        start: |_, target| {
            for long in ["x", "/x", "\u{1b}[31m", "\u{20ac}"].map(|part| part.repeat((1 << 18) / part.len())) {
                let slash = format!("/{long}");
                expect_failures(
                    target,
                    &[
                        json!({"v": 1, "op": "exec", "argv": [long]}),
                        json!({"v": 1, "op": "exec", "argv": [slash]}),
                        json!({"v": 1, "op": "exec", "argv": ["true"], "cwd": slash}),
                        json!({"v": 1, "op": "exec", "argv": ["true"], "user": long}),
                        json!({"v": 1, "op": "exec", "argv": ["true"], "exec_id": long}),
                        json!({"v": 1, "op": "exec", "argv": ["true"], "container": long}),
                        json!({"v": 1, "op": "exec", "argv": ["true"], "stdin": long}),
                        json!({"v": 1, "op": "get", "path": slash}),
                        json!({"v": 1, "op": "get", "path": slash, "root": "/tmp", "requires": ["root"]}),
                        json!({"v": 1, "op": "get", "path": "x", "root": slash, "requires": ["root"]}),
                        json!({"v": 1, "op": "stat", "path": slash}),
                        json!({"v": 1, "op": "put", "path": slash}),
                        json!({"v": 1, "op": "put", "path": "/tmp/x", "user": long}),
                        json!({"v": 1, "op": "delete_log", "id": long, "container": 1}),
                    ],
                );
            }
            Box::new(())
        },
    },
    Row {
        name: "commands_of_thousands_of_words",
        start: |_, target| {
            // Just below the length of a request that is always read.
            let words = [vec!["sh", "-c", "exec sleep 300"], vec![""; 2700]].concat();
            let request = json!({"v": 1, "op": "exec", "argv": words});
            Box::new((0..600).map(|_| target.request(&request)).collect::<Vec<_>>())
        },
    },
    Row {
        name: "commands_that_cannot_be",
        start: |_, target| {
            expect_failures(
                target,
                &[
                    json!({"v": 1, "op": "exec"}),
                    json!({"v": 1, "op": "exec", "argv": []}),
                    json!({"v": 1, "op": "exec", "argv": ["a\u{0}b"]}),
                    json!({"v": 1, "op": "exec", "argv": [{"b64": "!!"}]}),
                    json!({"v": 1, "op": "exec", "argv": ["true"], "shell": "true"}),
                    json!({"v": 1, "op": "exec", "argv": ["true"], "exec_id": "x"}),
                    json!({"v": 1, "op": "exec", "argv": ["true"], "cwd": "/\u{1b}[31m\n"}),
                    json!({"v": 1, "op": "exec", "argv": ["true"], "user": "\u{1b}[31m\n"}),
                    json!({"v": 1, "op": "exec", "argv": ["/\u{1b}[31m\n"]}),
                    json!({"v": 1, "op": "exec", "argv": ["true"], "env": [["A=B", "c"]]}),
                    json!({"v": 1, "op": "exec", "argv": ["true"], "stdin": "fd"}),
                    json!({"v": 1, "op": "exec", "argv": ["true"], "puts": [{"path": "/tmp/x"}], "requires": ["puts"]}),
                    json!({"v": 1, "op": "put", "path": "relative\u{0}"}),
                    json!({"v": 1, "op": "get", "path": "/nowhere/\u{1b}[31m\n"}),
                    json!({"v": 1, "op": "get", "path": "x", "root": "relative", "requires": ["root"]}),
                    json!({"v": 1, "op": "stat", "path": "../..", "root": "/tmp", "requires": ["root"]}),
                ],
            );
            Box::new(())
        },
    },
    Row {
        name: "random_requests",
        start: |attack, target| {
            let keys = [
                "argv", "stdin", "stdout", "env", "cwd", "user", "pty", "puts", "resume", "path", "mode", "root", "id",
            ];
            let connections: Vec<Connection> = (0..100 * attack.scale)
                .map(|_| {
                    let operation = attack
                        .rng
                        .choice(["exec", "put", "get", "stat", "log", "delete_log"])
                        .unwrap();
                    let mut request = json!({"v": 1, "op": operation, "argv": ["true"], "path": "/nowhere/x"});
                    for _ in 0..attack.rng.usize(0..4) {
                        let key = attack.rng.choice(keys).unwrap();
                        request[key] = random_value(attack.rng, 2);
                    }
                    target.request(&request)
                })
                .collect();
            Box::new(connections)
        },
    },
];
