//! The node's side of a watch: events encoded once for many watchers, and the stream that takes them.
//!
//! An event is laid out once, in two pieces: what happened, and what the key held before. A watcher who wants both gets one after the other: fields of
//! a protobuf message may come in pieces. A frame is put together from them for each watcher; pieces of any size are not copied then but shared, so
//! a large value is in memory once, however many streams it waits on.

use crate::answer_stream::{AnswerClosed, AnswerStream};
use crate::frame::{ENVELOPE_BYTES, put_envelope};
use crate::proto::client as wire;
use crate::request::kind;
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use std::future::Future;

/// Pieces of at least this many bytes are shared between streams, smaller ones copied.
const SHARED_BYTES_MIN: usize = 4 << 10;

/// A reply with more bytes of events goes in several frames: a revision is as large as what it changes, and a frame has a limit.
const FRAME_BYTES: usize = 8 << 20;

/// The number of the field `events` in a reply.
const EVENTS: u32 = 2;

/// An event as it travels. Clones share its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedWatchEvent {
    event: Bytes,
    previous: Bytes,
}

impl EncodedWatchEvent {
    /// Lays out an event.
    #[must_use]
    pub fn new(event: wire::WatchEvent) -> EncodedWatchEvent {
        let wire::WatchEvent { deleted, kv, previous } = event;
        let event = wire::WatchEvent { deleted, kv, previous: None };
        let previous = wire::WatchEvent { deleted: false, kv: None, previous };
        EncodedWatchEvent { event: event.encode_to_vec().into(), previous: previous.encode_to_vec().into() }
    }

    /// Its bytes, with what the key held before.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.event.len() + self.previous.len()
    }
}

/// A reply, laid out for one watch.
#[derive(Debug)]
pub struct WatchFrame(Vec<Bytes>);

/// Takes the replies to one watch. Dropping it breaks the stream off, which the client sees as a failure: a watch has no end of its own.
pub struct WatchResponder {
    pub(crate) stream: AnswerStream,
}

impl WatchResponder {
    /// Lays out one reply: these events, and that everything up to and including `revision` has been sent. Apart from [`send`](WatchResponder::send), so that
    /// nobody has to hold the events while it waits for the client.
    pub fn reply<'a>(
        &self,
        revision: u64,
        events: impl Iterator<Item = &'a EncodedWatchEvent> + Clone,
        with_previous: bool,
    ) -> WatchFrame {
        WatchFrame(reply(self.stream.request(), revision, events, with_previous, Ends::Here))
    }

    /// Lays out the first events of a reply, or the next: there are more of the same revision than anybody should hold. The last of them go with
    /// [`reply`](WatchResponder::reply).
    pub fn part<'a>(
        &self,
        revision: u64,
        events: impl Iterator<Item = &'a EncodedWatchEvent> + Clone,
        with_previous: bool,
    ) -> WatchFrame {
        WatchFrame(reply(self.stream.request(), revision, events, with_previous, Ends::Later))
    }

    /// Sends a reply, and waits while the client is not ready for it.
    ///
    /// # Errors
    /// When nobody reads any more, or takes anything for as long as the client port allows: the watch should end.
    pub async fn send(&mut self, reply: WatchFrame) -> Result<(), AnswerClosed> {
        let WatchFrame(mut pieces) = reply;
        self.stream.write(&mut pieces).await
    }

    /// Ends the watch with an error.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub async fn send_error(mut self, error: wire::Error) -> Result<(), AnswerClosed> {
        self.stream.write_frame(kind::ERROR, &error).await?;
        self.stream.finish();
        Ok(())
    }

    /// Waits until the client has stopped reading, or is gone.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stream.stopped()
    }
}

/// Where a reply ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// With these events.
    Here,
    /// With others.
    Later,
}

/// The frames of a reply, in pieces. One, unless it is large.
fn reply<'a>(
    request: u64,
    revision: u64,
    mut events: impl Iterator<Item = &'a EncodedWatchEvent> + Clone,
    with_previous: bool,
    ends: Ends,
) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    loop {
        let mut bytes = 0;
        let fits = |event: &&EncodedWatchEvent| {
            let is_first = bytes == 0;
            bytes += if with_previous { event.bytes() } else { event.event.len() };
            is_first || bytes <= FRAME_BYTES
        };
        let count = events.clone().take_while(fits).count();
        let is_last = events.clone().nth(count).is_none();
        let part = !is_last || ends == Ends::Later;
        let head =
            wire::WatchReply { header: Some(wire::Header { revision, index: 0 }), part, ..wire::WatchReply::default() };
        frame(request, &head, events.clone().take(count), with_previous, &mut pieces);
        if is_last {
            pieces.retain(|piece| !piece.is_empty());
            return pieces;
        }
        let _last_sent = events.nth(count - 1);
    }
}

/// One frame, in pieces.
fn frame<'a>(
    request: u64,
    head: &wire::WatchReply,
    events: impl Iterator<Item = &'a EncodedWatchEvent> + Clone,
    with_previous: bool,
    pieces: &mut Vec<Bytes>,
) {
    let previous_of = |event: &'a EncodedWatchEvent| with_previous.then_some(&event.previous);
    let length_of = |event: &'a EncodedWatchEvent| event.event.len() + previous_of(event).map_or(0, Bytes::len);
    let field_len = |length: usize| key_len(EVENTS) + encoded_len_varint(length as u64) + length;
    let length = head.encoded_len() + events.clone().map(|event| field_len(length_of(event))).sum::<usize>();
    let shared = |event: &'a EncodedWatchEvent| {
        let pieces = [Some(&event.event), previous_of(event)].into_iter().flatten();
        pieces.map(Bytes::len).filter(|length| *length >= SHARED_BYTES_MIN).sum::<usize>()
    };
    // Exactly: a reply may be waited with for long.
    let copied = ENVELOPE_BYTES + length - events.clone().map(shared).sum::<usize>();
    let mut out = BytesMut::with_capacity(copied);
    put_envelope(&mut out, length, kind::WATCH_REPLY, request);
    head.encode_raw(&mut out);
    for event in events {
        encode_key(EVENTS, WireType::LengthDelimited, &mut out);
        encode_varint(length_of(event) as u64, &mut out);
        for piece in [Some(&event.event), previous_of(event)].into_iter().flatten() {
            if piece.len() < SHARED_BYTES_MIN {
                out.extend_from_slice(piece);
            } else {
                pieces.push(out.split().freeze());
                pieces.push(piece.clone());
            }
        }
    }
    pieces.push(out.freeze());
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn event(value_bytes: usize, previous_bytes: Option<usize>) -> wire::WatchEvent {
        let kv = |bytes: usize| wire::KeyValue {
            key: "key".into(),
            value: vec![7; bytes].into(),
            mod_revision: 9,
            ..wire::KeyValue::default()
        };
        wire::WatchEvent { deleted: value_bytes == 0, kv: Some(kv(value_bytes)), previous: previous_bytes.map(kv) }
    }

    #[test]
    fn a_reply_put_together_decodes_like_one_encoded_whole() {
        let events = [event(0, Some(3)), event(5, None), event(10_000, Some(20_000)), event(SHARED_BYTES_MIN, Some(0))];
        let encoded: Vec<EncodedWatchEvent> = events.iter().cloned().map(EncodedWatchEvent::new).collect();
        for with_previous in [false, true] {
            let frame = reply(6, 77, encoded.iter(), with_previous, Ends::Here).concat();
            let (envelope, body) = frame.split_at(ENVELOPE_BYTES);
            assert_eq!(envelope[..4], u32::try_from(body.len()).unwrap().to_be_bytes());
            let found = wire::WatchReply::decode(body).unwrap();
            assert_eq!(found.header.unwrap().revision, 77);
            let mut expected = events.to_vec();
            if !with_previous {
                expected.iter_mut().for_each(|event| event.previous = None);
            }
            assert_eq!(found.events, expected);
        }
    }

    #[test]
    fn a_reply_that_is_large_goes_in_several_frames() {
        let encoded: Vec<EncodedWatchEvent> =
            [5 << 20, 1 << 20, 9 << 20, 3].map(|bytes| EncodedWatchEvent::new(event(bytes, None))).into();
        let first = reply(6, 77, encoded[..3].iter(), false, Ends::Later).concat();
        let last = reply(6, 77, encoded[3..].iter(), false, Ends::Here).concat();
        let expected = [(vec![5 << 20, 1 << 20], true), (vec![9 << 20], true), (vec![3], false)];
        for replies in [reply(6, 77, encoded.iter(), false, Ends::Here).concat(), [first, last].concat()] {
            assert_eq!(frames(&replies), expected);
        }
    }

    /// The lengths of the values in each frame, and whether it is a part.
    fn frames(mut rest: &[u8]) -> Vec<(Vec<usize>, bool)> {
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(*rest.first_chunk().unwrap()) as usize;
            let body = &rest[ENVELOPE_BYTES..ENVELOPE_BYTES + length];
            let reply = wire::WatchReply::decode(body).unwrap();
            assert_eq!(reply.header.unwrap().revision, 77);
            let bytes: Vec<usize> = reply.events.iter().map(|event| event.kv.as_ref().unwrap().value.len()).collect();
            found.push((bytes, reply.part));
            rest = &rest[ENVELOPE_BYTES + length..];
        }
        found
    }

    #[test]
    fn large_values_are_shared_and_not_copied() {
        let encoded = EncodedWatchEvent::new(event(1 << 20, None));
        let pieces = reply(1, 1, [&encoded].into_iter(), false, Ends::Here);
        let shared = pieces.iter().find(|piece| piece.len() > 1 << 20).unwrap();
        assert_eq!(shared.as_ptr(), encoded.event.as_ptr());
    }
}
