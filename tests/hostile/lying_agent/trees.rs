//! Lies of the agent's end of a tree copy, against `podbridge sync` in both directions.

use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{
    ExecEvent, Output, Started, Stream, TreeAnswer, TreeChange, TreeEntry, TreeKept, TreeOwner, TreeProblem,
    TreeRecord, TreeRoot, TreeSent, TreeSummary,
};
use prost::Message;

use crate::lying_agent::answer::{Answer, Messages};
use crate::lying_agent::commands::ESCAPES;
use crate::lying_agent::row::{Act, Ending, Row};
use crate::lying_agent::server::{Lie, event, exits};

/// Records in one message.
const BATCH: u64 = 1000;

/// Returns the events of a command that writes these messages of the tree protocol, as output.
fn writes<M: Message + 'static>(messages: impl Iterator<Item = M> + Send + 'static) -> Messages<ExecEvent> {
    let mut offset = 0;
    let output = messages.map(move |message| {
        let data = message.encode_length_delimited_to_vec();
        let output = Output {
            stream: Stream::Stdout.into(),
            offset,
            data: data.into(),
        };
        offset += output.data.len() as u64;
        event(Event::Output(output))
    });
    Box::new(
        [event(Event::Started(Started {
            pid: 1,
            ..Started::default()
        }))]
        .into_iter()
        .chain(output),
    )
}

fn sent(records: impl Iterator<Item = Record>) -> TreeSent {
    TreeSent {
        records: records.map(|record| TreeRecord { record: Some(record) }).collect(),
        ..TreeSent::default()
    }
}

/// Returns a tree whose root is followed by these records again and again, with a number each.
fn tree(record: fn(u64) -> Record) -> Messages<ExecEvent> {
    let root = TreeEntry {
        mode: 0o040_755,
        ..TreeEntry::default()
    };
    let root = sent([Record::Root(TreeRoot { directory: Some(root) })].into_iter());
    let batches = (0..).map(move |batch| sent((batch * BATCH..(batch + 1) * BATCH).map(record)));
    writes([root].into_iter().chain(batches))
}

fn name(number: u64) -> Vec<u8> {
    format!("{number:0200}").into_bytes()
}

const fn pull(name: &'static str, answer: Answer<ExecEvent>, ending: Ending) -> Row {
    Row::new(name, Lie::Run(answer), Act::Pull, ending)
}

const fn push(name: &'static str, answer: Answer<ExecEvent>, ending: Ending) -> Row {
    Row::new(name, Lie::Run(answer), Act::Push, ending)
}

pub(super) const ROWS: &[Row] = &[
    pull(
        "tree_ends_before_its_root",
        Answer::Closes(|_| Box::new(exits(0).into_iter())),
        Ending::Fails,
    ),
    pull(
        "tree_of_a_mebibyte_of_zeros",
        Answer::Closes(|_| {
            let bomb = TreeSent {
                zstd: vec![0; 100_000].into(),
                ..TreeSent::default()
            };
            writes(std::iter::repeat_n(bomb, 1))
        }),
        Ending::Fails,
    ),
    pull(
        "files_without_end",
        Answer::Closes(|_| {
            tree(|number| {
                Record::Entry(TreeEntry {
                    name: name(number).into(),
                    mode: 0o100_644,
                    size: u64::MAX,
                    ..TreeEntry::default()
                })
            })
        }),
        Ending::Waits,
    )
    .lasting(),
    pull(
        "owners_without_end",
        Answer::Closes(|_| {
            tree(|number| {
                Record::Owner(TreeOwner {
                    group: false,
                    id: number as u32,
                    name: name(number).into(),
                })
            })
        }),
        Ending::Waits,
    )
    .lasting(),
    pull(
        "kept_names_without_end",
        Answer::Closes(|_| {
            tree(|number| {
                Record::Kept(TreeKept {
                    directory: 0,
                    name: name(number).into(),
                })
            })
        }),
        Ending::Waits,
    )
    .lasting(),
    pull(
        "problems_with_escapes",
        Answer::Closes(|_| {
            let problem = |_| {
                Record::Problem(TreeProblem {
                    path: ESCAPES.as_bytes().to_vec().into(),
                    what: ESCAPES.into(),
                    warning: true,
                })
            };
            writes([sent((0..3).map(problem))].into_iter())
        }),
        Ending::Fails,
    ),
    pull(
        "fatal_with_escapes",
        Answer::Closes(|_| writes([sent([Record::Fatal(ESCAPES.into())].into_iter())].into_iter())),
        Ending::Fails,
    ),
    push(
        "answers_for_files_that_do_not_exist",
        Answer::Stays(|_| {
            let answer = TreeAnswer {
                compared: u64::MAX,
                wanted: vec![u64::MAX, 0, 1 << 63],
                ..TreeAnswer::default()
            };
            writes([answer].into_iter())
        }),
        Ending::Waits,
    ),
    push(
        "a_copy_that_is_finished_before_it_begins",
        Answer::Closes(|_| {
            let summary = TreeSummary {
                new: u64::MAX,
                bytes: u64::MAX,
                ..TreeSummary::default()
            };
            let answer = TreeAnswer {
                finished: Some(summary),
                ..TreeAnswer::default()
            };
            writes([answer].into_iter())
        }),
        Ending::Soon,
    ),
    push(
        "changes_with_escapes",
        Answer::Stays(|_| {
            let change = TreeChange {
                kind: i32::MAX,
                path: ESCAPES.as_bytes().to_vec().into(),
            };
            let answer = TreeAnswer {
                changes: vec![change; 3],
                fatal: ESCAPES.into(),
                ..TreeAnswer::default()
            };
            writes([answer].into_iter())
        }),
        Ending::Waits,
    ),
    push(
        "problems_without_end",
        Answer::Closes(|_| {
            let problem = TreeProblem {
                path: name(1).into(),
                what: "no".into(),
                warning: false,
            };
            let answer = TreeAnswer {
                problems: vec![problem; 1000],
                ..TreeAnswer::default()
            };
            writes(std::iter::repeat(answer))
        }),
        Ending::Waits,
    )
    .lasting(),
];
