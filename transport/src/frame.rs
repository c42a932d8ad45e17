//! The envelope that every body travels in, the same on both protocols. Sixteen bytes, big-endian:
//!
//! ```text
//! u32 length     bytes of the body that follows the envelope
//! u8  version    of this envelope and of the set of kinds: 1
//! u8  kind       what the body is; each protocol has its own list
//! u16 flags      none are defined: written as zero, and refused when set, so that a later version can give them a meaning
//! u64 request    which request it belongs to, chosen by the asking side; zero where nothing is asked
//! ```
//!
//! The length is checked against the reader's limit before anything is allocated. Each body is read into an allocation of its own size:
//! a slice of it that lives on (a value in a cache) keeps its frame alive and nothing else, never a whole receive buffer.

use crate::error::RefusalCode;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use quinn::{ReadError, RecvStream};
use std::future::Future;

/// Bytes of the envelope.
pub const ENVELOPE_BYTES: usize = 16;

/// The version of envelopes that this program writes and reads.
pub const FRAME_VERSION: u8 = 1;

// One lock of the connection fetches up to this many received pieces.
const CHUNKS_AT_ONCE: usize = 32;

/// One frame, as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) request: u64,
    pub(crate) body: Bytes,
}

/// The envelope of a frame whose body has not been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) request: u64,
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame version {found} is not known here, only {FRAME_VERSION}: the other side is newer or older")]
    Version { found: u8 },
    #[error("frame flags {found:#06x} are not known here: the other side is newer")]
    Flags { found: u16 },
    /// The stream stands before the body; [`FrameReader::skip_body`] gets past it.
    #[error("a frame of {length} bytes, the limit is {limit}")]
    TooLarge { kind: u8, request: u64, length: u64, limit: usize },
    #[error("the stream ended in the middle of a frame")]
    Truncated,
    #[error("{0}")]
    Stream(#[from] ReadError),
}

impl FrameError {
    /// Whether the sender broke off because what it sent was not taken.
    pub(crate) fn is_not_taken(&self) -> bool {
        matches!(self, FrameError::Stream(ReadError::Reset(code)) if RefusalCode::from_wire(*code) == RefusalCode::NotTaken)
    }
}

/// Where bytes come from: a QUIC stream, or a list of pieces in a test.
pub(crate) trait ChunkSource: Send {
    fn chunks(&mut self, into: &mut [Bytes]) -> impl Future<Output = Result<Option<usize>, ReadError>> + Send;
}

impl ChunkSource for RecvStream {
    async fn chunks(&mut self, into: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        self.read_chunks(into).await
    }
}

/// Cuts a stream into frames. Not cancel-safe: a `next` that is dropped half-way loses its place.
pub(crate) struct FrameReader<S = RecvStream> {
    source: S,
    chunks: [Bytes; CHUNKS_AT_ONCE],
    position: usize,
    filled: usize,
}

impl<S: ChunkSource> FrameReader<S> {
    pub(crate) fn new(source: S) -> FrameReader<S> {
        FrameReader { source, chunks: [const { Bytes::new() }; CHUNKS_AT_ONCE], position: 0, filled: 0 }
    }

    /// The next frame; `None` at the end of the stream between two frames.
    pub(crate) async fn next(&mut self, body_bytes_max: usize) -> Result<Option<Frame>, FrameError> {
        let Some(envelope) = self.envelope(body_bytes_max).await? else { return Ok(None) };
        self.body(envelope).await.map(Some)
    }

    /// The next envelope, its length within the limit; `None` at the end of the stream between two frames. Its body must be read next.
    pub(crate) async fn envelope(&mut self, body_bytes_max: usize) -> Result<Option<Envelope>, FrameError> {
        let mut bytes = [0u8; ENVELOPE_BYTES];
        let mut have = 0;
        while have < ENVELOPE_BYTES {
            match self.piece(ENVELOPE_BYTES - have).await? {
                Some(piece) => {
                    bytes[have..have + piece.len()].copy_from_slice(&piece);
                    have += piece.len();
                }
                None if have == 0 => return Ok(None),
                None => return Err(FrameError::Truncated),
            }
        }
        let Envelope { length, kind, request } = parse_envelope(&bytes)?;
        if length as usize > body_bytes_max {
            return Err(FrameError::TooLarge { kind, request, length: u64::from(length), limit: body_bytes_max });
        }
        Ok(Some(Envelope { length, kind, request }))
    }

    /// The body that belongs to the envelope just read.
    pub(crate) async fn body(&mut self, envelope: Envelope) -> Result<Frame, FrameError> {
        let length = envelope.length as usize;
        let mut body = BytesMut::with_capacity(length);
        while body.len() < length {
            let wanted = length - body.len();
            let piece = self.piece(wanted).await?.ok_or(FrameError::Truncated)?;
            body.put_slice(&piece);
        }
        Ok(Frame { kind: envelope.kind, request: envelope.request, body: body.freeze() })
    }

    /// Reads past a body of `length` bytes and keeps none of it.
    pub(crate) async fn skip_body(&mut self, length: u64) -> Result<(), FrameError> {
        let mut left = length;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            let piece = self.piece(wanted).await?.ok_or(FrameError::Truncated)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// Whether bytes are at hand without waiting.
    pub(crate) fn has_buffered(&self) -> bool {
        self.position < self.filled
    }

    /// The next bytes outside any frame, at most `bytes_max` of them; `None` at the end.
    pub(crate) async fn piece(&mut self, bytes_max: usize) -> Result<Option<Bytes>, FrameError> {
        if self.position == self.filled {
            let Some(filled) = self.source.chunks(&mut self.chunks).await? else { return Ok(None) };
            self.position = 0;
            self.filled = filled;
        }
        let chunk = &mut self.chunks[self.position];
        if chunk.len() > bytes_max {
            return Ok(Some(chunk.split_to(bytes_max)));
        }
        self.position += 1;
        Ok(Some(std::mem::take(chunk)))
    }
}

fn parse_envelope(bytes: &[u8; ENVELOPE_BYTES]) -> Result<Envelope, FrameError> {
    let [l0, l1, l2, l3, version, kind, f0, f1, request @ ..] = *bytes;
    if version != FRAME_VERSION {
        return Err(FrameError::Version { found: version });
    }
    let flags = u16::from_be_bytes([f0, f1]);
    if flags != 0 {
        return Err(FrameError::Flags { found: flags });
    }
    Ok(Envelope { length: u32::from_be_bytes([l0, l1, l2, l3]), kind, request: u64::from_be_bytes(request) })
}

/// Appends a frame to what is about to be written.
///
/// # Panics
/// When the body is 4 GiB or more: the limits on keys, values and batches are far below.
pub(crate) fn put_frame(out: &mut BytesMut, kind: u8, request: u64, body: &impl Message) {
    let length = body.encoded_len();
    out.reserve(ENVELOPE_BYTES + length);
    put_envelope(out, length, kind, request);
    body.encode_raw(out);
}

/// Appends an envelope alone: its body follows in other pieces.
pub(crate) fn put_envelope(out: &mut BytesMut, length: usize, kind: u8, request: u64) {
    let length = u32::try_from(length).expect("limits keep a body below 4 GiB");
    out.put_u32(length);
    out.put_u8(FRAME_VERSION);
    out.put_u8(kind);
    out.put_u16(0);
    out.put_u64(request);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::proto::peer::{Position, SnapshotRefused};
    use std::collections::VecDeque;

    struct Pieces(VecDeque<Bytes>);

    impl ChunkSource for Pieces {
        async fn chunks(&mut self, into: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
            let Some(piece) = self.0.pop_front() else { return Ok(None) };
            into[0] = piece;
            Ok(Some(1))
        }
    }

    fn reader(bytes: &[u8], piece_bytes: usize) -> FrameReader<Pieces> {
        FrameReader::new(Pieces(bytes.chunks(piece_bytes).map(Bytes::copy_from_slice).collect()))
    }

    fn two_frames() -> Vec<u8> {
        let mut out = BytesMut::new();
        put_frame(&mut out, 3, 7, &SnapshotRefused { message: "x".repeat(100) });
        put_frame(&mut out, 4, 8, &Position { term: 1, index: 2 });
        out.to_vec()
    }

    #[tokio::test]
    async fn frames_come_out_whole_however_the_stream_is_cut() {
        for piece_bytes in [1, 2, 15, 16, 17, 50, 4096] {
            let mut reader = reader(&two_frames(), piece_bytes);
            let first = reader.next(1000).await.unwrap().unwrap();
            assert_eq!((first.kind, first.request), (3, 7));
            assert_eq!(SnapshotRefused::decode(first.body).unwrap().message.len(), 100);
            let second = reader.next(1000).await.unwrap().unwrap();
            assert_eq!((second.kind, second.request), (4, 8));
            assert_eq!(Position::decode(second.body).unwrap(), Position { term: 1, index: 2 });
            assert!(reader.next(1000).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn an_oversized_frame_can_be_skipped() {
        let mut reader = reader(&two_frames(), 10);
        let Err(FrameError::TooLarge { kind: 3, request: 7, length, limit: 50 }) = reader.next(50).await else {
            panic!("the first frame is over 50 bytes")
        };
        reader.skip_body(length).await.unwrap();
        assert_eq!(reader.next(50).await.unwrap().unwrap().request, 8);
    }

    #[tokio::test]
    async fn the_limit_is_checked_before_the_body_arrives() {
        let mut bytes = two_frames();
        bytes[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        bytes.truncate(ENVELOPE_BYTES);
        let error = reader(&bytes, 16).next(1 << 20).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { length: 0xffff_ffff, .. }), "{error}");
    }

    #[tokio::test]
    async fn unknown_version_and_flags_are_named() {
        let mut bytes = two_frames();
        bytes[4] = 9;
        let error = reader(&bytes, 64).next(1000).await.unwrap_err();
        assert!(error.to_string().contains("version 9"), "{error}");
        let mut bytes = two_frames();
        bytes[7] = 1;
        let error = reader(&bytes, 64).next(1000).await.unwrap_err();
        assert!(matches!(error, FrameError::Flags { found: 1 }), "{error}");
    }

    #[tokio::test]
    async fn an_end_inside_a_frame_is_an_error() {
        let whole = two_frames();
        for length in 1..whole.len() {
            let mut reader = reader(&whole[..length], 7);
            let outcome = loop {
                match reader.next(1000).await {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            let at_boundary = length == ENVELOPE_BYTES + 102;
            assert_eq!(matches!(outcome, Ok(None)), at_boundary, "cut at {length}: {outcome:?}");
        }
    }
}
