//! Answers that a session keeps: outcomes of commands as bytes.
//!
//! They are part of the state of every node, for as long as a session keeps them, so the bytes are a format (`docs/formats.md`, "Answers"): a version,
//! a kind, and the fields in order, big-endian; keys, values and lists are preceded by their length, what may be missing by `0` or `1`.
//!
//! Absent: outcomes that speak of the session itself or of a command that cannot be read. No session keeps those.

use super::layout::{KeyValue, LayoutError};
use super::meta::{take_u32, take_u64};
use super::outcome::{CommandOutcome, OperationOutcome, RangeOutcome, TransactionOutcome};
use bytes::Bytes;

const ANSWER_FORMAT: u8 = 1;

const PUT: u8 = 1;
const CONDITION_FAILED: u8 = 2;
const DELETED: u8 = 3;
const LIMIT_EXCEEDED: u8 = 4;
const TRANSACTION: u8 = 5;
const KEY_UNKNOWN: u8 = 6;
const REVISION_COMPACTED: u8 = 7;
const REVISION_FUTURE: u8 = 8;
const LEASE_GRANTED: u8 = 9;
const LEASE_EXISTS: u8 = 10;
const LEASE_UNKNOWN: u8 = 11;
const LEASE_KEPT_ALIVE: u8 = 12;
const LEASE_REVOKED: u8 = 13;
const LEASES_FULL: u8 = 14;
const LEASE_FULL: u8 = 15;
const EXPIRED: u8 = 16;
const COMPACTED: u8 = 17;
const SESSION_OPENED: u8 = 18;
const SESSION_CLOSED: u8 = 19;
const SESSIONS_FULL: u8 = 20;
const FORMAT_RAISED: u8 = 21;

const OPERATION_PUT: u8 = 1;
const OPERATION_DELETED: u8 = 2;
const OPERATION_RANGE: u8 = 3;
const OPERATION_TRANSACTION: u8 = 4;

/// Lays an outcome out.
///
/// # Panics
///
/// If no session keeps such an outcome.
pub(crate) fn encode(outcome: &CommandOutcome) -> Bytes {
    let mut out = Encoder { bytes: vec![ANSWER_FORMAT] };
    out.outcome(outcome);
    out.bytes.into()
}

/// Reads an outcome back.
pub(crate) fn decode(answer: &Bytes) -> Result<CommandOutcome, LayoutError> {
    let (format, rest) = answer.split_first().ok_or(LayoutError::Short { bytes: 0 })?;
    if *format != ANSWER_FORMAT {
        return Err(LayoutError::Format { found: *format });
    }
    let mut decoder = Decoder { whole: answer, rest };
    let outcome = decoder.outcome()?;
    if decoder.rest.is_empty() { Ok(outcome) } else { Err(LayoutError::Answer) }
}

struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    fn outcome(&mut self, outcome: &CommandOutcome) {
        use CommandOutcome as Of;
        match outcome {
            Of::Put { revision, previous } => self.u8(PUT).u64(*revision).optional(previous.as_ref()),
            Of::ConditionFailed { existing } => self.u8(CONDITION_FAILED).optional(existing.as_ref()),
            Of::Deleted { count, revision, previous } => self.u8(DELETED).u64(*count).u64(*revision).pairs(previous),
            Of::LimitExceeded { keys_max, bytes_max } => self.u8(LIMIT_EXCEEDED).u32(*keys_max).u64(*bytes_max),
            Of::Transaction { revision, outcome } => self.u8(TRANSACTION).u64(*revision).transaction(outcome),
            Of::KeyUnknown { key } => self.u8(KEY_UNKNOWN).bytes(key),
            Of::RevisionCompacted { requested, compacted } => {
                self.u8(REVISION_COMPACTED).u64(*requested).u64(*compacted)
            }
            Of::RevisionFuture { requested, current } => self.u8(REVISION_FUTURE).u64(*requested).u64(*current),
            Of::LeaseGranted { id, ttl_ms } => self.u8(LEASE_GRANTED).u64(*id).u64(*ttl_ms),
            Of::LeaseExists { id } => self.u8(LEASE_EXISTS).u64(*id),
            Of::LeaseUnknown { id } => self.u8(LEASE_UNKNOWN).u64(*id),
            Of::LeaseKeptAlive { ttl_ms } => self.u8(LEASE_KEPT_ALIVE).u64(*ttl_ms),
            Of::LeaseRevoked { deleted, revision } => self.u8(LEASE_REVOKED).u64(*deleted).u64(*revision),
            Of::LeasesFull { leases_max } => self.u8(LEASES_FULL).u32(*leases_max),
            Of::LeaseFull { id, keys_max } => self.u8(LEASE_FULL).u64(*id).u32(*keys_max),
            Of::Expired { leases, sessions, deleted } => self.u8(EXPIRED).u64(*leases).u64(*sessions).u64(*deleted),
            Of::Compacted { revision } => self.u8(COMPACTED).u64(*revision),
            Of::SessionOpened { id } => self.u8(SESSION_OPENED).u64(*id),
            Of::SessionClosed => self.u8(SESSION_CLOSED),
            Of::SessionsFull { sessions_max } => self.u8(SESSIONS_FULL).u32(*sessions_max),
            Of::FormatRaised { format } => self.u8(FORMAT_RAISED).u32(*format),
            Of::SessionUnknown { .. } | Of::AnswerForgotten { .. } | Of::AnswersFull { .. } | Of::Invalid { .. } => {
                unreachable!("no session keeps {outcome:?}: the command was not carried out in it")
            }
        };
    }

    fn transaction(&mut self, outcome: &TransactionOutcome) -> &mut Encoder {
        let TransactionOutcome { succeeded, operations } = outcome;
        self.u8(u8::from(*succeeded)).length(operations.len());
        for operation in operations {
            match operation {
                OperationOutcome::Put { previous } => self.u8(OPERATION_PUT).optional(previous.as_ref()),
                OperationOutcome::Deleted { count, previous } => self.u8(OPERATION_DELETED).u64(*count).pairs(previous),
                OperationOutcome::Range(RangeOutcome { pairs, count, more }) => {
                    self.u8(OPERATION_RANGE).u64(*count).u8(u8::from(*more)).pairs(pairs)
                }
                OperationOutcome::Transaction(inner) => self.u8(OPERATION_TRANSACTION).transaction(inner),
            };
        }
        self
    }

    fn optional(&mut self, pair: Option<&KeyValue>) -> &mut Encoder {
        match pair {
            Some(pair) => self.u8(1).pair(pair),
            None => self.u8(0),
        }
    }

    fn pairs(&mut self, pairs: &[KeyValue]) -> &mut Encoder {
        self.length(pairs.len());
        for pair in pairs {
            self.pair(pair);
        }
        self
    }

    fn pair(&mut self, pair: &KeyValue) -> &mut Encoder {
        let KeyValue { key, value, create_revision, mod_revision, version, lease } = pair;
        self.u64(*mod_revision).u64(*create_revision).u64(*version).u64(*lease).bytes(key).bytes(value)
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Encoder {
        self.length(bytes.len()).bytes.extend_from_slice(bytes);
        self
    }

    fn length(&mut self, length: usize) -> &mut Encoder {
        self.u32(u32::try_from(length).expect("what one command reads and deletes is limited to megabytes"))
    }

    fn u8(&mut self, number: u8) -> &mut Encoder {
        self.bytes.push(number);
        self
    }

    fn u32(&mut self, number: u32) -> &mut Encoder {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Encoder {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }
}

/// Keys and values share the answer's memory.
struct Decoder<'a> {
    whole: &'a Bytes,
    rest: &'a [u8],
}

impl Decoder<'_> {
    fn outcome(&mut self) -> Result<CommandOutcome, LayoutError> {
        Ok(match self.u8()? {
            PUT => CommandOutcome::Put { revision: self.u64()?, previous: self.optional()? },
            CONDITION_FAILED => CommandOutcome::ConditionFailed { existing: self.optional()? },
            DELETED => CommandOutcome::Deleted { count: self.u64()?, revision: self.u64()?, previous: self.pairs()? },
            LIMIT_EXCEEDED => CommandOutcome::LimitExceeded { keys_max: self.u32()?, bytes_max: self.u64()? },
            TRANSACTION => CommandOutcome::Transaction { revision: self.u64()?, outcome: self.transaction()? },
            KEY_UNKNOWN => CommandOutcome::KeyUnknown { key: self.bytes()? },
            REVISION_COMPACTED => CommandOutcome::RevisionCompacted { requested: self.u64()?, compacted: self.u64()? },
            REVISION_FUTURE => CommandOutcome::RevisionFuture { requested: self.u64()?, current: self.u64()? },
            LEASE_GRANTED => CommandOutcome::LeaseGranted { id: self.u64()?, ttl_ms: self.u64()? },
            LEASE_EXISTS => CommandOutcome::LeaseExists { id: self.u64()? },
            LEASE_UNKNOWN => CommandOutcome::LeaseUnknown { id: self.u64()? },
            LEASE_KEPT_ALIVE => CommandOutcome::LeaseKeptAlive { ttl_ms: self.u64()? },
            LEASE_REVOKED => CommandOutcome::LeaseRevoked { deleted: self.u64()?, revision: self.u64()? },
            LEASES_FULL => CommandOutcome::LeasesFull { leases_max: self.u32()? },
            LEASE_FULL => CommandOutcome::LeaseFull { id: self.u64()?, keys_max: self.u32()? },
            EXPIRED => CommandOutcome::Expired { leases: self.u64()?, sessions: self.u64()?, deleted: self.u64()? },
            COMPACTED => CommandOutcome::Compacted { revision: self.u64()? },
            SESSION_OPENED => CommandOutcome::SessionOpened { id: self.u64()? },
            SESSION_CLOSED => CommandOutcome::SessionClosed,
            SESSIONS_FULL => CommandOutcome::SessionsFull { sessions_max: self.u32()? },
            FORMAT_RAISED => CommandOutcome::FormatRaised { format: self.u32()? },
            _ => return Err(LayoutError::Answer),
        })
    }

    fn transaction(&mut self) -> Result<TransactionOutcome, LayoutError> {
        let succeeded = self.flag()?;
        let mut operations = Vec::new();
        for _ in 0..self.u32()? {
            operations.push(match self.u8()? {
                OPERATION_PUT => OperationOutcome::Put { previous: self.optional()? },
                OPERATION_DELETED => OperationOutcome::Deleted { count: self.u64()?, previous: self.pairs()? },
                OPERATION_RANGE => {
                    let (count, more) = (self.u64()?, self.flag()?);
                    OperationOutcome::Range(RangeOutcome { pairs: self.pairs()?, count, more })
                }
                OPERATION_TRANSACTION => OperationOutcome::Transaction(self.transaction()?),
                _ => return Err(LayoutError::Answer),
            });
        }
        Ok(TransactionOutcome { succeeded, operations })
    }

    fn optional(&mut self) -> Result<Option<KeyValue>, LayoutError> {
        if self.flag()? { Ok(Some(self.pair()?)) } else { Ok(None) }
    }

    fn pairs(&mut self) -> Result<Vec<KeyValue>, LayoutError> {
        let mut pairs = Vec::new();
        for _ in 0..self.u32()? {
            pairs.push(self.pair()?);
        }
        Ok(pairs)
    }

    fn pair(&mut self) -> Result<KeyValue, LayoutError> {
        let (mod_revision, create_revision) = (self.u64()?, self.u64()?);
        let (version, lease) = (self.u64()?, self.u64()?);
        Ok(KeyValue { key: self.bytes()?, value: self.bytes()?, create_revision, mod_revision, version, lease })
    }

    fn bytes(&mut self) -> Result<Bytes, LayoutError> {
        let length = usize::try_from(self.u32()?).expect("usize has at least 32 bits on every platform this runs on");
        let short = LayoutError::Short { bytes: self.rest.len() };
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(short)?;
        self.rest = rest;
        Ok(self.whole.slice_ref(taken))
    }

    fn flag(&mut self) -> Result<bool, LayoutError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(LayoutError::Answer),
        }
    }

    fn u8(&mut self) -> Result<u8, LayoutError> {
        let (byte, rest) = self.rest.split_first().ok_or(LayoutError::Short { bytes: 0 })?;
        self.rest = rest;
        Ok(*byte)
    }

    fn u32(&mut self) -> Result<u32, LayoutError> {
        take_u32(&mut self.rest)
    }

    fn u64(&mut self) -> Result<u64, LayoutError> {
        take_u64(&mut self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &'static [u8], value: &'static [u8]) -> KeyValue {
        let (key, value) = (Bytes::from_static(key), Bytes::from_static(value));
        KeyValue { key, value, create_revision: 1, mod_revision: 2, version: 3, lease: 4 }
    }

    fn examples() -> Vec<CommandOutcome> {
        let inner = TransactionOutcome { succeeded: false, operations: vec![OperationOutcome::Put { previous: None }] };
        let operations = vec![
            OperationOutcome::Put { previous: Some(pair(b"k", b"")) },
            OperationOutcome::Deleted { count: 1, previous: vec![pair(b"d", b"v")] },
            OperationOutcome::Range(RangeOutcome {
                pairs: vec![pair(b"a", b"1"), pair(b"b", b"2")],
                count: 9,
                more: true,
            }),
            OperationOutcome::Transaction(inner),
        ];
        vec![
            CommandOutcome::Put { revision: 5, previous: Some(pair(b"k", b"v")) },
            CommandOutcome::Put { revision: 5, previous: None },
            CommandOutcome::ConditionFailed { existing: Some(pair(b"k", b"v")) },
            CommandOutcome::Deleted { count: 2, revision: 3, previous: vec![pair(b"k", b"v"), pair(b"l", b"")] },
            CommandOutcome::LimitExceeded { keys_max: 1, bytes_max: 2 },
            CommandOutcome::Transaction { revision: 6, outcome: TransactionOutcome { succeeded: true, operations } },
            CommandOutcome::KeyUnknown { key: Bytes::from_static(b"k") },
            CommandOutcome::RevisionCompacted { requested: 1, compacted: 2 },
            CommandOutcome::RevisionFuture { requested: 1, current: 2 },
            CommandOutcome::LeaseGranted { id: 1, ttl_ms: 2 },
            CommandOutcome::LeaseExists { id: 1 },
            CommandOutcome::LeaseUnknown { id: 1 },
            CommandOutcome::LeaseKeptAlive { ttl_ms: 2 },
            CommandOutcome::LeaseRevoked { deleted: 1, revision: 2 },
            CommandOutcome::LeasesFull { leases_max: 1 },
            CommandOutcome::LeaseFull { id: 1, keys_max: 2 },
            CommandOutcome::Expired { leases: 1, sessions: 2, deleted: 3 },
            CommandOutcome::Compacted { revision: 1 },
            CommandOutcome::SessionOpened { id: 1 },
            CommandOutcome::SessionClosed,
            CommandOutcome::SessionsFull { sessions_max: 1 },
            CommandOutcome::FormatRaised { format: 4 },
        ]
    }

    #[test]
    fn every_answer_comes_back_and_no_cut_one_does() {
        for outcome in examples() {
            let answer = encode(&outcome);
            assert_eq!(decode(&answer).as_ref(), Ok(&outcome));
            for length in 0..answer.len() {
                assert!(decode(&answer.slice(..length)).is_err(), "{outcome:?} cut at {length}");
            }
            assert_eq!(decode(&[&answer[..], &[0]].concat().into()), Err(LayoutError::Answer), "{outcome:?}");
        }
    }

    #[test]
    fn every_flipped_bit_is_decoded_or_refused() {
        for outcome in examples() {
            let answer = encode(&outcome);
            for bit in 0..answer.len() * 8 {
                let mut flipped = answer.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok(other) = decode(&flipped.into()) {
                    assert_ne!(other, outcome, "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn the_format_is_this_to_the_byte() {
        let number = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
        let pair_bytes =
            [&number(2)[..], &number(1), &number(3), &number(4), &[0, 0, 0, 1, b'k', 0, 0, 0, 1, b'v']].concat();
        let put = encode(&CommandOutcome::Put { revision: 5, previous: Some(pair(b"k", b"v")) });
        assert_eq!(put[..], [&[1, PUT][..], &number(5), &[1], &pair_bytes].concat());
        let range = RangeOutcome { pairs: vec![pair(b"k", b"v")], count: 9, more: true };
        let outcome = TransactionOutcome { succeeded: true, operations: vec![OperationOutcome::Range(range)] };
        let transaction = encode(&CommandOutcome::Transaction { revision: 6, outcome });
        let operation = [&[OPERATION_RANGE][..], &number(9), &[1, 0, 0, 0, 1], &pair_bytes].concat();
        assert_eq!(transaction[..], [&[1, TRANSACTION][..], &number(6), &[1, 0, 0, 0, 1], &operation].concat());
    }
}
