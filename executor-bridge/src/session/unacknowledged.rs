//! Input of a client for a command's stdin or a file, kept by offset until the agent acknowledges it. After a link
//! break the next link continues at the first byte that the agent does not have. `exec` and `files` use it. No I/O.

use std::collections::VecDeque;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;

use crate::session::budget::InputCredit;

/// One part of a client's input.
#[derive(Debug)]
pub(crate) enum InputPart {
    Data(Bytes, InputCredit),
    Eof,
}

/// The bytes that the client has sent and the agent has not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct UnacknowledgedInput {
    /// Chunks with their offsets, oldest first. Each holds its part of the client's window.
    chunks: VecDeque<(u64, Bytes, InputCredit)>,
    /// Offset of the end of the last chunk.
    pub(crate) end: u64,
    pub(crate) eof: bool,
    /// Offset up to which the agent has acknowledged the bytes.
    pub(crate) acknowledged: u64,
}

impl UnacknowledgedInput {
    /// Makes an empty input whose first byte has this offset.
    pub(crate) fn starting_at(offset: u64) -> Self {
        Self {
            end: offset,
            acknowledged: offset,
            ..Self::default()
        }
    }

    /// Returns the offset of the first byte that can be sent again.
    pub(crate) fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |(start, ..)| *start)
    }

    pub(crate) fn add(&mut self, part: InputPart) {
        match part {
            InputPart::Data(data, credit) => {
                let start = self.end;
                self.end += data.len() as u64;
                self.chunks.push_back((start, data, credit));
            }
            InputPart::Eof => self.eof = true,
        }
    }

    /// Drops the chunks that the agent has completely.
    pub(crate) fn acknowledge(&mut self, offset: u64) {
        self.acknowledged = self.acknowledged.max(offset);
        let is_acknowledged = |(start, data, _): &(u64, Bytes, InputCredit)| start + data.len() as u64 <= offset;
        while self.chunks.front().is_some_and(is_acknowledged) {
            self.chunks.pop_front();
        }
    }

    /// Returns the first chunk at or after `offset`, with its start. The start can be later than `offset`: the agent
    /// may have acknowledged more, over an earlier link or from an earlier bridge, than this bridge has sent.
    pub(crate) fn next_chunk(&self, offset: u64) -> (u64, Bytes) {
        let start = offset.max(self.start());
        (start, self.chunk_at(start))
    }

    /// Returns the data at `offset`, at most one chunk; empty at the end.
    pub(crate) fn chunk_at(&self, offset: u64) -> Bytes {
        let index = self.chunks.partition_point(|(start, ..)| *start <= offset);
        let Some((start, data, _)) = index.checked_sub(1).and_then(|index| self.chunks.get(index)) else {
            return Bytes::new();
        };
        let from = ((offset - start) as usize).min(data.len());
        data.slice(from..data.len().min(from + MAX_CHUNK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(length: usize) -> InputPart {
        InputPart::Data(vec![b'x'; length].into(), InputCredit::unshared())
    }

    #[test]
    fn bytes_that_the_agent_already_has_are_skipped() {
        let mut input = UnacknowledgedInput::starting_at(100);
        for length in [10, 20, 30] {
            input.add(data(length));
        }
        assert_eq!(input.next_chunk(100), (100, vec![b'x'; 10].into()));
        // The agent has the first chunk and half of the second.
        input.acknowledge(120);
        assert_eq!(input.next_chunk(100), (110, vec![b'x'; 20].into()));
        input.acknowledge(135);
        assert_eq!(input.next_chunk(110), (130, vec![b'x'; 30].into()));
        // The agent has more than the client sent to this bridge. The client will send it again.
        input.acknowledge(500);
        assert_eq!(input.next_chunk(130), (160, Bytes::new()));
    }
}
