//! Lies about logs: names that nobody asked for, and logs that begin and end without pause. The bridge of a Zuul build watches by itself.

use podbridge_proto::v1::follow_event::Event;
use podbridge_proto::v1::{FollowEvent, LogAbsent, LogPosition, WatchEvent};
use tonic::Code;

use crate::lying_agent::answer::Answer;
use crate::lying_agent::commands::ESCAPES;
use crate::lying_agent::row::{Act, Ending, Row};
use crate::lying_agent::server::Lie;

fn names(names: impl Iterator<Item = String>) -> WatchEvent {
    WatchEvent {
        appeared: names.map(|name| name.into_bytes().into()).collect(),
        ..WatchEvent::default()
    }
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
    follow("follow_fails_with_escapes", Answer::Fails(Code::Internal, ESCAPES)),
    follow(
        "begins_at_the_end_of_numbers",
        Answer::Stays(|_| Box::new([begins(u64::MAX), data(9), begins(0), data(9), absent()].into_iter())),
    ),
];
