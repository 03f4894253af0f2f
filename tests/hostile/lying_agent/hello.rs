//! Lies at the first call of a connection. The bridge of a Zuul build dials again and again by itself.

use podbridge_proto::v1::HelloResponse;
use tonic::Code;

use crate::lying_agent::answer::Answer;
use crate::lying_agent::commands::ESCAPES;
use crate::lying_agent::row::{Act, Ending, Row};
use crate::lying_agent::server::{Lie, honest_hello};

/// Longest string that fits into a message with the others.
const LONG: usize = 3 << 20;

const fn hello(name: &'static str, answer: Answer<HelloResponse>, ending: Ending) -> Row {
    Row::new(name, Lie::Hello(answer), Act::Greeting, ending)
}

pub(super) const ROWS: &[Row] = &[
    hello("hello_never_answers", Answer::Never, Ending::Waits),
    hello(
        "hello_fails_with_escapes",
        Answer::Fails(Code::FailedPrecondition, ESCAPES),
        Ending::Fails,
    ),
    hello(
        "hello_is_empty",
        Answer::Closes(|_| Box::new([HelloResponse::default()].into_iter())),
        Ending::Fails,
    ),
    hello(
        "version_with_escapes",
        Answer::Closes(|_| {
            let lie = HelloResponse {
                protocol_major: u32::MAX,
                version: ESCAPES.into(),
                ..honest_hello()
            };
            Box::new([lie].into_iter())
        }),
        Ending::Fails,
    ),
    hello(
        "long_version",
        Answer::Closes(|_| {
            let lie = HelloResponse {
                version: "9".repeat(LONG),
                ..honest_hello()
            };
            Box::new([lie].into_iter())
        }),
        Ending::Waits,
    ),
    hello(
        "long_instance",
        Answer::Closes(|_| {
            let lie = HelloResponse {
                instance: "f".repeat(LONG),
                ..honest_hello()
            };
            Box::new([lie].into_iter())
        }),
        Ending::Waits,
    )
    .lasting(),
    hello(
        "instance_with_escapes",
        Answer::Closes(|_| {
            let lie = HelloResponse {
                instance: ESCAPES.into(),
                boot_id: ESCAPES.into(),
                pod_uid: ESCAPES.into(),
                container: ESCAPES.into(),
                ..honest_hello()
            };
            Box::new([lie].into_iter())
        }),
        Ending::Waits,
    ),
    hello(
        "another_instance_each_time",
        Answer::Closes(|rng| {
            let lie = HelloResponse {
                instance: format!("{:032x}.boot.1", rng.u128(..)),
                ..honest_hello()
            };
            Box::new([lie].into_iter())
        }),
        Ending::Waits,
    ),
    hello(
        "capabilities_without_number",
        Answer::Closes(|_| {
            let mut lie = honest_hello();
            lie.capabilities
                .extend((0..200_000).map(|number| format!("lie.{number}")));
            Box::new([lie].into_iter())
        }),
        Ending::Waits,
    ),
    Row::new(
        "links_that_are_cut_after_the_greeting",
        Lie::Links,
        Act::Greeting,
        Ending::Waits,
    )
    .lasting(),
];
