//! Records of the sender, many in one message, compressed where they shrink.

use std::io::Write;

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeCompression, TreeRecord, TreeSent};
use prost::Message as _;

use crate::compression::Compressor;
use crate::error::Error;
use crate::wire::{BATCH_SIZE, MessageWriter};

/// After data that does not shrink, so many messages go as they are.
const DISCOURAGED: u32 = 16;
/// Shorter messages are not worth it.
const SHORT: usize = 512;

pub(super) struct Batch<W> {
    output: MessageWriter<W>,
    sent: TreeSent,
    size: usize,
    compression: TreeCompression,
    /// The receiver reads one stream.
    streams: bool,
    /// Made once: it has half a megabyte and more, which the system would clear for each message.
    compressor: Option<Compressor>,
    /// Messages until it is tried again.
    discouraged: u32,
}

impl<W: Write> Batch<W> {
    pub(super) fn new(output: MessageWriter<W>, compression: TreeCompression) -> Self {
        Self {
            output,
            sent: TreeSent::default(),
            size: 0,
            compression,
            streams: false,
            compressor: None,
            discouraged: 0,
        }
    }

    /// The receiver has said that it reads one stream.
    pub(super) fn stream(&mut self) {
        if !self.streams {
            self.streams = true;
            self.compressor = None;
        }
    }

    pub(super) fn push(&mut self, record: Record) -> Result<(), Error> {
        let record = TreeRecord { record: Some(record) };
        self.size += record.encoded_len() + 4;
        self.sent.records.push(record);
        match self.size >= BATCH_SIZE {
            true => self.flush(),
            false => Ok(()),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if self.sent.records.is_empty() {
            return Ok(());
        }
        let mut sent = std::mem::take(&mut self.sent);
        let size = std::mem::take(&mut self.size);
        if size > SHORT && self.is_to_be_compressed() {
            let plain = sent.encode_to_vec();
            let compressor = match &mut self.compressor {
                Some(compressor) => compressor,
                none if self.streams => none.insert(Compressor::stream()?),
                none => none.insert(Compressor::frames()?),
            };
            let small = compressor.compress(&plain)?;
            let shrinks = small.len() + plain.len() / 16 < plain.len();
            if !shrinks {
                self.discouraged = DISCOURAGED;
            }
            if self.streams {
                // Whatever became of it: it is part of the stream.
                sent.records.clear();
                sent.zstd_stream = small.into();
            } else if shrinks {
                sent.records.clear();
                sent.zstd = small.into();
            }
        }
        self.output.send(&sent)?;
        // Its room is used again.
        sent.records.clear();
        self.sent.records = sent.records;
        Ok(())
    }

    fn is_to_be_compressed(&mut self) -> bool {
        match self.compression {
            TreeCompression::Always => true,
            TreeCompression::Never => false,
            TreeCompression::Auto => {
                let encouraged = self.discouraged == 0;
                self.discouraged = self.discouraged.saturating_sub(1);
                encouraged
            }
        }
    }
}
