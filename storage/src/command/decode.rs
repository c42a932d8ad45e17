//! Reading commands, without copying their keys and values.

use super::encode::{
    COMPARE_CREATE_REVISION, COMPARE_LEASE, COMPARE_MOD_REVISION, COMPARE_VALUE, COMPARE_VERSION,
    OPERATION_DELETE_RANGE, OPERATION_PUT, OPERATION_RANGE, OPERATION_TRANSACTION, READ_COUNT_ONLY, READ_DESCENDING,
    READ_KEYS_ONLY, READ_NUMBERS, READ_UNCOUNTED,
};
use super::{
    BATCH_VERSION, BatchItem, CONDITION_ABSENT, CONDITION_MOD_REVISION, CONDITION_NONE, CONDITION_VALUE, Command,
    Compare, CompareTarget, Condition, DecodeError, FLAG_END, FLAG_KEEP_LEASE, FLAG_KEEP_VALUE, FLAG_PREVIOUS,
    FLAG_TIME_TO_LIVE, InvalidCommand, KIND_CLOSE_SESSION, KIND_COMPACT, KIND_DELETE_RANGE, KIND_EXPIRE,
    KIND_GRANT_LEASE, KIND_KEEP_LEASE_ALIVE, KIND_OPEN_SESSION, KIND_PUT, KIND_RAISE_FORMAT, KIND_REVOKE_LEASE,
    KIND_TRANSACTION, KeyRange, LeaseBinding, LeaseLimits, NESTING_MAX, Operation, Put, RangeLimits, RangeRead,
    Relation, SessionCall, SortBy, Transaction, TransactionError, UnknownFeature, VERSION_WITHOUT_TIME,
};

/// The fewest bytes that a compare or an operation has, for room that a count promises to need.
const PART_BYTES_MIN: usize = 6;

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

    /// The cluster's time when the batch was laid, in milliseconds since 1970, if the batch carries it.
    #[must_use]
    pub fn time_ms(&self) -> Option<u64> {
        self.time_ms
    }

    fn next_item(&mut self) -> Result<BatchItem<'a>, DecodeError> {
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
        decode_item(bytes)
    }
}

impl<'a> Iterator for BatchDecoder<'a> {
    type Item = Result<BatchItem<'a>, DecodeError>;

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
        let item = self.next_item();
        if item.is_err() && self.remaining == remaining {
            // Not even the length could be read.
            self.remaining = 0;
            self.reader = Reader { bytes: &[] };
        }
        Some(item)
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

fn decode_item(bytes: &[u8]) -> Result<BatchItem<'_>, DecodeError> {
    let mut reader = Reader { bytes };
    let kind = reader.u8()?;
    let (session, sequence) = (reader.u64()?, reader.u64()?);
    let session = match (session, sequence) {
        (0, _) => None,
        (_, 0) => return Err(InvalidCommand::Zero { what: "the number of a command in its session" }.into()),
        _ => Some(SessionCall { session, sequence, oldest: reader.u64()? }),
    };
    let command = decode_command(kind, &mut reader)?;
    match reader.bytes.len() {
        0 => Ok(BatchItem { session, command }),
        count => Err(InvalidCommand::TrailingBytes { count }.into()),
    }
}

fn decode_command<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Command<'a>, DecodeError> {
    Ok(match kind {
        KIND_PUT => Command::Put(decode_put(reader)?),
        KIND_DELETE_RANGE => {
            let flags = known_flags(KIND_DELETE_RANGE, reader.u8()?, FLAG_PREVIOUS | FLAG_END)?;
            let limits = decode_limits(reader)?;
            let range = decode_range(reader, flags)?;
            Command::DeleteRange { range, limits, previous: flags & FLAG_PREVIOUS != 0 }
        }
        KIND_RAISE_FORMAT => Command::RaiseFormat { to: reader.u32()? },
        KIND_TRANSACTION => {
            let limits = decode_limits(reader)?;
            let transaction = decode_transaction(reader, 1)?;
            transaction.check()?;
            Command::Transaction { transaction, limits }
        }
        KIND_GRANT_LEASE => Command::GrantLease {
            id: reader.u64()?,
            ttl_ms: reader.positive("the time to live of a lease")?,
            limits: LeaseLimits { leases_max: reader.u32()?, keys_max: reader.u32()? },
        },
        KIND_KEEP_LEASE_ALIVE => Command::KeepLeaseAlive { id: reader.u64()? },
        KIND_REVOKE_LEASE => Command::RevokeLease { id: reader.u64()? },
        KIND_EXPIRE => {
            Command::Expire { leases_max: reader.u32()?, sessions_max: reader.u32()?, keys_max: reader.u32()? }
        }
        KIND_COMPACT => Command::Compact { revision: reader.u64()? },
        KIND_OPEN_SESSION => Command::OpenSession {
            ttl_ms: reader.positive("the time to live of a session")?,
            sessions_max: reader.u32()?,
            answers_max: reader.u32()?,
        },
        KIND_CLOSE_SESSION => Command::CloseSession { id: reader.u64()? },
        found => return Err(UnknownFeature::Kind { found }.into()),
    })
}

fn decode_put<'a>(reader: &mut Reader<'a>) -> Result<Put<'a>, DecodeError> {
    let known = FLAG_PREVIOUS | FLAG_TIME_TO_LIVE | FLAG_KEEP_LEASE | FLAG_KEEP_VALUE;
    let flags = known_flags(KIND_PUT, reader.u8()?, known)?;
    let lease = match (flags & (FLAG_TIME_TO_LIVE | FLAG_KEEP_LEASE), reader.u64()?) {
        (0, 0) => LeaseBinding::None,
        (0, id) => LeaseBinding::Lease(id),
        (FLAG_TIME_TO_LIVE, 0) => return Err(InvalidCommand::Zero { what: "the time to live of a key" }.into()),
        (FLAG_TIME_TO_LIVE, ttl_ms) => LeaseBinding::TimeToLive { ttl_ms },
        (FLAG_KEEP_LEASE, 0) => LeaseBinding::Keep,
        _ => return Err(InvalidCommand::LeaseTwice.into()),
    };
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
    let value = match (flags & FLAG_KEEP_VALUE != 0, value.len()) {
        (false, _) => Some(value),
        (true, 0) => None,
        (true, count) => return Err(InvalidCommand::TrailingBytes { count }.into()),
    };
    Ok(Put { key, value, lease, condition, previous: flags & FLAG_PREVIOUS != 0 })
}

fn decode_limits(reader: &mut Reader<'_>) -> Result<RangeLimits, InvalidCommand> {
    Ok(RangeLimits { keys_max: reader.u32()?, bytes_max: reader.u64()? })
}

fn decode_range<'a>(reader: &mut Reader<'a>, flags: u8) -> Result<KeyRange<'a>, InvalidCommand> {
    let start = reader.prefixed()?;
    let end = if flags & FLAG_END != 0 { Some(reader.prefixed()?) } else { None };
    Ok(KeyRange { start, end })
}

fn decode_transaction<'a>(reader: &mut Reader<'a>, depth: usize) -> Result<Transaction<'a>, DecodeError> {
    if depth > NESTING_MAX {
        return Err(InvalidCommand::from(TransactionError::TooDeep).into());
    }
    let count = reader.count()?;
    let mut compares = Vec::with_capacity(count);
    for _ in 0..count {
        compares.push(decode_compare(reader)?);
    }
    let [success, failure] = [decode_operations(reader, depth)?, decode_operations(reader, depth)?];
    Ok(Transaction { compares, success, failure })
}

fn decode_compare<'a>(reader: &mut Reader<'a>) -> Result<Compare<'a>, DecodeError> {
    let flags = known_flags(KIND_TRANSACTION, reader.u8()?, FLAG_END)?;
    let range = decode_range(reader, flags)?;
    let relation = match reader.u8()? {
        1 => Relation::Equal,
        2 => Relation::NotEqual,
        3 => Relation::Less,
        4 => Relation::Greater,
        found => return Err(UnknownFeature::TransactionPart { part: "relation", found }.into()),
    };
    let target = match reader.u8()? {
        COMPARE_VERSION => CompareTarget::Version(reader.u64()?),
        COMPARE_CREATE_REVISION => CompareTarget::CreateRevision(reader.u64()?),
        COMPARE_MOD_REVISION => CompareTarget::ModRevision(reader.u64()?),
        COMPARE_LEASE => CompareTarget::Lease(reader.u64()?),
        COMPARE_VALUE => CompareTarget::Value(reader.prefixed()?),
        found => return Err(UnknownFeature::TransactionPart { part: "comparison", found }.into()),
    };
    Ok(Compare { range, target, relation })
}

fn decode_operations<'a>(reader: &mut Reader<'a>, depth: usize) -> Result<Vec<Operation<'a>>, DecodeError> {
    let count = reader.count()?;
    let mut operations = Vec::with_capacity(count);
    for _ in 0..count {
        operations.push(match reader.u8()? {
            OPERATION_PUT => Operation::Put(decode_put(reader)?),
            OPERATION_DELETE_RANGE => {
                let flags = known_flags(KIND_TRANSACTION, reader.u8()?, FLAG_PREVIOUS | FLAG_END)?;
                Operation::DeleteRange { range: decode_range(reader, flags)?, previous: flags & FLAG_PREVIOUS != 0 }
            }
            OPERATION_RANGE => Operation::Range(decode_range_read(reader)?),
            OPERATION_TRANSACTION => Operation::Transaction(decode_transaction(reader, depth + 1)?),
            found => return Err(UnknownFeature::TransactionPart { part: "operation", found }.into()),
        });
    }
    Ok(operations)
}

const READ_FLAGS: u8 = READ_DESCENDING | READ_KEYS_ONLY | READ_COUNT_ONLY | READ_UNCOUNTED;

fn decode_range_read<'a>(reader: &mut Reader<'a>) -> Result<RangeRead<'a>, DecodeError> {
    let flags = known_flags(KIND_TRANSACTION, reader.u8()?, FLAG_END)?;
    let range = decode_range(reader, flags)?;
    let flags = known_flags(KIND_TRANSACTION, reader.u8()?, READ_FLAGS)?;
    let sort_by = match reader.u8()? {
        0 => SortBy::Key,
        1 => SortBy::Version,
        2 => SortBy::CreateRevision,
        3 => SortBy::ModRevision,
        4 => SortBy::Value,
        found => return Err(UnknownFeature::TransactionPart { part: "sorting", found }.into()),
    };
    let present = known_flags(KIND_TRANSACTION, reader.u8()?, (1 << READ_NUMBERS) - 1)?;
    let mut numbers = [None; READ_NUMBERS];
    for (place, number) in numbers.iter_mut().enumerate() {
        if present & (1 << place) != 0 {
            *number = Some(reader.u64()?);
        }
    }
    let [revision, limit, mod_revision_min, mod_revision_max, create_revision_min, create_revision_max] = numbers;
    Ok(RangeRead {
        range,
        revision,
        limit,
        sort_by,
        descending: flags & READ_DESCENDING != 0,
        keys_only: flags & READ_KEYS_ONLY != 0,
        count_only: flags & READ_COUNT_ONLY != 0,
        count: flags & READ_UNCOUNTED == 0,
        mod_revision_min,
        mod_revision_max,
        create_revision_min,
        create_revision_max,
    })
}

fn known_flags(kind: u8, flags: u8, known: u8) -> Result<u8, UnknownFeature> {
    match flags & !known {
        0 => Ok(flags),
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

    fn positive(&mut self, what: &'static str) -> Result<u64, InvalidCommand> {
        match self.u64()? {
            0 => Err(InvalidCommand::Zero { what }),
            number => Ok(number),
        }
    }

    fn length(&mut self) -> Result<usize, InvalidCommand> {
        let length = self.u32()?;
        Ok(usize::try_from(length).expect("usize has at least 32 bits on every platform this runs on"))
    }

    /// A number of parts that follow. One that the bytes left cannot hold is refused before memory is taken for it.
    fn count(&mut self) -> Result<usize, InvalidCommand> {
        let count = self.length()?;
        let (needed, available) = (count.saturating_mul(PART_BYTES_MIN), self.bytes.len());
        if needed > available { Err(InvalidCommand::Truncated { needed, available }) } else { Ok(count) }
    }

    fn prefixed(&mut self) -> Result<&'a [u8], InvalidCommand> {
        let length = self.length()?;
        self.take(length)
    }
}
