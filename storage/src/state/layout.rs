//! How keys and values of the tables are laid out. All integers are big-endian, so that byte order is number order.
//!
//! | table | key | value |
//! |---|---|---|
//! | current | the user's key | record |
//! | history | escaped key, revision that superseded the value (8) | record |
//! | changes | revision (8), number within the revision (4) | kind (1), the user's key |
//!
//! A *record* is `{format (1), mod (8), create (8), version (8), lease (8), value}` and moves from `current` to `history` byte
//! for byte. An *escaped key* is the key with every `00` written as `00 FF`, ended by `00 01`: escaped keys sort like the keys
//! themselves, and none is a prefix of another, so that what follows one cannot mix two keys up.

use bytes::Bytes;

/// The first byte of a record.
pub(crate) const RECORD_FORMAT: u8 = 1;
/// Format, mod, create, version, lease.
pub(crate) const RECORD_HEADER_BYTES: usize = 33;

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const END: u8 = 0x01;
/// In place of [`END`]: after every row of the key, before every other key's.
const AFTER_END: u8 = 0x02;

/// What precedes the value in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) mod_revision: u64,
    pub(crate) create_revision: u64,
    pub(crate) version: u64,
    pub(crate) lease: u64,
}

impl RecordHeader {
    /// Appends header and value to `out`.
    pub(crate) fn encode(&self, value: &[u8], out: &mut Vec<u8>) {
        out.reserve(RECORD_HEADER_BYTES + value.len());
        out.push(RECORD_FORMAT);
        for number in [self.mod_revision, self.create_revision, self.version, self.lease] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(value);
    }

    /// Reads the header of a record; the value starts at [`RECORD_HEADER_BYTES`].
    pub(crate) fn decode(record: &[u8]) -> Result<RecordHeader, LayoutError> {
        let Some((header, _)) = record.split_at_checked(RECORD_HEADER_BYTES) else {
            return Err(LayoutError::Short { bytes: record.len() });
        };
        if header[0] != RECORD_FORMAT {
            return Err(LayoutError::Format { found: header[0] });
        }
        let number = |at: usize| {
            u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes of a header of checked length"))
        };
        Ok(RecordHeader { mod_revision: number(1), create_revision: number(9), version: number(17), lease: number(25) })
    }
}

/// Stored bytes that this program would not have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Shorter than the fixed part.
    #[error("{bytes} bytes are too short")]
    Short {
        /// How many bytes there are.
        bytes: usize,
    },
    /// Another format.
    #[error("format {found} is unknown")]
    Format {
        /// The format found.
        found: u8,
    },
    /// The key of a history row is not an escaped key.
    #[error("the key is not escaped as it should be")]
    Escape,
    /// A row that must exist is missing.
    #[error("the row is missing")]
    Missing,
    /// The text is not UTF-8.
    #[error("the text is not UTF-8")]
    Text,
    /// An answer kept for a session is not laid out as answers are.
    #[error("the answer is not laid out as answers are")]
    Answer,
    /// A membership that cannot be read.
    #[error(transparent)]
    Membership(#[from] raft::MembershipError),
}

/// Appends the escaped key to `out`.
pub(crate) fn escape(key: &[u8], out: &mut Vec<u8>) {
    out.reserve(key.len() + 2 + 8);
    for part in key.split_inclusive(|byte| *byte == ESCAPE) {
        out.extend_from_slice(part);
        if part.last() == Some(&ESCAPE) {
            out.push(ESCAPED_ZERO);
        }
    }
    out.extend_from_slice(&[ESCAPE, END]);
}

/// The key in `history` of what `superseded_at` superseded.
pub(crate) fn history_key(key: &[u8], superseded_at: u64, out: &mut Vec<u8>) {
    escape(key, out);
    out.extend_from_slice(&superseded_at.to_be_bytes());
}

/// Turns an escaped key, its end included, into what sorts after all of that key's rows and before every later key's.
pub(crate) fn after_all_rows(escaped: &mut [u8]) {
    *escaped.last_mut().expect("an escaped key ends with two bytes of its own") = AFTER_END;
}

/// Splits a key of `history` into the escaped key and the revision.
pub(crate) fn split_history_key(history_key: &[u8]) -> Result<(&[u8], u64), LayoutError> {
    let Some((escaped, revision)) = history_key.split_last_chunk::<8>() else {
        return Err(LayoutError::Short { bytes: history_key.len() });
    };
    Ok((escaped, u64::from_be_bytes(*revision)))
}

/// Appends the user's key to `out`, which is the opposite of [`escape`].
pub(crate) fn unescape(escaped: &[u8], out: &mut Vec<u8>) -> Result<(), LayoutError> {
    let Some((mut rest, [ESCAPE, END])) = escaped.split_last_chunk::<2>() else {
        return Err(LayoutError::Escape);
    };
    while let Some(at) = rest.iter().position(|byte| *byte == ESCAPE) {
        if rest.get(at + 1) != Some(&ESCAPED_ZERO) {
            return Err(LayoutError::Escape);
        }
        out.extend_from_slice(&rest[..=at]);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ChangeKind {
    Put = 1,
    Delete = 2,
}

/// The key in `changes` of the `number`th change of a revision.
pub(crate) fn change_key(revision: u64, number: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Splits a key of `changes` into the revision and the number within it.
pub(crate) fn split_change_key(change_key: &[u8]) -> Result<(u64, u32), LayoutError> {
    let short = || LayoutError::Short { bytes: change_key.len() };
    let (revision, number) = change_key.split_first_chunk::<8>().ok_or_else(short)?;
    let number = <[u8; 4]>::try_from(number).map_err(|_| short())?;
    Ok((u64::from_be_bytes(*revision), u32::from_be_bytes(number)))
}

/// Splits a value of `changes` into what happened and the user's key.
pub(crate) fn split_change(value: &[u8]) -> Result<(ChangeKind, &[u8]), LayoutError> {
    match value.split_first() {
        Some((&kind, key)) if kind == ChangeKind::Put as u8 => Ok((ChangeKind::Put, key)),
        Some((&kind, key)) if kind == ChangeKind::Delete as u8 => Ok((ChangeKind::Delete, key)),
        Some((&found, _)) => Err(LayoutError::Format { found }),
        None => Err(LayoutError::Short { bytes: 0 }),
    }
}

/// One key with its value, as of some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty if only keys were asked for.
    pub value: Bytes,
    /// The revision at which the key came to be.
    pub create_revision: u64,
    /// The revision at which it was last written.
    pub mod_revision: u64,
    /// 1 at creation, one more at each put, anew after a delete.
    pub version: u64,
    /// The lease it lives by; zero: none.
    pub lease: u64,
}

impl KeyValue {
    pub(crate) fn new(key: Bytes, header: RecordHeader, value: Bytes) -> KeyValue {
        let RecordHeader { mod_revision, create_revision, version, lease } = header;
        KeyValue { key, value, create_revision, mod_revision, version, lease }
    }

    /// From a stored record, sharing its memory.
    pub(crate) fn from_record(key: Bytes, record: &Bytes) -> Result<KeyValue, LayoutError> {
        let header = RecordHeader::decode(record)?;
        Ok(KeyValue::new(key, header, record.slice(RECORD_HEADER_BYTES..)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    fn escaped(key: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        escape(key, &mut out);
        out
    }

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 0xfe, 0xff]), 0..6)
    }

    proptest! {
        #![proptest_config(Config { cases: 2000, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() })]

        #[test]
        fn escaped_keys_sort_like_keys(a in keys(), b in keys(), revision_a: u64, revision_b: u64) {
            prop_assert_eq!(escaped(&a).cmp(&escaped(&b)), a.cmp(&b));
            let (mut row_a, mut row_b) = (Vec::new(), Vec::new());
            history_key(&a, revision_a, &mut row_a);
            history_key(&b, revision_b, &mut row_b);
            prop_assert_eq!(row_a.cmp(&row_b), a.cmp(&b).then(revision_a.cmp(&revision_b)));
            let mut after = escaped(&a);
            after_all_rows(&mut after);
            prop_assert!(after > row_a);
            if b > a {
                prop_assert!(after < row_b);
            }
        }

        #[test]
        fn escaped_keys_come_back(key in keys(), revision: u64) {
            let mut row = Vec::new();
            history_key(&key, revision, &mut row);
            let (escaped, found) = split_history_key(&row).unwrap();
            let mut back = Vec::new();
            unescape(escaped, &mut back).unwrap();
            prop_assert_eq!((back, found), (key, revision));
        }
    }

    #[test]
    fn the_layout_is_this_to_the_byte() {
        let header = RecordHeader { mod_revision: 0x0102, create_revision: 3, version: 4, lease: 5 };
        let mut record = Vec::new();
        header.encode(b"v", &mut record);
        let numbers =
            [[0, 0, 0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 0, 0, 0, 3], [0, 0, 0, 0, 0, 0, 0, 4], [0, 0, 0, 0, 0, 0, 0, 5]]
                .concat();
        assert_eq!(record, [&[1][..], &numbers, b"v"].concat());
        assert_eq!(RecordHeader::decode(&record), Ok(header));
        assert_eq!(escaped(b"a\0b"), b"a\0\xffb\0\x01");
        assert_eq!(change_key(1, 2), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
        assert_eq!(split_change_key(&change_key(1, 2)), Ok((1, 2)));
        assert_eq!(split_change(b"\x02k"), Ok((ChangeKind::Delete, &b"k"[..])));
    }

    #[test]
    fn what_was_not_written_here_is_refused() {
        assert_eq!(RecordHeader::decode(&[1; 32]), Err(LayoutError::Short { bytes: 32 }));
        assert_eq!(RecordHeader::decode(&[9; 33]), Err(LayoutError::Format { found: 9 }));
        for bytes in [&b""[..], b"a", b"a\0", b"a\0\x02", b"\0b\0\x01", b"\0\0\x01"] {
            assert_eq!(unescape(bytes, &mut Vec::new()), Err(LayoutError::Escape), "{bytes:?}");
        }
        assert_eq!(split_change_key(&[0; 13]), Err(LayoutError::Short { bytes: 13 }));
        assert_eq!(split_change(b""), Err(LayoutError::Short { bytes: 0 }));
        assert_eq!(split_change(b"\x03k"), Err(LayoutError::Format { found: 3 }));
    }
}
