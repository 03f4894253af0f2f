//! Lies about files: holes, lengths, digests, attributes, progress.

use podbridge_proto::limits::{MAX_CHUNK, MAX_HOLE};
use podbridge_proto::v1::get_response::Part;
use podbridge_proto::v1::{FileStat, GetResponse, GetTrailer, PutResponse, StatResponse, WriteProgress};
use tonic::Code;

use crate::lying_agent::answer::{Answer, Messages};
use crate::lying_agent::commands::ESCAPES;
use crate::lying_agent::row::{Act, Ending, Row};
use crate::lying_agent::server::Lie;

fn part(part: Part) -> GetResponse {
    GetResponse { part: Some(part) }
}

fn stat(size: u64) -> GetResponse {
    part(Part::Stat(FileStat {
        mode: 0o100_644,
        size,
        ..FileStat::default()
    }))
}

fn data(length: usize) -> GetResponse {
    part(Part::Data(vec![b'x'; length].into()))
}

fn trailer(length: u64) -> GetResponse {
    part(Part::Trailer(GetTrailer {
        length,
        digest: vec![0; 32].into(),
    }))
}

fn all<const N: usize>(parts: [GetResponse; N]) -> Messages<GetResponse> {
    Box::new(parts.into_iter())
}

fn holes(length: u64) -> Messages<GetResponse> {
    let holes = std::iter::repeat_with(move || part(Part::Hole(length)));
    Box::new([stat(u64::MAX)].into_iter().chain(holes))
}

/// A file without end in the smallest parts.
fn bytes(part: fn() -> GetResponse) -> Messages<GetResponse> {
    Box::new([stat(u64::MAX)].into_iter().chain(std::iter::repeat_with(part)))
}

fn written(lengths: impl Iterator<Item = u64> + Send + 'static) -> Messages<WriteProgress> {
    Box::new(lengths.map(|length| WriteProgress { length, done: None }))
}

const fn get(name: &'static str, answer: Answer<GetResponse>, ending: Ending) -> Row {
    Row::new(name, Lie::Get(answer), Act::Get, ending)
}

const fn get_to_stdout(name: &'static str, answer: Answer<GetResponse>, ending: Ending) -> Row {
    Row::new(name, Lie::Get(answer), Act::GetToStdout, ending)
}

const fn put(name: &'static str, answer: Answer<WriteProgress>, ending: Ending) -> Row {
    Row::new(name, Lie::Write(answer), Act::Put, ending)
}

pub(super) const ROWS: &[Row] = &[
    get("get_never_answers", Answer::Never, Ending::Waits),
    get("get_ends_without_part", Answer::Closes(|_| all([])), Ending::Fails),
    get(
        "get_fails_with_escapes",
        Answer::Fails(Code::PermissionDenied, ESCAPES),
        Ending::Fails,
    ),
    get(
        "parts_drip",
        Answer::Drips(|_| Box::new(std::iter::repeat_with(|| data(1)))),
        Ending::Waits,
    ),
    get(
        "parts_without_content",
        Answer::Closes(|_| Box::new(std::iter::repeat_with(GetResponse::default))),
        Ending::Waits,
    ),
    get(
        "attributes_without_end",
        Answer::Closes(|_| Box::new(std::iter::repeat_with(|| stat(1)))),
        Ending::Waits,
    ),
    get(
        "parts_of_one_byte",
        Answer::Closes(|_| bytes(|| data(1))),
        Ending::Waits,
    )
    .lasting(),
    get_to_stdout(
        "parts_of_one_byte_to_stdout",
        Answer::Closes(|_| bytes(|| data(1))),
        Ending::Waits,
    )
    .lasting(),
    get(
        "holes_of_one_byte",
        Answer::Closes(|_| bytes(|| part(Part::Hole(1)))),
        Ending::Waits,
    )
    .lasting(),
    get(
        "hole_of_half_of_all_numbers",
        Answer::Stays(|_| all([stat(u64::MAX), part(Part::Hole(1 << 63)), trailer(1 << 63)])),
        Ending::Fails,
    ),
    get_to_stdout(
        "hole_of_half_of_all_numbers_to_stdout",
        Answer::Stays(|_| all([stat(u64::MAX), part(Part::Hole(1 << 63)), trailer(1 << 63)])),
        Ending::Fails,
    ),
    get(
        "hole_above_the_limit",
        Answer::Stays(|_| all([stat(u64::MAX), part(Part::Hole(MAX_HOLE + 1)), trailer(MAX_HOLE + 1)])),
        Ending::Fails,
    ),
    get(
        "holes_that_wrap",
        Answer::Stays(|_| {
            all([
                stat(9),
                part(Part::Hole(1 << 63)),
                part(Part::Hole(1 << 63)),
                data(9),
                trailer(9),
            ])
        }),
        Ending::Fails,
    ),
    get("holes_without_end", Answer::Closes(|_| holes(MAX_HOLE)), Ending::Waits).lasting(),
    get_to_stdout(
        "holes_without_end_to_stdout",
        Answer::Closes(|_| holes(MAX_HOLE)),
        Ending::Waits,
    )
    .lasting(),
    get("holes_of_nothing", Answer::Closes(|_| holes(0)), Ending::Waits),
    get(
        "more_than_the_size",
        Answer::Closes(|_| Box::new([stat(5)].into_iter().chain(std::iter::repeat_with(|| data(MAX_CHUNK))))),
        Ending::Fails,
    )
    .lasting(),
    get(
        "data_of_eight_mebibytes",
        Answer::Stays(|_| all([stat(9 << 20), data((8 << 20) - 64), data(8 << 20)])),
        Ending::Fails,
    ),
    get(
        "wrong_digest",
        Answer::Closes(|_| all([stat(9), data(9), trailer(9)])),
        Ending::Fails,
    ),
    get(
        "wrong_length",
        Answer::Closes(|_| all([stat(9), data(9), trailer(u64::MAX)])),
        Ending::Fails,
    ),
    get(
        "end_without_trailer",
        Answer::Closes(|_| all([stat(9), data(9)])),
        Ending::Fails,
    ),
    Row::new("stat_never_answers", Lie::Stat(Answer::Never), Act::Put, Ending::Waits),
    Row::new(
        "stat_fails_with_escapes",
        Lie::Stat(Answer::Fails(Code::Unknown, ESCAPES)),
        Act::Put,
        Ending::Fails,
    ),
    Row::new(
        "stat_with_all_bits",
        Lie::Stat(Answer::Closes(|_| {
            let stat = FileStat {
                mode: u32::MAX,
                size: u64::MAX,
                mtime_ns: i64::MIN,
                version: vec![b'\x1b'; 1 << 20].into(),
                ..FileStat::default()
            };
            Box::new([StatResponse { stat: Some(stat) }].into_iter())
        })),
        Act::Put,
        Ending::Fails,
    ),
    put("write_never_answers", Answer::Never, Ending::Waits),
    put(
        "write_ends_without_progress",
        Answer::Closes(|_| written(std::iter::empty())),
        Ending::Fails,
    ),
    put(
        "write_fails_with_escapes",
        Answer::Fails(Code::ResourceExhausted, ESCAPES),
        Ending::Fails,
    ),
    put(
        "progress_beyond_the_file",
        Answer::Stays(|_| written([0, u64::MAX].into_iter())),
        Ending::Waits,
    ),
    put(
        "progress_that_goes_back",
        Answer::Stays(|_| written([0, 9, 0, 9].into_iter())),
        Ending::Waits,
    ),
    put(
        "progress_without_end",
        Answer::Closes(|_| written(std::iter::repeat(0))),
        Ending::Waits,
    )
    .lasting(),
    put("progress_byte_by_byte", Answer::Closes(|_| written(0..)), Ending::Waits).lasting(),
    put(
        "write_continues_beyond_the_file",
        Answer::Stays(|_| written([u64::MAX].into_iter())),
        Ending::Waits,
    ),
    put(
        "written_in_place_with_escapes",
        Answer::Closes(|_| {
            let done = PutResponse {
                length: 1 << 20,
                digest: vec![0; 32].into(),
                in_place: ESCAPES.into(),
            };
            Box::new(
                [
                    WriteProgress { length: 0, done: None },
                    WriteProgress {
                        length: 1 << 20,
                        done: Some(done),
                    },
                ]
                .into_iter(),
            )
        }),
        Ending::Soon,
    ),
];
