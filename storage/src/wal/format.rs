//! The bytes of a segment: file header, record headers, bodies. Little-endian; described in `docs/formats.md`.
//!
//! A record header carries two checksums: one of the body, and one of the header itself, salted by the segment's epoch and by the
//! offset of the record. So a header is known to be good before its length is used, and is good only in the place and the
//! life of the file it was written in.

use super::error::Damage;
use bytes::Bytes;
use raft::{Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, NodeId, Term};

/// The version of the log's format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The largest payload of one entry.
pub const ENTRY_BYTES_MAX: usize = 1 << 30;

pub(super) const MAGIC: [u8; 8] = *b"raftkvWL";
/// Checksummed bytes of the file header.
pub(super) const FILE_HEADER_BYTES: usize = 64;
/// Where the first record of a segment stands: a page of its own for the file header.
pub(super) const FIRST_RECORD: u64 = 4096;
pub(super) const RECORD_HEADER_BYTES: usize = 48;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;
pub(super) const HEAD_BODY_BYTES: usize = 80;
pub(super) const HARD_STATE_BODY_BYTES: usize = 24;
pub(super) const POSITION_BODY_BYTES: usize = 16;
/// Each entry's line in the table that begins an `Entries` body.
pub(super) const TABLE_LINE_BYTES: usize = 16;
/// Entries in one record.
pub(super) const RECORD_ENTRIES_MAX: usize = 4096;

const _: () = assert!(FIRST_RECORD.is_multiple_of(ALIGNMENT) && FIRST_RECORD >= FILE_HEADER_BYTES as u64);
const _: () = assert!((RECORD_HEADER_BYTES as u64).is_multiple_of(ALIGNMENT));
const _: () = assert!(ENTRY_BYTES_MAX + RECORD_ENTRIES_MAX * TABLE_LINE_BYTES < u32::MAX as usize);

/// The header of a segment file. Flushed before the file gets its name, and never changed under that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) group: GroupId,
    /// The length of the file, all of it written before.
    pub(super) length: u64,
    /// The file held nothing but zeros when the header was written.
    pub(super) zeroed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileHeaderFault {
    Damaged,
    Version(u32),
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.length.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[44] = u8::from(self.zeroed);
        let checksum = FileHeader::checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Magic, version and checksum keep their places in every version, so that an unknown version is told from damage.
    pub(super) fn decode(bytes: &[u8; FILE_HEADER_BYTES]) -> Result<FileHeader, FileHeaderFault> {
        if bytes[..8] != MAGIC || u32_at(bytes, 12) != FileHeader::checksum(bytes) {
            return Err(FileHeaderFault::Damaged);
        }
        if u32_at(bytes, 8) != FORMAT_VERSION {
            return Err(FileHeaderFault::Version(u32_at(bytes, 8)));
        }
        Ok(FileHeader {
            epoch: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            length: u64_at(bytes, 32),
            group: GroupId(u32_at(bytes, 40)),
            zeroed: bytes[44] == 1,
        })
    }

    fn checksum(bytes: &[u8; FILE_HEADER_BYTES]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
    }
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// The first record of a segment: everything needed to do without the segments before it.
    Head,
    /// Term and vote.
    HardState,
    /// Entries.
    Entries,
    /// The log starts later than before; entries behind the new start stay.
    Compact,
    /// The log starts anew, empty.
    Reset,
}

impl RecordKind {
    fn code(self) -> u8 {
        match self {
            RecordKind::Head => 1,
            RecordKind::HardState => 2,
            RecordKind::Entries => 3,
            RecordKind::Compact => 4,
            RecordKind::Reset => 5,
        }
    }

    fn from_code(code: u8) -> Option<RecordKind> {
        Some(match code {
            1 => RecordKind::Head,
            2 => RecordKind::HardState,
            3 => RecordKind::Entries,
            4 => RecordKind::Compact,
            5 => RecordKind::Reset,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) body_checksum: u32,
    pub(super) body_bytes: u32,
    pub(super) kind: RecordKind,
    /// The last record of its write.
    pub(super) last: bool,
    /// The record's place in its write, from 0.
    pub(super) part: u16,
    pub(super) group: GroupId,
    pub(super) count: u32,
    /// The node's term when it wrote this.
    pub(super) term: Term,
    pub(super) first_index: LogIndex,
    pub(super) write_sequence: u64,
}

impl RecordHeader {
    pub(super) fn encode(&self, epoch: u64, offset: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.body_checksum.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[12] = self.kind.code();
        bytes[13] = u8::from(self.last);
        bytes[14..16].copy_from_slice(&self.part.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.count.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.term.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_index.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.write_sequence.to_le_bytes());
        let checksum = RecordHeader::checksum(&bytes, epoch, offset);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at `offset` of a segment of this epoch, if it is one.
    pub(super) fn decode(bytes: &[u8; RECORD_HEADER_BYTES], epoch: u64, offset: u64) -> Result<RecordHeader, Damage> {
        // The cheap checks come first: a search for headers looks at every multiple of 8 in a segment.
        let kind = RecordKind::from_code(bytes[12]);
        if bytes[12] == 0 || bytes[13] > 1 || u32_at(bytes, 0) != RecordHeader::checksum(bytes, epoch, offset) {
            return Err(Damage::Header);
        }
        Ok(RecordHeader {
            body_checksum: u32_at(bytes, 4),
            body_bytes: u32_at(bytes, 8),
            kind: kind.ok_or(Damage::Malformed { reason: "unknown kind" })?,
            last: bytes[13] == 1,
            part: u16::from_le_bytes([bytes[14], bytes[15]]),
            group: GroupId(u32_at(bytes, 16)),
            count: u32_at(bytes, 20),
            term: Term(u64_at(bytes, 24)),
            first_index: LogIndex(u64_at(bytes, 32)),
            write_sequence: u64_at(bytes, 40),
        })
    }

    fn checksum(bytes: &[u8; RECORD_HEADER_BYTES], epoch: u64, offset: u64) -> u32 {
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&epoch.to_le_bytes());
        salt[8..].copy_from_slice(&offset.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c(&salt), &bytes[4..])
    }

    /// Bytes from the beginning of this record to the beginning of the next one.
    pub(super) fn span(&self) -> u64 {
        record_span(self.body_bytes as usize)
    }
}

/// Bytes that a record with a body of `body_bytes` takes, padding included.
pub(super) fn record_span(body_bytes: usize) -> u64 {
    ((RECORD_HEADER_BYTES + body_bytes) as u64).next_multiple_of(ALIGNMENT)
}

/// The body of a [`RecordKind::Head`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub(super) hard_state: HardState,
    pub(super) start: LogPosition,
    pub(super) last: LogPosition,
    pub(super) previous: SegmentEnd,
}

/// Where a segment ended. All zero before the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SegmentEnd {
    pub(super) epoch: u64,
    pub(super) offset: u64,
    pub(super) write_sequence: u64,
}

impl Head {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        encode_hard_state(&self.hard_state, into);
        encode_position(self.start, into);
        encode_position(self.last, into);
        for number in [self.previous.epoch, self.previous.offset, self.previous.write_sequence] {
            into.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(super) fn decode(body: &[u8]) -> Result<Head, Damage> {
        if body.len() != HEAD_BODY_BYTES {
            return Err(Damage::Malformed { reason: "wrong length of a head" });
        }
        Ok(Head {
            hard_state: decode_hard_state(&body[..HARD_STATE_BODY_BYTES])?,
            start: decode_position(&body[24..40])?,
            last: decode_position(&body[40..56])?,
            previous: SegmentEnd {
                epoch: u64_at(body, 56),
                offset: u64_at(body, 64),
                write_sequence: u64_at(body, 72),
            },
        })
    }
}

pub(super) fn encode_hard_state(hard_state: &HardState, into: &mut Vec<u8>) {
    into.extend_from_slice(&hard_state.term.0.to_le_bytes());
    into.extend_from_slice(&u64::from(hard_state.vote.is_some()).to_le_bytes());
    into.extend_from_slice(&hard_state.vote.map_or(0, |node| node.0).to_le_bytes());
}

pub(super) fn decode_hard_state(body: &[u8]) -> Result<HardState, Damage> {
    if body.len() != HARD_STATE_BODY_BYTES {
        return Err(Damage::Malformed { reason: "wrong length of a hard state" });
    }
    let vote = match u64_at(body, 8) {
        0 => None,
        1 => Some(NodeId(u64_at(body, 16))),
        _ => return Err(Damage::Malformed { reason: "neither a vote nor none" }),
    };
    Ok(HardState { term: Term(u64_at(body, 0)), vote })
}

pub(super) fn encode_position(position: LogPosition, into: &mut Vec<u8>) {
    into.extend_from_slice(&position.term.0.to_le_bytes());
    into.extend_from_slice(&position.index.0.to_le_bytes());
}

pub(super) fn decode_position(body: &[u8]) -> Result<LogPosition, Damage> {
    if body.len() != POSITION_BODY_BYTES {
        return Err(Damage::Malformed { reason: "wrong length of a position" });
    }
    Ok(LogPosition { term: Term(u64_at(body, 0)), index: LogIndex(u64_at(body, 8)) })
}

/// One line of the table that begins an `Entries` body; the payloads follow the table in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableLine {
    pub(super) term: Term,
    pub(super) payload_bytes: u32,
    pub(super) kind: EntryKind,
}

impl TableLine {
    pub(super) fn encode(entry: &Entry, into: &mut Vec<u8>) {
        let bytes = entry.payload.len();
        assert!(bytes <= ENTRY_BYTES_MAX, "entry {} has {bytes} payload bytes, at most {ENTRY_BYTES_MAX}", entry.index);
        let kind: u32 = match entry.kind {
            EntryKind::Command => 1,
            EntryKind::Noop => 2,
            EntryKind::Membership => 3,
        };
        into.extend_from_slice(&entry.term.0.to_le_bytes());
        into.extend_from_slice(&u32::try_from(bytes).expect("bounded above").to_le_bytes());
        into.extend_from_slice(&kind.to_le_bytes());
    }
}

/// The table of an `Entries` body, checked against the body's length.
pub(super) fn decode_table(body: &[u8], count: u32) -> Result<Vec<TableLine>, Damage> {
    let count = count as usize;
    let table_bytes = count * TABLE_LINE_BYTES;
    if count == 0 || count > RECORD_ENTRIES_MAX || table_bytes > body.len() {
        return Err(Damage::Malformed { reason: "impossible number of entries" });
    }
    let mut lines = Vec::with_capacity(count);
    let mut total = table_bytes as u64;
    for line in body[..table_bytes].chunks_exact(TABLE_LINE_BYTES) {
        let kind = match u32_at(line, 12) {
            1 => EntryKind::Command,
            2 => EntryKind::Noop,
            3 => EntryKind::Membership,
            _ => return Err(Damage::Malformed { reason: "unknown kind of entry" }),
        };
        let line = TableLine { term: Term(u64_at(line, 0)), payload_bytes: u32_at(line, 8), kind };
        total += u64::from(line.payload_bytes);
        lines.push(line);
    }
    if total != body.len() as u64 {
        return Err(Damage::Malformed { reason: "payloads do not add up to the body" });
    }
    Ok(lines)
}

/// The entries of an `Entries` body; the payloads share its memory.
pub(super) fn decode_entries(body: &Bytes, first: LogIndex, count: u32) -> Result<Vec<Entry>, Damage> {
    let table = decode_table(body, count)?;
    let mut offset = table.len() * TABLE_LINE_BYTES;
    let mut index = first;
    let mut entries = Vec::with_capacity(table.len());
    for line in table {
        let end = offset + line.payload_bytes as usize;
        entries.push(Entry { term: line.term, index, kind: line.kind, payload: body.slice(offset..end) });
        offset = end;
        index = index.next();
    }
    Ok(entries)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordHeader {
        RecordHeader {
            body_checksum: 7,
            body_bytes: 100,
            kind: RecordKind::Entries,
            last: true,
            part: 3,
            group: GroupId::ONLY,
            count: 2,
            term: Term(9),
            first_index: LogIndex(11),
            write_sequence: 13,
        }
    }

    #[test]
    fn record_header_is_valid_only_in_its_place_and_epoch() {
        let bytes = header().encode(5, 4096);
        assert_eq!(RecordHeader::decode(&bytes, 5, 4096), Ok(header()));
        assert_eq!(RecordHeader::decode(&bytes, 6, 4096), Err(Damage::Header));
        assert_eq!(RecordHeader::decode(&bytes, 5, 4104), Err(Damage::Header));
    }

    #[test]
    fn every_flipped_bit_of_a_record_header_is_noticed() {
        let bytes = header().encode(5, 4096);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordHeader::decode(&flipped, 5, 4096).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn unknown_version_is_told_from_damage() {
        let header = FileHeader { epoch: 1, sequence: 2, group: GroupId::ONLY, length: 3, zeroed: true };
        let mut bytes = header.encode();
        assert_eq!(FileHeader::decode(&bytes), Ok(header));
        bytes[8] = 2;
        assert_eq!(FileHeader::decode(&bytes), Err(FileHeaderFault::Damaged));
        let checksum = FileHeader::checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(FileHeader::decode(&bytes), Err(FileHeaderFault::Version(2)));
    }

    #[test]
    fn table_that_does_not_add_up_is_refused() {
        let mut body = Vec::new();
        let entry =
            Entry { term: Term(1), index: LogIndex(1), kind: EntryKind::Command, payload: Bytes::from_static(b"four") };
        TableLine::encode(&entry, &mut body);
        body.extend_from_slice(b"four");
        let body = Bytes::from(body);
        assert_eq!(decode_entries(&body, LogIndex(1), 1), Ok(vec![entry]));
        assert!(decode_table(&body[..body.len() - 1], 1).is_err());
        assert!(decode_table(&body, 0).is_err());
        assert!(decode_table(&body, 2).is_err());
        assert!(decode_table(&body, u32::MAX).is_err());
    }
}
