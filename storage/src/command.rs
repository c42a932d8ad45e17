//! The payload of a log entry: a batch of client commands.
//!
//! The bytes go through the log, over the wire and into the state machine exactly as the leader laid them out here, so the
//! format is a promise to every node that will ever replay them (`docs/formats.md`, "Commands"). It is laid by hand: big-endian,
//! every command length-prefixed, nothing optional that is not announced by a flag.
//!
//! Two kinds of bad bytes are told apart. What this program *does not know* (a version, a kind, a flag, a session) may be a
//! feature of a newer program: applying the entry without it would make this node differ from the others, so it has to stop
//! ([`DecodeError::Unknown`]). What *no* program could mean (a length past the end, an empty key) is the same nonsense to every
//! node: it becomes [`CommandOutcome::Invalid`](crate::state::CommandOutcome::Invalid) everywhere and changes nothing.
//!
//! A batch of version 2 carries the leader's clock; versions are written as the *format in effect* allows (`state/format.rs`), and read for ever.
//!
//! Absent so far: sessions. Each command has room for a session and a sequence number; both must be zero.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The newest version of the batch format that this program reads. It writes this one, with the leader's clock, or version 1, without.
pub const BATCH_VERSION: u8 = 2;

const VERSION_WITHOUT_TIME: u8 = 1;
const TIME_BYTES: usize = 8;
/// Room for version, time and count; without the time, the first bytes of it are left out.
const BATCH_HEADER_BYTES: usize = 5 + TIME_BYTES;
/// Kind, session, sequence.
const COMMAND_HEADER_BYTES: usize = 17;

const KIND_PUT: u8 = 1;
const KIND_DELETE_RANGE: u8 = 2;
const KIND_RAISE_FORMAT: u8 = 3;

const FLAG_PREVIOUS: u8 = 1 << 0;
const FLAG_END: u8 = 1 << 1;

const CONDITION_NONE: u8 = 0;
const CONDITION_ABSENT: u8 = 1;
const CONDITION_MOD_REVISION: u8 = 2;
const CONDITION_VALUE: u8 = 3;

/// One client command. Borrows its bytes: from the request when encoding, from the log entry when applying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Write one key.
    Put {
        /// Not empty.
        key: &'a [u8],
        /// May be empty.
        value: &'a [u8],
        /// The lease the key lives by; zero: none.
        lease: u64,
        /// Write only if this holds.
        condition: Option<Condition<'a>>,
        /// Return what the key held before.
        previous: bool,
    },
    /// Delete every key in a range, or none if it holds more than the limits allow.
    DeleteRange {
        /// Which keys.
        range: KeyRange<'a>,
        /// How much may be deleted at once; the same on every node, because it lies in the log.
        limits: DeleteLimits,
        /// Return what was deleted.
        previous: bool,
    },
    /// From here on everybody may use what this format has: see `state/format.rs`. Asked for by a leader, never by a client.
    RaiseFormat {
        /// The next one.
        to: u32,
    },
}

/// How much one command may delete: what bounds the memory that applying it takes. A range written as a single key always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteLimits {
    /// Keys.
    pub keys_max: u32,
    /// Bytes of keys and values together.
    pub bytes_max: u64,
}

/// What must hold for a put to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    ModRevision(u64),
    /// The key exists with this value.
    Value(&'a [u8]),
}

/// Keys from `start`, inclusive, to `end`, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange<'a> {
    /// The first key in it, if it exists.
    pub start: &'a [u8],
    /// The first key after it; `None`: to the last key.
    pub end: Option<&'a [u8]>,
}

impl<'a> KeyRange<'a> {
    /// Every key.
    pub const ALL: KeyRange<'static> = KeyRange { start: b"", end: None };

    /// The only key in the range, if the range is written as `key .. key + 0x00`.
    #[must_use]
    pub fn single_key(self) -> Option<&'a [u8]> {
        let (last, key) = self.end?.split_last()?;
        (*last == 0 && key == self.start && !key.is_empty()).then_some(key)
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(self, key: &[u8]) -> bool {
        key >= self.start && self.end.is_none_or(|end| key < end)
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.end.is_some_and(|end| end <= self.start)
    }
}

/// Why a batch, or one command of it, cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Written by a newer program. Whoever applies the entry must stop.
    #[error("{0}")]
    Unknown(#[from] UnknownFeature),
    /// Nonsense to every program. Whoever applies the entry reports it and goes on.
    #[error("{0}")]
    Invalid(#[from] InvalidCommand),
}

/// Something in a command that this program does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnknownFeature {
    /// The batch has another format.
    #[error("batch format version {found} is unknown, this program knows version {known}")]
    Version {
        /// The version found.
        found: u8,
        /// The version this program knows.
        known: u8,
    },
    /// A kind of command.
    #[error("command kind {found} is unknown")]
    Kind {
        /// The kind found.
        found: u8,
    },
    /// A flag of a command.
    #[error("flags {found:#010b} of command kind {kind} are unknown")]
    Flags {
        /// The command's kind.
        kind: u8,
        /// The unknown flags.
        found: u8,
    },
    /// A kind of condition.
    #[error("condition kind {found} is unknown")]
    Condition {
        /// The kind found.
        found: u8,
    },
    /// A session: applying the command without it could apply it twice.
    #[error("the command belongs to session {session}, and sessions are unknown")]
    Session {
        /// The session found.
        session: u64,
    },
}

/// Why a command makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidCommand {
    /// A length points past the end of the bytes. Nothing after it in the entry can be read.
    #[error("the command is cut short: {needed} more bytes announced than the {available} there are")]
    Truncated {
        /// How many bytes were announced.
        needed: usize,
        /// How many there were.
        available: usize,
    },
    /// Bytes follow where the command, or the last command of the batch, should have ended.
    #[error("{count} bytes follow the end")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The key of a put is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// The batch says that it holds no command.
    #[error("the batch is empty")]
    EmptyBatch,
}

/// Lays commands into a batch. One encoder is reused for batch after batch and takes its memory back once a batch is dropped.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    buffer: BytesMut,
    count: u32,
}

impl BatchEncoder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> BatchEncoder {
        BatchEncoder::default()
    }

    /// Appends one command. Limits on keys and values are the caller's; lengths beyond 4 GiB are a bug of the caller.
    pub fn append(&mut self, command: &Command<'_>) {
        if self.count == 0 {
            self.buffer.clear();
            self.buffer.put_bytes(0, BATCH_HEADER_BYTES);
        }
        self.buffer.reserve(4 + COMMAND_HEADER_BYTES + 32 + payload_bytes(command));
        let length_at = self.buffer.len();
        self.buffer.put_u32(0);
        match command {
            Command::Put { key, value, lease, condition, previous } => {
                self.command_header(KIND_PUT);
                self.buffer.put_u8(if *previous { FLAG_PREVIOUS } else { 0 });
                self.buffer.put_u64(*lease);
                self.condition(condition.as_ref());
                self.bytes(key);
                self.bytes(value);
            }
            Command::DeleteRange { range, limits, previous } => {
                self.command_header(KIND_DELETE_RANGE);
                let end = if range.end.is_some() { FLAG_END } else { 0 };
                self.buffer.put_u8(if *previous { FLAG_PREVIOUS | end } else { end });
                self.buffer.put_u32(limits.keys_max);
                self.buffer.put_u64(limits.bytes_max);
                self.bytes(range.start);
                if let Some(end) = range.end {
                    self.bytes(end);
                }
            }
            Command::RaiseFormat { to } => {
                self.command_header(KIND_RAISE_FORMAT);
                self.buffer.put_u32(*to);
            }
        }
        let length = self.buffer.len() - length_at - 4;
        self.buffer[length_at..length_at + 4].copy_from_slice(&length_u32(length).to_be_bytes());
        self.count = self.count.checked_add(1).expect("a batch of four billion commands exceeds memory first");
    }

    /// How many commands were appended since the last [`take`](BatchEncoder::take).
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether nothing was appended since the last [`take`](BatchEncoder::take).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes the batch has, at most.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        if self.count == 0 { 0 } else { self.buffer.len() }
    }

    /// The finished batch, without a time; the encoder is empty afterwards.
    ///
    /// # Panics
    ///
    /// If nothing was appended: an entry without commands must not be proposed.
    pub fn take(&mut self) -> Bytes {
        self.finish(None)
    }

    /// The finished batch, with the leader's clock in milliseconds since 1970; the encoder is empty afterwards.
    ///
    /// # Panics
    ///
    /// If nothing was appended.
    pub fn take_at(&mut self, time_ms: u64) -> Bytes {
        self.finish(Some(time_ms))
    }

    fn finish(&mut self, time_ms: Option<u64>) -> Bytes {
        assert!(self.count > 0, "a batch without commands was asked for");
        let left_out = if time_ms.is_some() { 0 } else { TIME_BYTES };
        let header = &mut self.buffer[left_out..BATCH_HEADER_BYTES];
        let (version, rest) = header.split_first_mut().expect("the header has a version");
        *version = VERSION_WITHOUT_TIME;
        let mut count = &mut rest[..];
        if let Some(time_ms) = time_ms {
            *version = BATCH_VERSION;
            let (time, after) = rest.split_at_mut(TIME_BYTES);
            time.copy_from_slice(&time_ms.to_be_bytes());
            count = after;
        }
        count.copy_from_slice(&self.count.to_be_bytes());
        self.count = 0;
        let mut batch = self.buffer.split().freeze();
        batch.advance(left_out);
        batch
    }

    fn command_header(&mut self, kind: u8) {
        self.buffer.put_u8(kind);
        self.buffer.put_u64(0); // session
        self.buffer.put_u64(0); // sequence
    }

    fn condition(&mut self, condition: Option<&Condition<'_>>) {
        match condition {
            None => self.buffer.put_u8(CONDITION_NONE),
            Some(Condition::Absent) => self.buffer.put_u8(CONDITION_ABSENT),
            Some(Condition::ModRevision(revision)) => {
                self.buffer.put_u8(CONDITION_MOD_REVISION);
                self.buffer.put_u64(*revision);
            }
            Some(Condition::Value(value)) => {
                self.buffer.put_u8(CONDITION_VALUE);
                self.bytes(value);
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.put_u32(length_u32(bytes.len()));
        self.buffer.put_slice(bytes);
    }
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("keys and values are limited to megabytes before they are encoded")
}

fn payload_bytes(command: &Command<'_>) -> usize {
    match command {
        Command::Put { key, value, condition, .. } => {
            let expected = if let Some(Condition::Value(value)) = condition { value.len() } else { 0 };
            key.len() + value.len() + expected
        }
        Command::DeleteRange { range, .. } => range.start.len() + range.end.map_or(0, <[u8]>::len),
        Command::RaiseFormat { .. } => 0,
    }
}

/// Whether a batch deletes a range that may hold more than one key: what takes more memory to apply than the batch has bytes.
#[must_use]
pub fn deletes_a_range(payload: &[u8]) -> bool {
    BatchDecoder::new(payload)
        .any(|command| matches!(command, Ok(Command::DeleteRange { range, .. }) if range.single_key().is_none()))
}

/// Reads the commands of a batch in order, without copying.
///
/// After an error that leaves no way to find the next command, the iteration ends.
#[derive(Debug, Clone)]
pub struct BatchDecoder<'a> {
    reader: Reader<'a>,
    remaining: u32,
    time_ms: Option<u64>,
    /// The first item is an error and the only one.
    failed: Option<DecodeError>,
}

impl<'a> BatchDecoder<'a> {
    /// Starts to read. Errors in the header come out as the first item.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> BatchDecoder<'a> {
        let mut reader = Reader { bytes: payload };
        match batch_header(&mut reader) {
            Ok((remaining, time_ms)) => BatchDecoder { reader, remaining, time_ms, failed: None },
            Err(error) => {
                BatchDecoder { reader: Reader { bytes: &[] }, remaining: 0, time_ms: None, failed: Some(error) }
            }
        }
    }

    /// The clock of the leader that laid the batch, in milliseconds since 1970, if the batch carries it.
    #[must_use]
    pub fn time_ms(&self) -> Option<u64> {
        self.time_ms
    }

    fn next_command(&mut self) -> Result<Command<'a>, DecodeError> {
        let length = self.reader.length()?;
        let bytes = match self.reader.take(length) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.remaining = 0;
                self.reader = Reader { bytes: &[] };
                return Err(error.into());
            }
        };
        self.remaining -= 1;
        decode_command(bytes)
    }
}

impl<'a> Iterator for BatchDecoder<'a> {
    type Item = Result<Command<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        if self.remaining == 0 {
            let count = self.reader.bytes.len();
            self.reader = Reader { bytes: &[] };
            return (count > 0).then_some(Err(InvalidCommand::TrailingBytes { count }.into()));
        }
        let remaining = self.remaining;
        let command = self.next_command();
        if command.is_err() && self.remaining == remaining {
            // Not even the length could be read.
            self.remaining = 0;
            self.reader = Reader { bytes: &[] };
        }
        Some(command)
    }
}

fn batch_header(reader: &mut Reader<'_>) -> Result<(u32, Option<u64>), DecodeError> {
    let time_ms = match reader.u8()? {
        VERSION_WITHOUT_TIME => None,
        BATCH_VERSION => Some(reader.u64()?),
        found => return Err(UnknownFeature::Version { found, known: BATCH_VERSION }.into()),
    };
    match reader.u32()? {
        0 => Err(InvalidCommand::EmptyBatch.into()),
        count => Ok((count, time_ms)),
    }
}

fn decode_command(bytes: &[u8]) -> Result<Command<'_>, DecodeError> {
    let mut reader = Reader { bytes };
    let kind = reader.u8()?;
    let session = reader.u64()?;
    let _sequence = reader.u64()?;
    let command = match kind {
        KIND_PUT => decode_put(&mut reader, session)?,
        KIND_DELETE_RANGE => decode_delete_range(&mut reader, session)?,
        KIND_RAISE_FORMAT => {
            known_features(KIND_RAISE_FORMAT, 0, 0, session)?;
            Command::RaiseFormat { to: reader.u32()? }
        }
        found => return Err(UnknownFeature::Kind { found }.into()),
    };
    match reader.bytes.len() {
        0 => Ok(command),
        count => Err(InvalidCommand::TrailingBytes { count }.into()),
    }
}

fn decode_put<'a>(reader: &mut Reader<'a>, session: u64) -> Result<Command<'a>, DecodeError> {
    let flags = reader.u8()?;
    known_features(KIND_PUT, flags, FLAG_PREVIOUS, session)?;
    let lease = reader.u64()?;
    let condition = match reader.u8()? {
        CONDITION_NONE => None,
        CONDITION_ABSENT => Some(Condition::Absent),
        CONDITION_MOD_REVISION => Some(Condition::ModRevision(reader.u64()?)),
        CONDITION_VALUE => Some(Condition::Value(reader.prefixed()?)),
        found => return Err(UnknownFeature::Condition { found }.into()),
    };
    let key = reader.prefixed()?;
    let value = reader.prefixed()?;
    if key.is_empty() {
        return Err(InvalidCommand::EmptyKey.into());
    }
    Ok(Command::Put { key, value, lease, condition, previous: flags & FLAG_PREVIOUS != 0 })
}

fn decode_delete_range<'a>(reader: &mut Reader<'a>, session: u64) -> Result<Command<'a>, DecodeError> {
    let flags = reader.u8()?;
    known_features(KIND_DELETE_RANGE, flags, FLAG_PREVIOUS | FLAG_END, session)?;
    let limits = DeleteLimits { keys_max: reader.u32()?, bytes_max: reader.u64()? };
    let start = reader.prefixed()?;
    let end = if flags & FLAG_END != 0 { Some(reader.prefixed()?) } else { None };
    Ok(Command::DeleteRange { range: KeyRange { start, end }, limits, previous: flags & FLAG_PREVIOUS != 0 })
}

fn known_features(kind: u8, flags: u8, known: u8, session: u64) -> Result<(), UnknownFeature> {
    if session != 0 {
        return Err(UnknownFeature::Session { session });
    }
    match flags & !known {
        0 => Ok(()),
        found => Err(UnknownFeature::Flags { kind, found }),
    }
}

#[derive(Debug, Clone)]
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], InvalidCommand> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            return Err(InvalidCommand::Truncated { needed: count, available: self.bytes.len() });
        };
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidCommand> {
        Ok(self.take(N)?.try_into().expect("exactly N bytes were taken"))
    }

    fn u8(&mut self) -> Result<u8, InvalidCommand> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, InvalidCommand> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, InvalidCommand> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn length(&mut self) -> Result<usize, InvalidCommand> {
        let length = self.u32()?;
        Ok(usize::try_from(length).expect("usize has at least 32 bits on every platform this runs on"))
    }

    fn prefixed(&mut self) -> Result<&'a [u8], InvalidCommand> {
        let length = self.length()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
        Command::Put { key, value, lease: 0, condition: None, previous: false }
    }

    fn delete(range: KeyRange<'_>, previous: bool) -> Command<'_> {
        Command::DeleteRange { range, limits: DeleteLimits { keys_max: 0x0102_0304, bytes_max: 5 }, previous }
    }

    fn examples() -> Vec<Command<'static>> {
        vec![
            put(b"a", b""),
            Command::Put {
                key: b"\x00\xff",
                value: b"value",
                lease: u64::MAX,
                condition: Some(Condition::Absent),
                previous: true,
            },
            Command::Put {
                key: b"k",
                value: b"v",
                lease: 0,
                condition: Some(Condition::ModRevision(7)),
                previous: false,
            },
            Command::Put {
                key: b"k",
                value: b"v",
                lease: 1,
                condition: Some(Condition::Value(b"old")),
                previous: false,
            },
            delete(KeyRange { start: b"a", end: Some(b"b") }, true),
            delete(KeyRange::ALL, false),
        ]
    }

    fn encode(commands: &[Command<'_>]) -> Bytes {
        let mut encoder = BatchEncoder::new();
        for command in commands {
            encoder.append(command);
        }
        encoder.take()
    }

    #[test]
    fn every_command_comes_back_as_it_was() {
        let commands = examples();
        let decoded: Result<Vec<_>, _> = BatchDecoder::new(&encode(&commands)).map(|item| item.map(owned)).collect();
        assert_eq!(decoded, Ok(commands.iter().copied().map(owned).collect::<Vec<_>>()));
    }

    /// Borrowed commands cannot outlive the payload in one expression; their text can.
    fn owned(command: Command<'_>) -> String {
        format!("{command:?}")
    }

    #[test]
    fn encoder_starts_anew_after_take() {
        let mut encoder = BatchEncoder::new();
        encoder.append(&put(b"a", b"1"));
        let first = encoder.take();
        assert!(encoder.is_empty());
        assert_eq!(encoder.bytes_len(), 0);
        encoder.append(&put(b"a", b"1"));
        assert_eq!(encoder.count(), 1);
        assert_eq!(encoder.take(), first);
    }

    #[test]
    fn the_format_is_this_to_the_byte() {
        let expected = [
            &[1, 0, 0, 0, 1][..],                      // version, count
            &[0, 0, 0, 37][..],                        // length
            &[1][..],                                  // put
            &[0; 16][..],                              // session, sequence
            &[1][..],                                  // flags: previous
            &[0, 0, 0, 0, 0, 0, 0, 9][..],             // lease
            &[1][..],                                  // condition: absent
            &[0, 0, 0, 1, b'k', 0, 0, 0, 1, b'v'][..], // key, value
        ]
        .concat();
        let command =
            Command::Put { key: b"k", value: b"v", lease: 9, condition: Some(Condition::Absent), previous: true };
        assert_eq!(encode(&[command]), expected);

        let expected = [
            &[1, 0, 0, 0, 1][..],                      // version, count
            &[0, 0, 0, 40][..],                        // length
            &[2][..],                                  // delete range
            &[0; 16][..],                              // session, sequence
            &[3][..],                                  // flags: previous, end
            &[1, 2, 3, 4][..],                         // keys at most
            &[0, 0, 0, 0, 0, 0, 0, 5][..],             // bytes at most
            &[0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b'][..], // start, end
        ]
        .concat();
        assert_eq!(encode(&[delete(KeyRange { start: b"a", end: Some(b"b") }, true)]), expected);
    }

    #[test]
    fn batches_that_delete_a_range_are_recognized() {
        let single = delete(KeyRange { start: b"k", end: Some(b"k\0") }, false);
        assert!(!deletes_a_range(&encode(&[put(b"a", b"1"), single])));
        assert!(deletes_a_range(&encode(&[put(b"a", b"1"), single, delete(KeyRange::ALL, false)])));
        assert!(!deletes_a_range(b"nonsense"));
    }

    #[test]
    fn every_cut_is_invalid_and_never_a_panic() {
        let whole = encode(&examples());
        for length in 0..whole.len() {
            let items: Vec<_> = BatchDecoder::new(&whole[..length]).collect();
            let (last, before) = items.split_last().expect("a cut batch yields at least its error");
            assert!(matches!(last, Err(DecodeError::Invalid(_))), "cut at {length}: {last:?}");
            assert!(before.iter().all(Result::is_ok), "cut at {length}");
        }
    }

    #[test]
    fn every_flipped_bit_is_decoded_or_refused() {
        let whole = encode(&examples());
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Bounded by the bytes there are, whatever the count says.
            assert!(BatchDecoder::new(&flipped).count() <= whole.len());
        }
    }

    #[test]
    fn what_is_unknown_is_told_apart_from_nonsense() {
        let whole = encode(&[put(b"k", b"v")]);
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.to_vec();
            bytes[at] = byte;
            BatchDecoder::new(&bytes).next().expect("one item").map(owned)
        };
        assert_eq!(with(0, 3), Err(UnknownFeature::Version { found: 3, known: 2 }.into()));
        assert_eq!(with(9, 77), Err(UnknownFeature::Kind { found: 77 }.into()));
        assert_eq!(with(17, 3), Err(UnknownFeature::Session { session: 3 }.into()));
        assert_eq!(with(26, 0x81), Err(UnknownFeature::Flags { kind: 1, found: 0x80 }.into()));
        assert_eq!(with(35, 9), Err(UnknownFeature::Condition { found: 9 }.into()));
        assert!(matches!(with(39, 200), Err(DecodeError::Invalid(InvalidCommand::Truncated { .. }))));
        assert_eq!(with(4, 0), Err(InvalidCommand::EmptyBatch.into()));
    }

    /// The bytes of `docs/formats.md`.
    #[test]
    fn a_batch_with_a_time_has_it_after_the_version() {
        let raise = Command::RaiseFormat { to: 3 };
        let mut encoder = BatchEncoder::new();
        encoder.append(&raise);
        let timed = encoder.take_at(0x0102_0304_0506_0708);
        let command = [&[0, 0, 0, 21, KIND_RAISE_FORMAT][..], &[0; 16], &[0, 0, 0, 3]].concat();
        assert_eq!(timed[..], [&[2, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1][..], &command].concat());
        encoder.append(&raise);
        let plain = encoder.take();
        assert_eq!(plain[..], [&[1, 0, 0, 0, 1][..], &command].concat());
        for (batch, time_ms) in [(timed, Some(0x0102_0304_0506_0708)), (plain, None)] {
            let decoder = BatchDecoder::new(&batch);
            assert_eq!(decoder.time_ms(), time_ms);
            assert_eq!(decoder.collect::<Vec<_>>(), [Ok(raise)]);
        }
    }

    #[test]
    fn empty_key_is_invalid_and_the_rest_of_the_batch_goes_on() {
        let payload = encode(&[put(b"", b"v"), put(b"k", b"v")]);
        let items: Vec<_> = BatchDecoder::new(&payload).collect();
        assert_eq!(items[0], Err(InvalidCommand::EmptyKey.into()));
        assert!(items[1].is_ok());
        assert_eq!(items.len(), 2);
    }

    #[test]
    fn bytes_after_the_last_command_are_invalid() {
        let mut payload = encode(&[put(b"k", b"v")]).to_vec();
        payload.push(0);
        let items: Vec<_> = BatchDecoder::new(&payload).collect();
        assert!(items[0].is_ok());
        assert_eq!(items[1], Err(InvalidCommand::TrailingBytes { count: 1 }.into()));
        assert_eq!(items.len(), 2);
    }

    #[test]
    fn single_key_ranges_are_recognized() {
        assert_eq!(KeyRange { start: b"k", end: Some(b"k\0") }.single_key(), Some(&b"k"[..]));
        assert_eq!(KeyRange { start: b"k", end: Some(b"l") }.single_key(), None);
        assert_eq!(KeyRange { start: b"k", end: None }.single_key(), None);
        assert_eq!(KeyRange { start: b"", end: Some(b"\0") }.single_key(), None);
    }
}
