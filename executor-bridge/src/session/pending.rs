//! What a client sent for a command's stdin or a file, by offset, until the agent has it: so that the next link goes on where the
//! last one broke.

use std::collections::VecDeque;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;

use super::Charge;

#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes, Charge),
    Eof,
}

/// What the client has sent and the agent has not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pieces: VecDeque<(u64, Bytes, Charge)>,
    /// Offset behind the last piece.
    pub(super) end: u64,
    pub(super) eof: bool,
    /// What the agent has.
    pub(super) taken: u64,
}

impl Pending {
    pub(super) fn beginning_at(offset: u64) -> Self {
        Self {
            end: offset,
            taken: offset,
            ..Self::default()
        }
    }

    /// The first byte that can be sent again.
    pub(super) fn start(&self) -> u64 {
        self.pieces.front().map_or(self.end, |(start, ..)| *start)
    }

    pub(super) fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Data(data, charge) => {
                let start = self.end;
                self.end += data.len() as u64;
                self.pieces.push_back((start, data, charge));
            }
            Piece::Eof => self.eof = true,
        }
    }

    pub(super) fn acknowledge(&mut self, offset: u64) {
        self.taken = self.taken.max(offset);
        let taken = |(start, data, _): &(u64, Bytes, Charge)| start + data.len() as u64 <= offset;
        while self.pieces.front().is_some_and(taken) {
            self.pieces.pop_front();
        }
    }

    /// The data at `offset`, at most one chunk; empty at the end.
    pub(super) fn at(&self, offset: u64) -> Bytes {
        let index = self.pieces.partition_point(|(start, ..)| *start <= offset);
        let Some((start, data, _)) = index.checked_sub(1).and_then(|index| self.pieces.get(index)) else {
            return Bytes::new();
        };
        let from = ((offset - start) as usize).min(data.len());
        data.slice(from..data.len().min(from + MAX_CHUNK))
    }
}
