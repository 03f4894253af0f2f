//! Lies about logs: names that nobody asked for, and logs that begin and end without pause. The bridge of a Zuul build watches by itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use podbridge_proto::limits::{MAX_CHUNK, MAX_LOGS};
use podbridge_proto::v1::follow_event::Event;
use podbridge_proto::v1::{FollowEvent, LogAbsent, LogPosition, WatchEvent};
use tonic::Code;

use crate::lying_agent::answer::{Answer, Messages};
use crate::lying_agent::commands::ESCAPES;
use crate::lying_agent::row::{Act, Ending, Row};
use crate::lying_agent::server::{LOG_NAME, Lie};

fn names(names: impl Iterator<Item = String>) -> WatchEvent {
    WatchEvent {
        appeared: names.map(|name| name.into_bytes().into()).collect(),
        ..WatchEvent::default()
    }
}

/// The log of the reader exists, and so do others without end.
fn many_names() -> Messages<WatchEvent> {
    let first = WatchEvent {
        all: true,
        ..names([LOG_NAME.to_owned()].into_iter())
    };
    let more =
        (0u64..).map(|message| names((0..1000).map(move |number| format!("console-{message:032x}-{number}-node.log"))));
    Box::new([first].into_iter().chain(more))
}

/// One container's agent has as many names as a bridge keeps. The other one's says again and again that all its names follow, and none does.
fn all_names_of_one_of_two_containers() -> Messages<WatchEvent> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    if CALLS.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
        return Box::new(std::iter::repeat_with(|| WatchEvent {
            all: true,
            ..WatchEvent::default()
        }));
    }
    let part = |from: usize| WatchEvent {
        all: from == 0,
        ..names((from..from + 1024).map(|number| format!("console-{number:032x}-1-node.log")))
    };
    Box::new((0..MAX_LOGS).step_by(1024).map(part))
}

const fn watch(name: &'static str, answer: Answer<WatchEvent>) -> Row {
    Row::new(name, Lie::Watch(answer), Act::Slot, Ending::Waits)
}

const fn follow(name: &'static str, answer: Answer<FollowEvent>) -> Row {
    Row::new(name, Lie::Follow(answer), Act::Slot, Ending::Waits)
}

fn absent() -> FollowEvent {
    FollowEvent {
        event: Some(Event::Absent(LogAbsent {})),
    }
}

fn begins(offset: u64) -> FollowEvent {
    let position = LogPosition {
        file: vec![1; 16].into(),
        offset,
    };
    FollowEvent {
        event: Some(Event::Begins(position)),
    }
}

fn data(length: usize) -> FollowEvent {
    FollowEvent {
        event: Some(Event::Data(vec![b'x'; length].into())),
    }
}

pub(super) const ROWS: &[Row] = &[
    watch("watch_never_answers", Answer::Never),
    watch("watch_ends_at_once", Answer::Closes(|_| Box::new(std::iter::empty()))),
    watch("watch_fails_with_escapes", Answer::Fails(Code::Internal, ESCAPES)),
    watch("names_without_number", Answer::Closes(|_| many_names())).lasting(),
    watch(
        "names_of_eight_mebibytes",
        Answer::Closes(|_| {
            let long = |number| names([format!("console-{number}{}.log", "x".repeat((8 << 20) - 100))].into_iter());
            Box::new((0..).map(long))
        }),
    )
    .lasting(),
    watch(
        "all_names_again_and_again",
        Answer::Closes(|_| {
            Box::new(std::iter::repeat_with(|| WatchEvent {
                all: true,
                ..names((0..1000).map(|number| format!("console-{number:032x}-1-node.log")))
            }))
        }),
    )
    .lasting(),
    watch(
        "all_without_names_beside_a_container_with_many_names",
        Answer::Stays(|_| all_names_of_one_of_two_containers()),
    )
    .lasting(),
    watch(
        "empty_events_without_end",
        Answer::Closes(|_| Box::new(std::iter::repeat_with(WatchEvent::default))),
    )
    .lasting(),
    watch(
        "a_name_that_comes_and_goes",
        Answer::Closes(|_| {
            let event = |turn: u64| {
                let event = names([LOG_NAME.to_owned()].into_iter());
                match turn % 2 {
                    0 => event,
                    _ => WatchEvent {
                        gone: event.appeared,
                        ..WatchEvent::default()
                    },
                }
            };
            Box::new((0..).map(event))
        }),
    )
    .lasting(),
    watch(
        "names_that_lead_elsewhere",
        Answer::Stays(|_| {
            let bad = [
                "console-/../../etc/shadow.log",
                "console-.log",
                "console-\u{1b}[31m\n.log",
                "",
                ".",
                "..",
            ];
            Box::new([names(bad.iter().map(|name| (*name).to_owned()))].into_iter())
        }),
    ),
    follow("follow_never_answers", Answer::Never),
    follow("follow_ends_at_once", Answer::Closes(|_| Box::new(std::iter::empty()))).lasting(),
    follow("follow_fails_with_escapes", Answer::Fails(Code::Internal, ESCAPES)),
    follow(
        "absent_without_end",
        Answer::Closes(|_| Box::new(std::iter::repeat_with(absent))),
    )
    .lasting(),
    follow(
        "begins_and_ends_again_and_again",
        Answer::Closes(|_| Box::new([begins(0)].into_iter())),
    )
    .lasting(),
    follow(
        "absent_again_and_again",
        Answer::Closes(|_| Box::new([absent()].into_iter())),
    )
    .lasting(),
    Row {
        // Longer than the pause after the first call.
        time: Duration::from_millis(1500),
        ..follow("absent_late", Answer::Late(|_| Box::new([absent()].into_iter())))
    },
    follow("begins_without_end", Answer::Closes(|_| Box::new((0..).map(begins)))).lasting(),
    follow(
        "data_without_beginning",
        Answer::Closes(|_| Box::new(std::iter::repeat_with(|| data(MAX_CHUNK)))),
    )
    .lasting(),
    follow(
        "data_byte_by_byte",
        Answer::Closes(|_| {
            let bytes = std::iter::repeat_with(|| data(1));
            Box::new([begins(0)].into_iter().chain(bytes))
        }),
    )
    .lasting(),
    follow(
        "begins_at_the_end_of_numbers",
        Answer::Stays(|_| Box::new([begins(u64::MAX), data(9), begins(0), data(9), absent()].into_iter())),
    ),
];
