//! Records of the sender, collected to large messages, which are compressed while the data shrinks.

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeCompression, TreeRecord, TreeSent};
use prost::Message as _;

use crate::compression::Compressor;
use crate::error::Error;
use crate::wire::BATCH_SIZE;

/// Number of messages that are sent uncompressed after one that did not shrink.
const UNCOMPRESSED_RUN: u32 = 16;
/// Smallest message that is compressed, bytes.
const MIN_COMPRESSED_SIZE: usize = 512;

/// The message that is being collected.
pub(super) struct Batch {
    sent: TreeSent,
    /// Encoded size of `sent`, bytes.
    size: usize,
    compression: TreeCompression,
    /// Whether messages are chunks of one stream instead of frames.
    uses_stream: bool,
    /// `None` until it is needed. It is kept: it holds more than half a megabyte, which the system would have to clear for each message.
    compressor: Option<Compressor>,
    /// Number of messages to send uncompressed before the next attempt.
    skipped_messages: u32,
}

impl Batch {
    pub(super) fn new(compression: TreeCompression) -> Self {
        Self {
            sent: TreeSent::default(),
            size: 0,
            compression,
            uses_stream: false,
            compressor: None,
            skipped_messages: 0,
        }
    }

    /// Uses one stream from now on, because the receiver announced that it reads it.
    pub(super) fn use_stream(&mut self) {
        if !self.uses_stream {
            self.uses_stream = true;
            self.compressor = None;
        }
    }

    /// Adds a record. Returns whether the message is large enough to be sent.
    pub(super) fn add(&mut self, record: Record) -> bool {
        let record = TreeRecord { record: Some(record) };
        self.size += record.encoded_len() + 4;
        self.sent.records.push(record);
        self.size >= BATCH_SIZE
    }

    /// Returns the message with the records that were collected; `None` if there are none.
    pub(super) fn take(&mut self) -> Result<Option<TreeSent>, Error> {
        if self.sent.records.is_empty() {
            return Ok(None);
        }
        let mut sent = std::mem::take(&mut self.sent);
        let size = std::mem::take(&mut self.size);
        if size > MIN_COMPRESSED_SIZE && self.should_compress() {
            let plain = sent.encode_to_vec();
            let compressor = match &mut self.compressor {
                Some(compressor) => compressor,
                none if self.uses_stream => none.insert(Compressor::with_stream()?),
                none => none.insert(Compressor::with_frames()?),
            };
            let compressed = compressor.compress(&plain)?;
            let shrinks = compressed.len() + plain.len() / 16 < plain.len();
            if !shrinks {
                self.skipped_messages = UNCOMPRESSED_RUN;
            }
            if self.uses_stream {
                // Also if it did not shrink: the encoder's window already contains it.
                sent.zstd_stream = compressed.into();
            } else if shrinks {
                sent.zstd = compressed.into();
            }
            if self.uses_stream || shrinks {
                sent.records.clear();
                // Keep the allocation.
                self.sent.records = std::mem::take(&mut sent.records);
            }
        }
        Ok(Some(sent))
    }

    fn should_compress(&mut self) -> bool {
        match self.compression {
            TreeCompression::Always => true,
            TreeCompression::Never => false,
            TreeCompression::Auto => {
                let is_due = self.skipped_messages == 0;
                self.skipped_messages = self.skipped_messages.saturating_sub(1);
                is_due
            }
        }
    }
}
