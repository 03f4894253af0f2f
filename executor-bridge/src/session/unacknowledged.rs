//! What a client sent for a command's stdin or a file, by offset, until the agent has it: so that the next link goes on where the
//! last one broke.

use std::collections::VecDeque;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;

use crate::session::client::InputCredit;

#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes, InputCredit),
    Eof,
}

/// What the client has sent and the agent has not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pieces: VecDeque<(u64, Bytes, InputCredit)>,
    /// Offset behind the last piece.
    pub(crate) end: u64,
    pub(crate) eof: bool,
    /// What the agent has.
    pub(crate) taken: u64,
}

impl Pending {
    pub(crate) fn beginning_at(offset: u64) -> Self {
        Self {
            end: offset,
            taken: offset,
            ..Self::default()
        }
    }

    /// The first byte that can be sent again.
    pub(crate) fn start(&self) -> u64 {
        self.pieces.front().map_or(self.end, |(start, ..)| *start)
    }

    pub(crate) fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Data(data, charge) => {
                let start = self.end;
                self.end += data.len() as u64;
                self.pieces.push_back((start, data, charge));
            }
            Piece::Eof => self.eof = true,
        }
    }

    pub(crate) fn acknowledge(&mut self, offset: u64) {
        self.taken = self.taken.max(offset);
        let taken = |(start, data, _): &(u64, Bytes, InputCredit)| start + data.len() as u64 <= offset;
        while self.pieces.front().is_some_and(taken) {
            self.pieces.pop_front();
        }
    }

    /// Where to go on after `offset`, and what is there. Not always there: over the last link, or from the last bridge, the agent may
    /// have got more than this one has sent.
    pub(crate) fn after(&self, offset: u64) -> (u64, Bytes) {
        let start = offset.max(self.start());
        (start, self.at(start))
    }

    /// The data at `offset`, at most one chunk; empty at the end.
    pub(crate) fn at(&self, offset: u64) -> Bytes {
        let index = self.pieces.partition_point(|(start, ..)| *start <= offset);
        let Some((start, data, _)) = index.checked_sub(1).and_then(|index| self.pieces.get(index)) else {
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

    fn data(length: usize) -> Piece {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Piece::Data(vec![b'x'; length].into(), InputCredit::new(permit))
    }

    #[test]
    fn what_the_agent_has_from_another_link_is_not_waited_for() {
        let mut pending = Pending::beginning_at(100);
        for length in [10, 20, 30] {
            pending.add(data(length));
        }
        assert_eq!(pending.after(100), (100, vec![b'x'; 10].into()));
        // It has the first and half of the second.
        pending.acknowledge(120);
        assert_eq!(pending.after(100), (110, vec![b'x'; 20].into()));
        pending.acknowledge(135);
        assert_eq!(pending.after(110), (130, vec![b'x'; 30].into()));
        // More than there is: the client will say it again.
        pending.acknowledge(500);
        assert_eq!(pending.after(130), (160, Bytes::new()));
    }
}
