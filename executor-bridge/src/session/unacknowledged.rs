//! What a client sent for a command's stdin or a file, by offset, until the agent has it: so that the next link goes on where the
//! last one broke.

use std::collections::VecDeque;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;

use crate::session::client::InputCredit;

#[derive(Debug)]
pub(crate) enum InputPart {
    Data(Bytes, InputCredit),
    Eof,
}

/// What the client has sent and the agent has not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct UnacknowledgedInput {
    chunks: VecDeque<(u64, Bytes, InputCredit)>,
    /// Offset behind the last piece.
    pub(crate) end: u64,
    pub(crate) eof: bool,
    /// What the agent has.
    pub(crate) acknowledged: u64,
}

impl UnacknowledgedInput {
    pub(crate) fn starting_at(offset: u64) -> Self {
        Self {
            end: offset,
            acknowledged: offset,
            ..Self::default()
        }
    }

    /// The first byte that can be sent again.
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

    pub(crate) fn acknowledge(&mut self, offset: u64) {
        self.acknowledged = self.acknowledged.max(offset);
        let is_acknowledged = |(start, data, _): &(u64, Bytes, InputCredit)| start + data.len() as u64 <= offset;
        while self.chunks.front().is_some_and(is_acknowledged) {
            self.chunks.pop_front();
        }
    }

    /// Where to go on after `offset`, and what is there. Not always there: over the last link, or from the last bridge, the agent may
    /// have got more than this one has sent.
    pub(crate) fn next_chunk(&self, offset: u64) -> (u64, Bytes) {
        let start = offset.max(self.start());
        (start, self.chunk_at(start))
    }

    /// The data at `offset`, at most one chunk; empty at the end.
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
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn data(length: usize) -> InputPart {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        InputPart::Data(vec![b'x'; length].into(), InputCredit::new(permit))
    }

    #[test]
    fn what_the_agent_has_from_another_link_is_not_waited_for() {
        let mut input = UnacknowledgedInput::starting_at(100);
        for length in [10, 20, 30] {
            input.add(data(length));
        }
        assert_eq!(input.next_chunk(100), (100, vec![b'x'; 10].into()));
        // It has the first and half of the second.
        input.acknowledge(120);
        assert_eq!(input.next_chunk(100), (110, vec![b'x'; 20].into()));
        input.acknowledge(135);
        assert_eq!(input.next_chunk(110), (130, vec![b'x'; 30].into()));
        // More than there is: the client will say it again.
        input.acknowledge(500);
        assert_eq!(input.next_chunk(130), (160, Bytes::new()));
    }
}
