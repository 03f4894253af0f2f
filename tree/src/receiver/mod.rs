//! The side that receives a tree: compares each entry with the local file of its name, requests the content that differs, and writes
//! below the destination only. It trusts nothing that the sender says: names, numbers, digests and sizes are checked.
//!
//! This file owns the order of records, `state` what is known of the copy; the other files handle one kind of record each.

mod content;
mod directories;
mod entries;
mod links;
mod output;
mod removal;
mod replacement;
mod state;

use std::collections::HashMap;
use std::hash::RandomState;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use bytes::Bytes;
use podbridge_files::owner_rights::OwnerRights;
use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeOpen, TreeRecord, TreeSummary};
use podbridge_proto::words::clean;

use crate::compression::Decompressor;
use crate::directory::OpenDirectories;
use crate::error::Error;
use crate::fields::{self, Fields, Value};
use crate::filter::Filters;
use crate::memory::Memory;
use crate::owners::OwnerIds;
use crate::report::{Report, received_problem};
use crate::request;
use crate::temporaries::Temporaries;
use crate::wire::{ATTRIBUTE_COST, MAX_ATTRIBUTES, MessageReader, MessageWriter, decode};
use crate::xattrs::Selection;
use output::Output;
use state::{Links, Receiver};

/// Messages that are searched for the reason why the sender stopped. It may have sent some before it stopped.
const LAST_MESSAGES: usize = 1024;

/// Receives a tree to `destination`. `Err` ends the whole copy; the sender learns its reason if the stream still works.
pub(crate) fn receive(
    destination: &Path,
    options: &TreeOpen,
    mut input: MessageReader<impl Read + AsFd>,
    output: MessageWriter<impl Write>,
    temporaries: &Temporaries,
    report: Report<'_>,
) -> Result<TreeSummary, Error> {
    let mut receiver = Receiver {
        options,
        filters: Filters::default(),
        output: Output::new(output, report, options.list_changes),
        temporaries,
        directories: OpenDirectories::default(),
        owner_ids: OwnerIds::load(),
        is_root: rustix::process::geteuid().is_root(),
        xattrs: Selection::of_this_process(options.no_privileges),
        has_told_of_privileges: false,
        owner_rights: OwnerRights::of_this_process(),
        deletable_mount: None,
        single_name: None,
        has_root: false,
        has_all_entries: false,
        unfinished: HashMap::new(),
        pending: HashMap::new(),
        content: None,
        links: Links::default(),
        memory: Memory::default(),
        name_hashes: RandomState::new(),
    };
    let mut decompressor = Decompressor::default();
    let mut received = receiver.run(destination, &mut input, &mut decompressor);
    if let Err(Error::Stream(_)) = received
        && let Some(sentence) = fatal_sentence(&mut input, &mut decompressor)
    {
        received = Err(Error::Peer(sentence));
    }
    match &received {
        Ok(summary) => receiver.output.answer.finished = Some(*summary),
        Err(error @ (Error::Local(_) | Error::Protocol(_))) => receiver.output.answer.fatal = error.to_string(),
        Err(_) => return received,
    }
    let sent = receiver.output.send_answer();
    received.and_then(|summary| sent.map(|()| summary))
}

/// Returns the reason why the sender stopped reading answers; `None` if it sent none.
fn fatal_sentence(input: &mut MessageReader<impl Read>, decompressor: &mut Decompressor) -> Option<String> {
    for _ in 0..LAST_MESSAGES {
        let fatal = |record| match record {
            Ok(Record::Fatal(sentence)) => Some(clean(&sentence)),
            _ => None,
        };
        if let Some(sentence) = records(input.receive_bytes().ok()?, decompressor).ok()?.find_map(fatal) {
            return Some(sentence);
        }
    }
    None
}

impl<W: Write> Receiver<'_, W> {
    fn run(
        &mut self,
        destination: &Path,
        input: &mut MessageReader<impl Read + AsFd>,
        decompressor: &mut Decompressor,
    ) -> Result<TreeSummary, Error> {
        self.filters = request::check(self.options)?;
        self.output.send_first_answer()?;
        loop {
            for record in records(input.receive_bytes()?, decompressor)? {
                match record? {
                    Record::Root(root) if !self.has_root => {
                        self.has_root = true;
                        self.begin_root(destination, root.directory)?;
                    }
                    record => self.take_record(record)?,
                }
            }
            if self.has_all_entries && self.unfinished.is_empty() && self.pending.is_empty() && self.content.is_none() {
                return Ok(self.output.summary);
            }
            if self.output.is_worth_an_early_answer() || self.output.has_answer() && !input.can_receive_now() {
                self.output.send_answer()?;
            }
        }
    }

    fn take_record(&mut self, record: Record) -> Result<(), Error> {
        match record {
            Record::Part(part) => self.take_part(part),
            Record::Problem(problem) => {
                (self.output.report)(received_problem(problem));
                Ok(())
            }
            Record::Fatal(sentence) => Err(Error::Peer(clean(&sentence))),
            Record::Owner(owner) => self.owner_ids.add(&owner),
            _ if !self.has_root => Err(Error::Protocol("the tree has no root")),
            _ if self.has_all_entries => Err(Error::Protocol("an entry arrived after the last one")),
            Record::Entry(entry) => self.take_entry(entry),
            Record::Kept(kept) => self.keep_name(kept.directory, &kept.name),
            Record::DirectoryEnd(end) => self.end_directory(end.directory, end.incomplete),
            Record::Walked(_) => {
                self.has_all_entries = true;
                Ok(())
            }
            Record::Root(_) => Err(Error::Protocol("the tree has two roots")),
        }
    }
}

// Numbers of the fields of TreeSent.
const RECORDS: u64 = 1;
const ZSTD: u64 = 2;
const ZSTD_STREAM: u64 = 3;
// Paths of field numbers from TreeRecord to the extended attributes of an entry.
const ATTRIBUTES_OF_ROOT: &[u64] = &[1, 1, 13];
const ATTRIBUTES_OF_ENTRY: &[u64] = &[3, 13];

/// Size from which a record is examined before it is decoded, bytes. Many attributes need many bytes.
const LARGE_RECORD: usize = 64 << 10;

/// Returns the records of a message, decompressed. Each is decoded when it is its turn.
fn records(
    message: Bytes,
    decompressor: &mut Decompressor,
) -> Result<impl Iterator<Item = Result<Record, Error>> + use<>, Error> {
    let message = match Fields::new(message.clone()).next().transpose()? {
        Some((ZSTD, Value::Bytes(frame))) => decompressor.decompress_frame(&frame)?.into(),
        Some((ZSTD_STREAM, Value::Bytes(chunk))) => decompressor.decompress_chunk(&chunk)?.into(),
        _ => message,
    };
    let decoded = |field| match field {
        Ok((RECORDS, Value::Bytes(record))) => decode_record(record).transpose(),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    };
    Ok(Fields::new(message).filter_map(decoded))
}

/// Decodes a record; `None`: its kind is unknown.
fn decode_record(record: Bytes) -> Result<Option<Record>, Error> {
    if record.len() > LARGE_RECORD {
        check_attributes(&record)?;
    }
    decode::<TreeRecord>(record).map(|record| record.record)
}

/// Checks the number of attributes in a record: decoded, an empty one needs thirty times its size.
fn check_attributes(record: &Bytes) -> Result<(), Error> {
    let count = |path| fields::count(record.clone(), path);
    if count(ATTRIBUTES_OF_ROOT)? + count(ATTRIBUTES_OF_ENTRY)? > MAX_ATTRIBUTES / ATTRIBUTE_COST {
        return Err(Error::Protocol("an entry has too many extended attributes"));
    }
    Ok(())
}
