//! Records of the sender, many in one message, compressed where that makes the stream faster.

use std::io::Write;
use std::time::{Duration, Instant};

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{TreeCompression, TreeRecord, TreeSent};
use prost::Message as _;

use crate::error::Error;
use crate::wire::{BATCH, Outgoing};

/// zstd's fastest usual level: about 400 MB/s on one core.
const LEVEL: i32 = 1;
/// A stream faster than this is not made faster, bytes per second.
const FAST: f64 = 48e6;
/// After data that does not shrink, so many messages go as they are.
const DISCOURAGED: u32 = 16;
/// Shorter messages are not worth it.
const SHORT: usize = 512;

#[derive(Debug)]
pub(super) struct Batch<W> {
    stream: Outgoing<W>,
    sent: TreeSent,
    size: usize,
    compression: TreeCompression,
    pace: Pace,
}

/// Whether the stream is what the sender waits for.
#[derive(Debug)]
struct Pace {
    last: Instant,
    is_slow: bool,
    discouraged: u32,
}

impl Pace {
    /// A message of so many bytes took so long to be written.
    fn wrote(&mut self, bytes: usize, writing: Duration) {
        let now = Instant::now();
        let blocked = writing * 2 > now - self.last;
        self.is_slow = blocked && bytes as f64 / writing.as_secs_f64().max(1e-9) < FAST;
        self.last = now;
    }
}

impl<W: Write> Batch<W> {
    pub(super) fn new(stream: Outgoing<W>, compression: TreeCompression) -> Self {
        Self {
            stream,
            sent: TreeSent::default(),
            size: 0,
            compression,
            pace: Pace {
                last: Instant::now(),
                is_slow: false,
                discouraged: 0,
            },
        }
    }

    /// Whether a message was sent.
    pub(super) fn push(&mut self, record: Record) -> Result<bool, Error> {
        let record = TreeRecord { record: Some(record) };
        self.size += record.encoded_len() + 4;
        self.sent.records.push(record);
        match self.size >= BATCH {
            true => self.flush().map(|()| true),
            false => Ok(false),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if self.sent.records.is_empty() {
            return Ok(());
        }
        let mut sent = std::mem::take(&mut self.sent);
        let mut size = self.size;
        self.size = 0;
        if size > SHORT && self.is_to_be_compressed() {
            let plain = sent.encode_to_vec();
            let small = zstd::bulk::compress(&plain, LEVEL)?;
            if small.len() + plain.len() / 16 < plain.len() {
                size = small.len();
                sent.records.clear();
                sent.zstd = small.into();
            } else {
                self.pace.discouraged = DISCOURAGED;
            }
        }
        let begun = Instant::now();
        self.stream.send(&sent)?;
        self.pace.wrote(size, begun.elapsed());
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
                let encouraged = self.pace.discouraged == 0;
                self.pace.discouraged = self.pace.discouraged.saturating_sub(1);
                encouraged && self.pace.is_slow
            }
        }
    }
}
