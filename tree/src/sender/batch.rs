//! Records of the sender, many in one message, compressed where they shrink.

use std::io::Write;

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeCompression, TreeRecord, TreeSent};
use prost::Message as _;
use zstd::bulk::Compressor;

use crate::error::Error;
use crate::wire::{BATCH, Outgoing};

/// zstd's fastest usual level: 2.5 ms of processor time per MB, where a stream through the API server takes 20.
const LEVEL: i32 = 1;
/// After data that does not shrink, so many messages go as they are.
const DISCOURAGED: u32 = 16;
/// Shorter messages are not worth it.
const SHORT: usize = 512;

pub(super) struct Batch<W> {
    stream: Outgoing<W>,
    sent: TreeSent,
    size: usize,
    compression: TreeCompression,
    /// Made once: it has half a megabyte, which the system would clear for each message.
    compressor: Option<Compressor<'static>>,
    /// Messages until it is tried again.
    discouraged: u32,
}

impl<W: Write> Batch<W> {
    pub(super) fn new(stream: Outgoing<W>, compression: TreeCompression) -> Self {
        Self {
            stream,
            sent: TreeSent::default(),
            size: 0,
            compression,
            compressor: None,
            discouraged: 0,
        }
    }

    pub(super) fn push(&mut self, record: Record) -> Result<(), Error> {
        let record = TreeRecord { record: Some(record) };
        self.size += record.encoded_len() + 4;
        self.sent.records.push(record);
        match self.size >= BATCH {
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
                none => none.insert(Compressor::new(LEVEL)?),
            };
            let small = compressor.compress(&plain)?;
            if small.len() + plain.len() / 16 < plain.len() {
                sent.records.clear();
                sent.zstd = small.into();
            } else {
                self.discouraged = DISCOURAGED;
            }
        }
        self.stream.send(&sent)?;
        sent.records.clear();
        if sent.zstd.is_empty() {
            // Its room is used again.
            self.sent = sent;
        }
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
