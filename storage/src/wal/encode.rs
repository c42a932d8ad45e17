//! Turns one write into bytes, with small payloads gathered in one buffer and large ones left where they are.

use super::format::{
    FIRST_RECORD, HARD_STATE_BODY_BYTES, HEAD_BODY_BYTES, Head, POSITION_BODY_BYTES, RECORD_ENTRIES_MAX,
    RECORD_HEADER_BYTES, RecordHeader, RecordKind, TABLE_LINE_BYTES, TableLine, encode_hard_state, encode_position,
    record_span,
};
use raft::{Entry, GroupId, HardState, LogIndex, LogPosition, Term};
use std::io::IoSlice;
use std::ops::Range;

/// Payloads up to this size are copied into the buffer: cheaper than one more slice for the system call.
const COPIED_PAYLOAD_BYTES_MAX: usize = 4096;
/// Memory the buffer keeps between writes.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

/// One record to write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Head(Head),
    HardState(HardState),
    /// Consecutive, at least one.
    Entries(&'a [&'a Entry]),
    Compact(LogPosition),
    Reset(LogPosition),
}

impl Part<'_> {
    fn body_bytes(&self) -> usize {
        match self {
            Part::Head(_) => HEAD_BODY_BYTES,
            Part::HardState(_) => HARD_STATE_BODY_BYTES,
            Part::Entries(entries) => entries.iter().map(|entry| TABLE_LINE_BYTES + entry.payload.len()).sum(),
            Part::Compact(_) | Part::Reset(_) => POSITION_BODY_BYTES,
        }
    }

    fn kind(&self) -> RecordKind {
        match self {
            Part::Head(_) => RecordKind::Head,
            Part::HardState(_) => RecordKind::HardState,
            Part::Entries(_) => RecordKind::Entries,
            Part::Compact(_) => RecordKind::Compact,
            Part::Reset(_) => RecordKind::Reset,
        }
    }

    pub(super) fn span(&self) -> u64 {
        record_span(self.body_bytes())
    }

    fn first_index(&self) -> LogIndex {
        match self {
            Part::Head(head) => head.last.index.next(),
            Part::HardState(_) => LogIndex::ZERO,
            Part::Entries(entries) => entries[0].index,
            Part::Compact(position) | Part::Reset(position) => position.index.next(),
        }
    }

    fn count(&self) -> u32 {
        match self {
            Part::Entries(entries) => u32::try_from(entries.len()).expect("bounded by RECORD_ENTRIES_MAX"),
            Part::Head(_) | Part::HardState(_) | Part::Compact(_) | Part::Reset(_) => 0,
        }
    }
}

/// Cuts consecutive entries into records of at most `record_bytes_max` payload bytes, at least one entry each.
pub(super) fn split<'a>(mut entries: &'a [&'a Entry], record_bytes_max: usize, into: &mut Vec<Part<'a>>) {
    while !entries.is_empty() {
        let mut bytes = 0;
        let mut count = 0;
        for entry in entries.iter().take(RECORD_ENTRIES_MAX) {
            bytes += entry.payload.len();
            if count > 0 && bytes > record_bytes_max {
                break;
            }
            count += 1;
        }
        let (record, rest) = entries.split_at(count);
        into.push(Part::Entries(record));
        entries = rest;
    }
}

/// Where a write goes and what all its records say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placement {
    pub(super) epoch: u64,
    pub(super) offset: u64,
    pub(super) group: GroupId,
    pub(super) term: Term,
    pub(super) write_sequence: u64,
}

enum Piece<'a> {
    Buffered(Range<usize>),
    Payload(&'a [u8]),
}

/// The bytes of one write. The buffer is used again for the next one.
#[derive(Default)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
}

/// One write, ready for the system call.
pub(super) struct Encoded<'a> {
    buffer: &'a [u8],
    pieces: Vec<Piece<'a>>,
}

impl Encoder {
    /// Encodes `parts` as one write. Together they are as long as their spans.
    pub(super) fn encode<'a>(&'a mut self, parts: &[Part<'a>], place: Placement) -> Encoded<'a> {
        assert!(
            !parts.is_empty() && place.offset >= FIRST_RECORD,
            "a write of {} records at {}",
            parts.len(),
            place.offset
        );
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        let mut pieces = Vec::new();
        let mut buffered_from = 0;
        let mut offset = place.offset;
        for (number, part) in parts.iter().enumerate() {
            let header_at = self.buffer.len();
            self.buffer.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
            let body_checksum = self.encode_body(part, &mut pieces, &mut buffered_from);
            let body_bytes = part.body_bytes();
            let header = RecordHeader {
                body_checksum,
                body_bytes: u32::try_from(body_bytes).expect("a record is bounded by ENTRY_BYTES_MAX"),
                kind: part.kind(),
                last: number + 1 == parts.len(),
                part: u16::try_from(number).expect("a write has at most 65,536 records"),
                group: place.group,
                count: part.count(),
                term: place.term,
                first_index: part.first_index(),
                write_sequence: place.write_sequence,
            };
            self.buffer[header_at..header_at + RECORD_HEADER_BYTES]
                .copy_from_slice(&header.encode(place.epoch, offset));
            let padding = part.span() - (RECORD_HEADER_BYTES + body_bytes) as u64;
            self.buffer.extend((0..padding).map(|_| 0));
            offset += part.span();
        }
        pieces.push(Piece::Buffered(buffered_from..self.buffer.len()));
        Encoded { buffer: &self.buffer, pieces }
    }

    /// Appends a body and returns its checksum.
    fn encode_body<'a>(&mut self, part: &Part<'a>, pieces: &mut Vec<Piece<'a>>, buffered_from: &mut usize) -> u32 {
        let body_at = self.buffer.len();
        match part {
            Part::Head(head) => head.encode(&mut self.buffer),
            Part::HardState(hard_state) => encode_hard_state(hard_state, &mut self.buffer),
            Part::Compact(position) | Part::Reset(position) => encode_position(*position, &mut self.buffer),
            Part::Entries(entries) => {
                for entry in *entries {
                    TableLine::encode(entry, &mut self.buffer);
                }
                let mut checksum = crc32c::crc32c(&self.buffer[body_at..]);
                for entry in *entries {
                    checksum = crc32c::crc32c_append(checksum, &entry.payload);
                    if entry.payload.len() <= COPIED_PAYLOAD_BYTES_MAX {
                        self.buffer.extend_from_slice(&entry.payload);
                    } else {
                        pieces.push(Piece::Buffered(*buffered_from..self.buffer.len()));
                        pieces.push(Piece::Payload(&entry.payload));
                        *buffered_from = self.buffer.len();
                    }
                }
                return checksum;
            }
        }
        crc32c::crc32c(&self.buffer[body_at..])
    }
}

impl Encoded<'_> {
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Buffered(range) => IoSlice::new(&self.buffer[range.clone()]),
                Piece::Payload(bytes) => IoSlice::new(bytes),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft::EntryKind;

    fn entry(index: u64, bytes: usize) -> Entry {
        let payload = Bytes::from(vec![7; bytes]);
        Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, payload }
    }

    #[test]
    fn entries_are_cut_at_the_size_of_a_record() {
        let entries: Vec<Entry> =
            [10, 10, 10, 100, 1].iter().enumerate().map(|(at, bytes)| entry(at as u64 + 1, *bytes)).collect();
        let entries: Vec<&Entry> = entries.iter().collect();
        let mut parts = Vec::new();
        split(&entries, 20, &mut parts);
        let counts: Vec<u32> = parts.iter().map(Part::count).collect();
        assert_eq!(counts, [2, 1, 1, 1]);
    }

    #[test]
    fn encoded_bytes_are_as_long_as_the_spans() {
        for bytes in [0, 1, 7, 8, COPIED_PAYLOAD_BYTES_MAX, COPIED_PAYLOAD_BYTES_MAX + 1, 20_001] {
            let entries = [entry(1, bytes), entry(2, 3), entry(3, bytes)];
            let entries: Vec<&Entry> = entries.iter().collect();
            let parts = [Part::HardState(HardState::default()), Part::Entries(&entries)];
            let place =
                Placement { epoch: 1, offset: FIRST_RECORD, group: GroupId::ONLY, term: Term(1), write_sequence: 1 };
            let mut encoder = Encoder::default();
            let encoded = encoder.encode(&parts, place);
            let length: usize = encoded.slices().iter().map(|slice| slice.len()).sum();
            assert_eq!(length as u64, parts.iter().map(Part::span).sum::<u64>());
        }
    }
}
