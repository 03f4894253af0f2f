//! Lies about commands: their events, their end, the acknowledgements of their input.

use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::{Closed, Ended, ExecEvent, ExitRecord, Gap, Output, StartFailed, Started, StdinAck, Stream};
use tonic::Code;

use crate::lying_agent::answer::{Answer, Messages};
use crate::lying_agent::row::{Act, Ending, Row};
use crate::lying_agent::server::{Lie, event, exits};

/// What a pod says to drive a terminal, and to forge a line of its own.
pub(super) const ESCAPES: &str = "\u{1b}]0;owned\u{7}\u{1b}[31m\u{9b}2J\r\u{0}\u{7f}\npodbridge: all is well";

fn started() -> ExecEvent {
    event(Event::Started(Started {
        pid: 1,
        ..Started::default()
    }))
}

fn output(offset: u64, length: usize) -> ExecEvent {
    event(Event::Output(Output {
        stream: Stream::Stdout.into(),
        offset,
        data: vec![b'x'; length].into(),
    }))
}

fn gap(offset: u64, length: u64) -> ExecEvent {
    event(Event::Gap(Gap {
        stream: Stream::Stdout.into(),
        offset,
        length,
    }))
}

fn exited(cause: Option<Cause>) -> ExecEvent {
    event(Event::Exited(ExitRecord {
        cause,
        survivors: Vec::new(),
    }))
}

fn closed(stdout_length: u64) -> ExecEvent {
    event(Event::Closed(Closed {
        stdout_length,
        ..Closed::default()
    }))
}

fn all<const N: usize>(events: [ExecEvent; N]) -> Messages<ExecEvent> {
    Box::new(events.into_iter())
}

/// A command that starts, and then has these events.
fn begun(events: impl Iterator<Item = ExecEvent> + Send + 'static) -> Messages<ExecEvent> {
    Box::new([started()].into_iter().chain(events))
}

/// A command that starts and ends with this record.
fn ends_with(cause: Option<Cause>) -> Messages<ExecEvent> {
    all([started(), exited(cause), closed(0)])
}

fn acks(offsets: impl Iterator<Item = u64> + Send + 'static) -> Messages<StdinAck> {
    Box::new(offsets.map(|offset| StdinAck { offset, closed: false }))
}

const fn run(name: &'static str, answer: Answer<ExecEvent>, ending: Ending) -> Row {
    Row::new(name, Lie::Run(answer), Act::Exec, ending)
}

const fn input(name: &'static str, answer: Answer<StdinAck>, ending: Ending) -> Row {
    Row::new(name, Lie::Stdin(answer), Act::ExecInput, ending)
}

pub(super) const ROWS: &[Row] = &[
    run("run_never_answers", Answer::Never, Ending::Waits),
    run("run_ends_without_event", Answer::Closes(|_| all([])), Ending::Waits),
    run(
        "run_fails_with_escapes",
        Answer::Fails(Code::Internal, ESCAPES),
        Ending::Fails,
    ),
    run(
        "started_without_end",
        Answer::Closes(|_| Box::new(std::iter::repeat_with(started))),
        Ending::Waits,
    ),
    run(
        "starts_and_ends_again_and_again",
        Answer::Closes(|_| all([started()])),
        Ending::Waits,
    )
    .lasting(),
    run(
        "events_without_content",
        Answer::Closes(|_| Box::new(std::iter::repeat_with(ExecEvent::default))),
        Ending::Waits,
    )
    .lasting(),
    run(
        "events_drip",
        Answer::Drips(|_| Box::new(std::iter::repeat_with(started))),
        Ending::Waits,
    ),
    run(
        "output_without_end",
        Answer::Closes(|_| begun((0..).map(|number| output(number * MAX_CHUNK as u64, MAX_CHUNK)))),
        Ending::Waits,
    )
    .lasting(),
    Row::new(
        "output_without_end_and_reader",
        Lie::Run(Answer::Closes(|_| {
            begun((0..).map(|number| output(number * MAX_CHUNK as u64, MAX_CHUNK)))
        })),
        Act::ExecUnread,
        Ending::Waits,
    )
    .lasting(),
    run(
        "output_byte_by_byte",
        Answer::Closes(|_| begun((0..).map(|offset| output(offset, 1)))),
        Ending::Waits,
    )
    .lasting(),
    run(
        "gaps_byte_by_byte",
        Answer::Closes(|_| begun((0..).map(|offset| gap(offset, 1)))),
        Ending::Waits,
    )
    .lasting(),
    run(
        "output_begins_later",
        Answer::Stays(|_| all([started(), output(1, 1)])),
        Ending::Fails,
    ),
    run(
        "output_goes_back",
        Answer::Stays(|_| all([started(), output(0, 10), output(5, 10)])),
        Ending::Fails,
    ),
    run(
        "output_at_the_end_of_numbers",
        Answer::Stays(|_| all([started(), output(u64::MAX, 10)])),
        Ending::Fails,
    ),
    run(
        "output_of_eight_mebibytes",
        Answer::Stays(|_| all([started(), output(0, (8 << 20) - 64), output((8 << 20) - 64, 8 << 20)])),
        Ending::Waits,
    ),
    run(
        "gap_that_wraps",
        Answer::Stays(|_| {
            all([
                started(),
                gap(0, u64::MAX),
                gap(u64::MAX, u64::MAX),
                output(u64::MAX - 1, 9),
            ])
        }),
        Ending::Waits,
    ),
    run(
        "end_without_exit_record",
        Answer::Closes(|_| all([started(), closed(0)])),
        Ending::Fails,
    ),
    run(
        "exit_without_end",
        Answer::Stays(|_| all([started(), exited(Some(Cause::Exited(0)))])),
        Ending::Waits,
    ),
    run(
        "exit_before_its_output",
        Answer::Closes(|_| all([started(), exited(Some(Cause::Exited(0))), closed(100)])),
        Ending::Fails,
    ),
    run("exit_without_cause", Answer::Closes(|_| ends_with(None)), Ending::Fails),
    run(
        "exit_code_beyond_255",
        Answer::Closes(|_| ends_with(Some(Cause::Exited(256)))),
        Ending::Fails,
    ),
    run(
        "exit_code_of_32_bits",
        Answer::Closes(|_| ends_with(Some(Cause::Exited(u32::MAX << 8)))),
        Ending::Fails,
    ),
    run(
        "signal_of_32_bits",
        Answer::Closes(|_| ends_with(Some(Cause::Signaled(u32::MAX - 127)))),
        Ending::Fails,
    ),
    run(
        "reason_with_escapes",
        Answer::Closes(|_| ends_with(Some(Cause::Cancelled(Ended { reason: ESCAPES.into() })))),
        Ending::Fails,
    ),
    run(
        "reason_of_a_mebibyte",
        Answer::Closes(|_| {
            ends_with(Some(Cause::OomKilled(Ended {
                reason: "x".repeat(1 << 20),
            })))
        }),
        Ending::Fails,
    ),
    run(
        "start_failure_with_escapes",
        Answer::Closes(|_| {
            ends_with(Some(Cause::StartFailed(StartFailed {
                step: ESCAPES.into(),
                errno: i32::MIN,
                message: ESCAPES.into(),
                exit_code: u32::MAX << 8,
            })))
        }),
        Ending::Fails,
    ),
    run(
        "survivors_without_number",
        Answer::Closes(|_| {
            let record = ExitRecord {
                cause: Some(Cause::TimedOut(Ended::default())),
                survivors: vec![u32::MAX; 1 << 20],
            };
            all([started(), event(Event::Exited(record)), closed(0)])
        }),
        Ending::Fails,
    ),
    run(
        "spool_error_with_escapes",
        Answer::Closes(|_| {
            let [started, exited, _] = exits(0);
            let closed = Closed {
                spool_error: ESCAPES.into(),
                held_open: true,
                ..Closed::default()
            };
            all([started, exited, event(Event::Closed(closed))])
        }),
        Ending::Soon,
    ),
    input(
        "acks_beyond_the_input",
        Answer::Stays(|_| acks([u64::MAX].into_iter())),
        Ending::Waits,
    ),
    input(
        "acks_that_go_back",
        Answer::Stays(|_| acks([1000, 0, 1000, 1].into_iter())),
        Ending::Waits,
    ),
    input(
        "acks_without_end",
        Answer::Closes(|_| acks(std::iter::repeat(0))),
        Ending::Waits,
    )
    .lasting(),
    input(
        "acks_of_all_input",
        Answer::Closes(|_| acks((0..).map(|ack| ack << 16))),
        Ending::Waits,
    )
    .lasting(),
    input("acks_byte_by_byte", Answer::Closes(|_| acks(0..)), Ending::Waits).lasting(),
    input(
        "input_that_ends_at_once",
        Answer::Closes(|_| acks(std::iter::empty())),
        Ending::Waits,
    ),
    input("input_never_acknowledged", Answer::Never, Ending::Waits),
];

/// Calls for whose answer the bridge waits when it has to end.
pub(super) const AT_THE_END: &[Row] = &[
    Row::new("release_never_answers", Lie::Release, Act::Exec, Ending::Soon),
    Row::new("cancel_never_answers", Lie::Cancel, Act::Exec, Ending::Waits),
];
