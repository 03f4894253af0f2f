//! Compression of messages with zstd, for both sides. Each message is a chunk of one stream, which also compresses what repeats from
//! message to message. A receiver that has not announced that it reads streams gets each message as a frame of its own.

use std::io;

use zstd::bulk;
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation as _, OutBuffer};
use zstd::zstd_safe::compress_bound;

use crate::error::Error;
use crate::wire::{BATCH_SIZE, MAX_DATA, MAX_MESSAGE};

/// Compression level: the fastest of zstd's regular levels. It takes 2.5 ms of CPU time per MB; a stream through the API server takes 20.
const LEVEL: i32 = 1;
/// Window of a stream: 2^23 bytes = 8 MiB, which each side holds in memory. RFC 8878, 3.1.1.1.2, asks every decoder to support it.
const WINDOW_LOG: u32 = 23;
/// Size of the encoder's match table: 2^17 entries. The level's own 2^13 or 2^14 would cover only the last few hundred kB of the window.
const HASH_LOG: u32 = 17;
/// Size that most messages do not exceed, bytes.
const USUAL_SIZE: usize = BATCH_SIZE + MAX_DATA;

pub(crate) enum Compressor {
    /// Compresses each message as a frame.
    Frames(bulk::Compressor<'static>),
    /// Compresses each message as the next chunk of one stream.
    Stream(Encoder<'static>),
}

impl Compressor {
    pub(crate) fn with_frames() -> io::Result<Self> {
        bulk::Compressor::new(LEVEL).map(Self::Frames)
    }

    pub(crate) fn with_stream() -> io::Result<Self> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        encoder.set_parameter(CParameter::HashLog(HASH_LOG))?;
        Ok(Self::Stream(encoder))
    }

    /// Compresses one message, to a whole frame or to a chunk that is flushed, so that the receiver can decompress it at once.
    pub(crate) fn compress(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let encoder = match self {
            Self::Frames(compressor) => return compressor.compress(plain),
            Self::Stream(encoder) => encoder,
        };
        let mut small = Vec::with_capacity(compress_bound(plain.len()));
        let mut input = InBuffer::around(plain);
        loop {
            let length = small.len();
            let mut output = OutBuffer::around_pos(&mut small, length);
            encoder.run(&mut input, &mut output)?;
            if input.pos() == plain.len() && encoder.flush(&mut output)? == 0 {
                return Ok(small);
            }
            small.reserve(MAX_DATA);
        }
    }
}

#[derive(Default)]
pub(crate) struct Decompressor {
    frames: bulk::Decompressor<'static>,
    stream: Option<Decoder<'static>>,
}

impl Decompressor {
    /// Returns the message in a frame. `Err` if it cannot be read or exceeds the largest message.
    pub(crate) fn decompress_frame(&mut self, frame: &[u8]) -> Result<Vec<u8>, Error> {
        self.frames.decompress(frame, MAX_MESSAGE).map_err(unreadable_message)
    }

    /// Returns the message in the next chunk of the stream. `Err` as for a frame.
    pub(crate) fn decompress_chunk(&mut self, chunk: &[u8]) -> Result<Vec<u8>, Error> {
        let decoder = match &mut self.stream {
            Some(decoder) => decoder,
            none => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
                none.insert(decoder)
            }
        };
        let mut plain = Vec::with_capacity(USUAL_SIZE);
        let mut input = InBuffer::around(chunk);
        loop {
            let length = plain.len();
            let mut output = OutBuffer::around_pos(&mut plain, length);
            decoder.run(&mut input, &mut output).map_err(unreadable_message)?;
            if plain.len() > MAX_MESSAGE {
                return Err(Error::Protocol("a message is too long"));
            }
            if plain.len() < plain.capacity() {
                // The buffer has space left, so the message is complete.
                return if input.pos() == chunk.len() {
                    Ok(plain)
                } else {
                    Err(unreadable_message(()))
                };
            }
            plain.reserve(USUAL_SIZE);
        }
    }
}

fn unreadable_message<T>(_: T) -> Error {
    Error::Protocol("a compressed message cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns bytes in which nothing repeats.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut output = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut noise = vec![0; length];
        output.fill(&mut noise);
        noise
    }

    #[test]
    fn content_that_repeats_in_later_messages_is_sent_once() {
        let (mut compressor, mut decompressor) = (Compressor::with_stream().unwrap(), Decompressor::default());
        let message = noise(1, BATCH_SIZE);
        let sizes = [(); 3].map(|()| {
            let chunk = compressor.compress(&message).unwrap();
            assert!(decompressor.decompress_chunk(&chunk).unwrap() == message);
            chunk.len()
        });
        assert!(
            sizes[0] >= BATCH_SIZE && sizes[1] < BATCH_SIZE / 4 && sizes[2] < BATCH_SIZE / 4,
            "{sizes:?}"
        );
    }

    #[test]
    fn messages_of_every_size_are_decompressed() {
        let (mut stream, mut frames) = (Compressor::with_stream().unwrap(), Compressor::with_frames().unwrap());
        let mut decompressor = Decompressor::default();
        for (seed, length) in [
            0,
            1,
            USUAL_SIZE - 1,
            USUAL_SIZE,
            USUAL_SIZE + 1,
            MAX_MESSAGE - 1,
            MAX_MESSAGE,
        ]
        .into_iter()
        .enumerate()
        {
            for message in [noise(seed as u64, length), vec![b'x'; length]] {
                assert!(
                    decompressor
                        .decompress_chunk(&stream.compress(&message).unwrap())
                        .unwrap()
                        == message
                );
                assert!(
                    decompressor
                        .decompress_frame(&frames.compress(&message).unwrap())
                        .unwrap()
                        == message
                );
            }
        }
    }

    #[test]
    fn a_compression_bomb_is_refused() {
        let bomb = vec![0; 64 << 20];
        for mut compressor in [Compressor::with_stream().unwrap(), Compressor::with_frames().unwrap()] {
            let chunk = compressor.compress(&bomb).unwrap();
            assert!(chunk.len() < 1 << 20);
            assert!(Decompressor::default().decompress_chunk(&chunk).is_err());
            assert!(Decompressor::default().decompress_frame(&chunk).is_err());
        }
        assert!(Decompressor::default().decompress_chunk(b"no zstd at all").is_err());
        assert!(Decompressor::default().decompress_chunk(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_larger_window_is_refused() {
        let mut encoder = Encoder::new(LEVEL).unwrap();
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG + 1)).unwrap();
        let chunk = Compressor::Stream(encoder).compress(&noise(1, BATCH_SIZE)).unwrap();
        assert!(Decompressor::default().decompress_chunk(&chunk).is_err());
    }
}
