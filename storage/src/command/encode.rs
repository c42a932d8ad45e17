//! Laying commands out.

use super::{
    BATCH_HEADER_BYTES, BATCH_VERSION, CONDITION_ABSENT, CONDITION_MOD_REVISION, CONDITION_NONE, CONDITION_VALUE,
    Command, Compare, CompareTarget, Condition, FLAG_END, FLAG_KEEP_LEASE, FLAG_KEEP_VALUE, FLAG_PREVIOUS,
    FLAG_TIME_TO_LIVE, KIND_CLOSE_SESSION, KIND_COMPACT, KIND_DELETE_RANGE, KIND_EXPIRE, KIND_GRANT_LEASE,
    KIND_KEEP_LEASE_ALIVE, KIND_OPEN_SESSION, KIND_PUT, KIND_RAISE_FORMAT, KIND_REVOKE_LEASE, KIND_TRANSACTION,
    KeyRange, LeaseBinding, Operation, Put, RangeRead, SessionCall, TIME_BYTES, Transaction, VERSION_WITHOUT_TIME,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length, kind, session, sequence, oldest: what precedes the body of a command, at most.
const COMMAND_HEADER_BYTES: usize = 29;

pub(super) const OPERATION_PUT: u8 = 1;
pub(super) const OPERATION_DELETE_RANGE: u8 = 2;
pub(super) const OPERATION_RANGE: u8 = 3;
pub(super) const OPERATION_TRANSACTION: u8 = 4;

pub(super) const COMPARE_VERSION: u8 = 1;
pub(super) const COMPARE_CREATE_REVISION: u8 = 2;
pub(super) const COMPARE_MOD_REVISION: u8 = 3;
pub(super) const COMPARE_VALUE: u8 = 4;
pub(super) const COMPARE_LEASE: u8 = 5;

/// Of a range read.
pub(super) const READ_DESCENDING: u8 = 1 << 0;
pub(super) const READ_KEYS_ONLY: u8 = 1 << 1;
pub(super) const READ_COUNT_ONLY: u8 = 1 << 2;
pub(super) const READ_UNCOUNTED: u8 = 1 << 3;
/// Which of the optional numbers of a range read follow, in this order: revision, limit, and the four bounds of revisions.
pub(super) const READ_NUMBERS: usize = 6;

/// One command, laid out, with what whoever proposes it has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedCommand {
    bytes: Bytes,
    format: u32,
    values_held: u32,
    is_growth: bool,
}

impl EncodedCommand {
    /// Lays `command` out. Limits on keys and values are the caller's.
    ///
    /// # Panics
    /// If a part is longer than 4 GiB.
    #[must_use]
    pub fn new(command: &Command<'_>, session: Option<SessionCall>) -> EncodedCommand {
        let mut out = BytesMut::with_capacity(COMMAND_HEADER_BYTES + 32 + payload_bytes(command));
        put_command(&mut out, command, session);
        let format = if session.is_some() { crate::state::FORMAT_WITH_TRANSACTIONS } else { 0 };
        EncodedCommand {
            bytes: out.freeze(),
            format: format.max(command.format()),
            values_held: command.values_held(),
            is_growth: is_growth(command, session.is_some()),
        }
    }

    /// The oldest format in effect in which it may be written to the log.
    #[must_use]
    pub fn format(&self) -> u32 {
        self.format
    }

    /// How many values applying it may have in memory: see [`Command::values_held`].
    #[must_use]
    pub fn values_held(&self) -> u32 {
        self.values_held
    }

    /// Whether it can add data: what is refused when there is no room.
    #[must_use]
    pub fn is_growth(&self) -> bool {
        self.is_growth
    }

    /// Bytes that it takes in a batch.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }
}

fn is_growth(command: &Command<'_>, in_session: bool) -> bool {
    match command {
        Command::Put(_) | Command::GrantLease { .. } | Command::OpenSession { .. } => true,
        // The answer to what comes in a session is kept, and as large as what it reads.
        Command::Transaction { transaction, .. } => transaction.puts() || (in_session && transaction.reads()),
        Command::DeleteRange { .. }
        | Command::RaiseFormat { .. }
        | Command::KeepLeaseAlive { .. }
        | Command::RevokeLease { .. }
        | Command::Expire { .. }
        | Command::Compact { .. }
        | Command::CloseSession { .. } => false,
    }
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

    /// Appends one command that comes in no session. Limits on keys and values are the caller's; lengths beyond 4 GiB are a bug of the caller.
    pub fn append(&mut self, command: &Command<'_>) {
        self.begin();
        self.buffer.reserve(COMMAND_HEADER_BYTES + 32 + payload_bytes(command));
        put_command(&mut self.buffer, command, None);
        self.added();
    }

    /// Appends one command that is laid out already.
    pub fn append_encoded(&mut self, command: &EncodedCommand) {
        self.begin();
        self.buffer.extend_from_slice(&command.bytes);
        self.added();
    }

    fn begin(&mut self) {
        if self.count == 0 {
            self.buffer.clear();
            self.buffer.put_bytes(0, BATCH_HEADER_BYTES);
        }
    }

    fn added(&mut self) {
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

    /// The finished batch, with the cluster's time in milliseconds since 1970; the encoder is empty afterwards.
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
}

/// Appends the whole command, its length first.
fn put_command(out: &mut BytesMut, command: &Command<'_>, session: Option<SessionCall>) {
    let length_at = out.len();
    out.put_u32(0);
    out.put_u8(kind(command));
    match session {
        None => out.put_bytes(0, 16),
        Some(SessionCall { session, sequence, oldest }) => {
            assert!(session > 0 && sequence > 0, "session {session}, command {sequence}: both count from one");
            out.put_u64(session);
            out.put_u64(sequence);
            out.put_u64(oldest);
        }
    }
    put_body(out, command);
    let length = out.len() - length_at - 4;
    out[length_at..length_at + 4].copy_from_slice(&length_u32(length).to_be_bytes());
}

fn kind(command: &Command<'_>) -> u8 {
    match command {
        Command::Put(_) => KIND_PUT,
        Command::DeleteRange { .. } => KIND_DELETE_RANGE,
        Command::RaiseFormat { .. } => KIND_RAISE_FORMAT,
        Command::Transaction { .. } => KIND_TRANSACTION,
        Command::GrantLease { .. } => KIND_GRANT_LEASE,
        Command::KeepLeaseAlive { .. } => KIND_KEEP_LEASE_ALIVE,
        Command::RevokeLease { .. } => KIND_REVOKE_LEASE,
        Command::Expire { .. } => KIND_EXPIRE,
        Command::Compact { .. } => KIND_COMPACT,
        Command::OpenSession { .. } => KIND_OPEN_SESSION,
        Command::CloseSession { .. } => KIND_CLOSE_SESSION,
    }
}

fn put_body(out: &mut BytesMut, command: &Command<'_>) {
    match command {
        Command::Put(put) => put_put(out, put),
        Command::DeleteRange { range, limits, previous } => {
            out.put_u8(range_flags(range, *previous));
            out.put_u32(limits.keys_max);
            out.put_u64(limits.bytes_max);
            put_range(out, range);
        }
        Command::RaiseFormat { to } => out.put_u32(*to),
        Command::Transaction { transaction, limits } => {
            out.put_u32(limits.keys_max);
            out.put_u64(limits.bytes_max);
            put_transaction(out, transaction);
        }
        Command::GrantLease { id, ttl_ms, limits } => {
            out.put_u64(*id);
            out.put_u64(*ttl_ms);
            out.put_u32(limits.leases_max);
            out.put_u32(limits.keys_max);
        }
        Command::KeepLeaseAlive { id } | Command::RevokeLease { id } | Command::CloseSession { id } => out.put_u64(*id),
        Command::Expire { leases_max, sessions_max, keys_max } => {
            out.put_u32(*leases_max);
            out.put_u32(*sessions_max);
            out.put_u32(*keys_max);
        }
        Command::Compact { revision } => out.put_u64(*revision),
        Command::OpenSession { ttl_ms, sessions_max, answers_max } => {
            out.put_u64(*ttl_ms);
            out.put_u32(*sessions_max);
            out.put_u32(*answers_max);
        }
    }
}

fn put_put(out: &mut BytesMut, put: &Put<'_>) {
    let (lease_flag, lease) = match put.lease {
        LeaseBinding::None => (0, 0),
        LeaseBinding::Lease(id) => (0, id),
        LeaseBinding::TimeToLive { ttl_ms } => (FLAG_TIME_TO_LIVE, ttl_ms),
        LeaseBinding::Keep => (FLAG_KEEP_LEASE, 0),
    };
    let previous = if put.previous { FLAG_PREVIOUS } else { 0 };
    let keep_value = if put.value.is_none() { FLAG_KEEP_VALUE } else { 0 };
    out.put_u8(previous | lease_flag | keep_value);
    out.put_u64(lease);
    put_condition(out, put.condition.as_ref());
    put_bytes(out, put.key);
    put_bytes(out, put.value.unwrap_or_default());
}

fn put_condition(out: &mut BytesMut, condition: Option<&Condition<'_>>) {
    match condition {
        None => out.put_u8(CONDITION_NONE),
        Some(Condition::Absent) => out.put_u8(CONDITION_ABSENT),
        Some(Condition::ModRevision(revision)) => {
            out.put_u8(CONDITION_MOD_REVISION);
            out.put_u64(*revision);
        }
        Some(Condition::Value(value)) => {
            out.put_u8(CONDITION_VALUE);
            put_bytes(out, value);
        }
    }
}

fn range_flags(range: &KeyRange<'_>, previous: bool) -> u8 {
    let end = if range.end.is_some() { FLAG_END } else { 0 };
    if previous { FLAG_PREVIOUS | end } else { end }
}

fn put_range(out: &mut BytesMut, range: &KeyRange<'_>) {
    put_bytes(out, range.start);
    if let Some(end) = range.end {
        put_bytes(out, end);
    }
}

fn put_transaction(out: &mut BytesMut, transaction: &Transaction<'_>) {
    let Transaction { compares, success, failure } = transaction;
    out.put_u32(length_u32(compares.len()));
    compares.iter().for_each(|compare| put_compare(out, compare));
    for operations in [success, failure] {
        out.put_u32(length_u32(operations.len()));
        operations.iter().for_each(|operation| put_operation(out, operation));
    }
}

fn put_compare(out: &mut BytesMut, compare: &Compare<'_>) {
    out.put_u8(range_flags(&compare.range, false));
    put_range(out, &compare.range);
    out.put_u8(compare.relation as u8);
    let (target, number) = match compare.target {
        CompareTarget::Version(number) => (COMPARE_VERSION, number),
        CompareTarget::CreateRevision(number) => (COMPARE_CREATE_REVISION, number),
        CompareTarget::ModRevision(number) => (COMPARE_MOD_REVISION, number),
        CompareTarget::Lease(number) => (COMPARE_LEASE, number),
        CompareTarget::Value(value) => {
            out.put_u8(COMPARE_VALUE);
            return put_bytes(out, value);
        }
    };
    out.put_u8(target);
    out.put_u64(number);
}

fn put_operation(out: &mut BytesMut, operation: &Operation<'_>) {
    match operation {
        Operation::Put(put) => {
            out.put_u8(OPERATION_PUT);
            put_put(out, put);
        }
        Operation::DeleteRange { range, previous } => {
            out.put_u8(OPERATION_DELETE_RANGE);
            out.put_u8(range_flags(range, *previous));
            put_range(out, range);
        }
        Operation::Range(read) => {
            out.put_u8(OPERATION_RANGE);
            put_range_read(out, read);
        }
        Operation::Transaction(transaction) => {
            out.put_u8(OPERATION_TRANSACTION);
            put_transaction(out, transaction);
        }
    }
}

fn put_range_read(out: &mut BytesMut, read: &RangeRead<'_>) {
    out.put_u8(range_flags(&read.range, false));
    put_range(out, &read.range);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.put_u8(
        flag(read.descending, READ_DESCENDING)
            | flag(read.keys_only, READ_KEYS_ONLY)
            | flag(read.count_only, READ_COUNT_ONLY)
            | flag(!read.count, READ_UNCOUNTED),
    );
    out.put_u8(read.sort_by as u8);
    let numbers: [Option<u64>; READ_NUMBERS] = [
        read.revision,
        read.limit,
        read.mod_revision_min,
        read.mod_revision_max,
        read.create_revision_min,
        read.create_revision_max,
    ];
    let present = numbers.iter().enumerate().map(|(place, number)| u8::from(number.is_some()) << place).sum();
    out.put_u8(present);
    numbers.into_iter().flatten().for_each(|number| out.put_u64(number));
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(length_u32(bytes.len()));
    out.put_slice(bytes);
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("keys and values are limited to megabytes before they are encoded")
}

/// About how many bytes the body has; a transaction grows as it is laid out.
fn payload_bytes(command: &Command<'_>) -> usize {
    match command {
        Command::Put(Put { key, value, condition, .. }) => {
            let expected = if let Some(Condition::Value(value)) = condition { value.len() } else { 0 };
            key.len() + value.map_or(0, <[u8]>::len) + expected
        }
        Command::DeleteRange { range, .. } => range.start.len() + range.end.map_or(0, <[u8]>::len),
        Command::Transaction { transaction, .. } => 64 * transaction.operations(),
        Command::RaiseFormat { .. }
        | Command::GrantLease { .. }
        | Command::KeepLeaseAlive { .. }
        | Command::RevokeLease { .. }
        | Command::Expire { .. }
        | Command::Compact { .. }
        | Command::OpenSession { .. }
        | Command::CloseSession { .. } => 0,
    }
}
