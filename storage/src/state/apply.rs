//! Applying a run of log entries: one batch for all of them.
//!
//! Later commands must see what earlier ones of the same run wrote, but the engine shows a batch only once it is written. So a run
//! starts by loading what every single-key command of it will touch, in one go, into an *overlay*; range deletes add what they
//! find. From then on the overlay is the truth and the engine what the overlay does not know.
//!
//! What is neither data nor membership, the format in effect and the cluster's time, is carried along in [`Clockwork`] and written when it changes.
//!
//! A membership entry replaces the row `membership` as a whole: memberships are complete, not differences.
//!
//! The hash is chained per entry, over the hash before it, the entry's position and the bytes of every mutation, the overwritten
//! values included. It does not depend on how entries are grouped into runs, and a node whose stored values differ finds out
//! when they are overwritten at the latest.
//!
//! A range delete holds everything it deletes in memory, values included, until the run is written. What bounds it are the limits
//! that lie in the log with the command: the range is counted while it is read, and as soon as it holds more, reading ends and the
//! command has changed nothing. What a command of the same run has put or deleted counts as it would after that run, so the
//! outcome does not depend on how entries are grouped either.
//!
//! Caveat: the limits are those of one command. Who cuts the runs has to see to it that not many range deletes come into one
//! ([`applies_alone`](crate::command::applies_alone)).

use super::engine::{Batch, Cursor, Engine, EngineError, Snapshot, Table};
use super::error::{CorruptRow, StateError};
use super::layout::{self, ChangeKind, KeyValue, RECORD_HEADER_BYTES, RecordHeader};
use super::meta::{self, Progress};
use super::outcome::CommandOutcome;
use crate::command::{
    BatchDecoder, BatchItem, Command, Condition, DecodeError, InvalidCommand, KeyRange, LeaseBinding, Put, RangeLimits,
};
use bytes::Bytes;
use raft::{Entry, EntryKind, LogPosition, Membership, MembershipError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use xxhash_rust::xxh3::Xxh3;

/// About what a command costs in the batch beyond its payload: keys written three times, headers, revisions.
const BATCH_BYTES_PER_COMMAND: usize = 192;

/// One entry of a run, decoded.
struct DecodedEntry<'a> {
    position: LogPosition,
    /// The end of its commands in [`DecodedRun::commands`].
    commands_end: usize,
    /// The membership it carries, encoded.
    membership: Option<&'a [u8]>,
    /// The leader's clock when it was proposed.
    time_ms: Option<u64>,
}

/// What every node agrees on beside data and membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clockwork {
    /// The format in effect.
    pub(crate) format: u32,
    /// The cluster's time in milliseconds since 1970: the greatest of any batch; zero before the first.
    pub(crate) time_ms: u64,
}

/// The entries of a run, decoded.
pub(crate) struct DecodedRun<'a> {
    entries: Vec<DecodedEntry<'a>>,
    commands: Vec<Result<BatchItem<'a>, InvalidCommand>>,
    payload_bytes: usize,
    /// The last membership in it.
    membership: Option<Membership>,
}

impl<'a> DecodedRun<'a> {
    /// Decodes all entries, or fails at what must not be applied, before anything is.
    pub(crate) fn decode(entries: &'a [Entry], format_max: u32) -> Result<DecodedRun<'a>, StateError> {
        let mut run = DecodedRun {
            entries: Vec::with_capacity(entries.len()),
            commands: Vec::new(),
            payload_bytes: 0,
            membership: None,
        };
        for entry in entries {
            run.payload_bytes += entry.payload.len();
            let (mut membership, mut time_ms) = (None, None);
            match entry.kind {
                EntryKind::Noop => {}
                EntryKind::Membership => {
                    run.membership = Some(decode_membership(entry)?);
                    membership = Some(&entry.payload[..]);
                }
                EntryKind::Command => {
                    let decoder = BatchDecoder::new(&entry.payload);
                    time_ms = decoder.time_ms();
                    for command in decoder {
                        run.commands.push(match command {
                            Ok(BatchItem { command: Command::RaiseFormat { to }, .. }) if to > format_max => {
                                return Err(StateError::UnknownFormat { found: to, known: format_max });
                            }
                            Ok(command) => Ok(command),
                            Err(DecodeError::Invalid(invalid)) => Err(invalid),
                            Err(DecodeError::Unknown(feature)) => {
                                return Err(StateError::UnknownFeature { index: entry.index, feature });
                            }
                        });
                    }
                }
            }
            let (position, commands_end) = (entry.position(), run.commands.len());
            run.entries.push(DecodedEntry { position, commands_end, membership, time_ms });
        }
        Ok(run)
    }

    /// The membership after the run, if the run changes it.
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// The keys of all single-key commands, ascending and distinct.
    fn keys(&self) -> Vec<&'a [u8]> {
        let mut keys = Vec::with_capacity(self.commands.len());
        for item in self.commands.iter().flatten() {
            match &item.command {
                Command::Put(put) => keys.push(put.key),
                Command::DeleteRange { range, .. } => keys.extend(range.single_key()),
                Command::Transaction { transaction, .. } => transaction.single_keys(&mut |key| keys.push(key)),
                Command::RaiseFormat { .. }
                | Command::GrantLease { .. }
                | Command::KeepLeaseAlive { .. }
                | Command::RevokeLease { .. }
                | Command::Expire { .. }
                | Command::Compact { .. }
                | Command::OpenSession { .. }
                | Command::CloseSession { .. } => {}
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// The membership that an entry carries. Nobody proposes one without voters.
fn decode_membership(entry: &Entry) -> Result<Membership, StateError> {
    let decoded = Membership::decode(&entry.payload);
    let decoded = decoded.and_then(|it| if it.is_empty() { Err(MembershipError::Contradiction) } else { Ok(it) });
    decoded.map_err(|cause| StateError::MembershipChange { index: entry.index, cause })
}

/// What a key holds in the middle of a run.
struct Slot<'a> {
    header: RecordHeader,
    value: SlotValue<'a>,
}

enum SlotValue<'a> {
    /// Loaded: the whole record.
    Stored(Bytes),
    /// Put earlier in the run: the value, still in the log entry.
    Logged(&'a [u8]),
}

impl<'a> Slot<'a> {
    fn stored(key: &[u8], record: Bytes) -> Result<Slot<'a>, CorruptRow> {
        let header = RecordHeader::decode(&record);
        let header = header.map_err(|cause| CorruptRow::new(Table::Current, key, cause))?;
        Ok(Slot { header, value: SlotValue::Stored(record) })
    }

    fn value(&self) -> &[u8] {
        match &self.value {
            SlotValue::Stored(record) => &record[RECORD_HEADER_BYTES..],
            SlotValue::Logged(value) => value,
        }
    }

    fn key_value(&self, key: &[u8]) -> KeyValue {
        let value = match &self.value {
            SlotValue::Stored(record) => record.slice(RECORD_HEADER_BYTES..),
            SlotValue::Logged(value) => Bytes::copy_from_slice(value),
        };
        KeyValue::new(Bytes::copy_from_slice(key), self.header, value)
    }
}

/// A run under way.
pub(crate) struct Run<'a, E: Engine> {
    engine: &'a E,
    progress: Progress,
    clockwork: Clockwork,
    /// What is known of keys: `None` if they do not exist.
    overlay: BTreeMap<Cow<'a, [u8]>, Option<Slot<'a>>>,
    writer: Writer<E::Batch<'a>>,
}

impl<'a, E: Engine> Run<'a, E> {
    /// Loads what the commands will touch.
    pub(crate) fn start(
        engine: &'a E,
        progress: Progress,
        clockwork: Clockwork,
        run: &DecodedRun<'a>,
    ) -> Result<Run<'a, E>, StateError> {
        let keys = run.keys();
        let records = match keys[..] {
            [] => Vec::new(),
            [key] => vec![engine.load(Table::Current, key)?],
            _ => engine.load_many(Table::Current, &keys)?,
        };
        assert_eq!(records.len(), keys.len(), "the engine answered for another number of keys than asked");
        let slot = |(key, record): (&'a [u8], Option<Bytes>)| {
            let slot = record.map(|record| Slot::stored(key, record)).transpose()?;
            Ok::<_, CorruptRow>((Cow::Borrowed(key), slot))
        };
        let overlay = keys.into_iter().zip(records).map(slot).collect::<Result<_, _>>()?;
        let bytes_hint = run.payload_bytes + run.commands.len() * BATCH_BYTES_PER_COMMAND;
        Ok(Run { engine, progress, clockwork, overlay, writer: Writer::new(engine.batch(bytes_hint)) })
    }

    /// Applies entry after entry, and hands out the outcomes of each.
    pub(crate) fn apply(
        &mut self,
        run: &DecodedRun<'a>,
        mut outcome: impl FnMut(LogPosition, Vec<CommandOutcome>),
    ) -> Result<(), StateError> {
        let mut first = 0;
        for DecodedEntry { position, commands_end, membership, time_ms } in &run.entries {
            self.writer.start_entry(&self.progress.state_hash, *position);
            if let Some(time_ms) = time_ms.filter(|time_ms| *time_ms > self.clockwork.time_ms) {
                self.clockwork.time_ms = time_ms;
                self.writer.meta(meta::TIME, &time_ms.to_be_bytes());
            }
            if let Some(membership) = membership {
                self.writer.membership(membership);
            }
            let commands = &run.commands[first..*commands_end];
            let mut results = Vec::with_capacity(commands.len());
            for command in commands {
                results.push(self.command(command)?);
            }
            first = *commands_end;
            self.progress.applied = *position;
            self.progress.state_hash = self.writer.hasher.digest128().to_be_bytes();
            outcome(*position, results);
        }
        Ok(())
    }

    /// Writes everything, together with how far it brings the state.
    pub(crate) fn finish(self) -> Result<(Progress, Clockwork), EngineError> {
        let Run { engine, progress, clockwork, mut writer, .. } = self;
        writer.batch.put(Table::Meta, meta::PROGRESS, &progress.encode());
        engine.write(writer.batch)?;
        Ok((progress, clockwork))
    }

    fn command(&mut self, item: &Result<BatchItem<'a>, InvalidCommand>) -> Result<CommandOutcome, StateError> {
        let item = match item {
            Ok(item) => item,
            Err(reason) => return Ok(CommandOutcome::Invalid { reason: *reason }),
        };
        match &item.command {
            Command::Put(put) => Ok(self.put(put)),
            Command::DeleteRange { range, limits, previous } => match range.single_key() {
                Some(key) => Ok(self.delete_key(key, *previous)),
                None => self.delete_range(*range, *limits, *previous),
            },
            Command::RaiseFormat { to } => {
                let to = *to;
                // One step at a time. A leader that did not know of an earlier raise may ask for it again.
                if to == self.clockwork.format + 1 {
                    self.clockwork.format = to;
                    self.writer.meta(meta::FORMAT, &to.to_be_bytes());
                }
                Ok(CommandOutcome::FormatRaised { format: self.clockwork.format })
            }
            Command::Transaction { .. }
            | Command::GrantLease { .. }
            | Command::KeepLeaseAlive { .. }
            | Command::RevokeLease { .. }
            | Command::Expire { .. }
            | Command::Compact { .. }
            | Command::OpenSession { .. }
            | Command::CloseSession { .. } => {
                unreachable!("commands of format 4 are not written before the format in effect is 4")
            }
        }
    }

    fn put(&mut self, put: &Put<'a>) -> CommandOutcome {
        let Put { key, value, lease, condition, previous } = *put;
        let value = value.expect("a put that keeps the value is of format 4");
        let lease = if let LeaseBinding::Lease(id) = lease { id } else { 0 };
        let slot = self.overlay.get_mut(key).expect("every key of the run was loaded when it started");
        if condition.is_some_and(|condition| !holds(condition, slot.as_ref())) {
            return CommandOutcome::ConditionFailed { existing: slot.as_ref().map(|slot| slot.key_value(key)) };
        }
        let revision = self.progress.revision + 1;
        self.progress.revision = revision;
        let previous = slot.as_ref().filter(|_| previous).map(|slot| slot.key_value(key));
        let (create_revision, version) = match slot {
            Some(old) => {
                self.writer.supersede(key, old, revision);
                (old.header.create_revision, old.header.version + 1)
            }
            None => (revision, 1),
        };
        let header = RecordHeader { mod_revision: revision, create_revision, version, lease };
        self.writer.put(key, &header, value);
        *slot = Some(Slot { header, value: SlotValue::Logged(value) });
        CommandOutcome::Put { revision, previous }
    }

    fn delete_key(&mut self, key: &'a [u8], previous: bool) -> CommandOutcome {
        let slot = self.overlay.get_mut(key).expect("every key of the run was loaded when it started");
        let Some(old) = slot.take() else {
            return CommandOutcome::Deleted { count: 0, revision: self.progress.revision, previous: Vec::new() };
        };
        self.progress.revision += 1;
        let revision = self.progress.revision;
        self.writer.delete(key, &old, revision, 0);
        let previous = if previous { vec![old.key_value(key)] } else { Vec::new() };
        CommandOutcome::Deleted { count: 1, revision, previous }
    }

    fn delete_range(
        &mut self,
        range: KeyRange<'a>,
        limits: RangeLimits,
        previous: bool,
    ) -> Result<CommandOutcome, StateError> {
        let mut deleted = Vec::new();
        let mut count: u32 = 0;
        if !range.is_empty() {
            if !self.load_range(range, limits)? {
                let RangeLimits { keys_max, bytes_max } = limits;
                return Ok(CommandOutcome::LimitExceeded { keys_max, bytes_max });
            }
            let revision = self.progress.revision + 1;
            for (key, slot) in self.overlay.range_mut::<[u8], _>(bounds(range)) {
                let Some(old) = slot.take() else { continue };
                self.writer.delete(key, &old, revision, count);
                count += 1;
                if previous {
                    deleted.push(old.key_value(key));
                }
            }
            assert!(count <= limits.keys_max, "{count} keys deleted, at most {} were allowed", limits.keys_max);
        }
        if count > 0 {
            self.progress.revision += 1;
        }
        let revision = self.progress.revision;
        Ok(CommandOutcome::Deleted { count: u64::from(count), revision, previous: deleted })
    }

    /// Brings what the engine has in the range, and the overlay does not know better, into the overlay. False, and nothing is brought,
    /// if the range holds more than the limits.
    fn load_range(&mut self, range: KeyRange<'a>, limits: RangeLimits) -> Result<bool, StateError> {
        let mut size = RangeSize::default();
        for (key, slot) in self.overlay.range::<[u8], _>(bounds(range)) {
            if let Some(slot) = slot {
                size.add(key.len(), slot.value().len());
            }
        }
        let snapshot = self.engine.snapshot();
        let mut cursor = snapshot.cursor(Table::Current, range.start, range.end);
        let mut found = Vec::new();
        cursor.seek_first();
        while size.fits(limits)
            && let Some((key, record)) = cursor.item()
        {
            if !self.overlay.contains_key(key) {
                size.add(key.len(), record.len().saturating_sub(RECORD_HEADER_BYTES));
                // Before it is copied: this one may be the one too many.
                if size.fits(limits) {
                    found.push((Cow::Owned(key.to_vec()), Some(Slot::stored(key, Bytes::copy_from_slice(record))?)));
                }
            }
            cursor.next();
        }
        cursor.check()?;
        let fits = size.fits(limits);
        if fits {
            self.overlay.extend(found);
        }
        Ok(fits)
    }
}

fn bounds(range: KeyRange<'_>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(range.start), range.end.map_or(Bound::Unbounded, Bound::Excluded))
}

/// How much a range holds, as far as it has been read.
#[derive(Default)]
struct RangeSize {
    keys: u64,
    bytes: u64,
}

impl RangeSize {
    fn add(&mut self, key_bytes: usize, value_bytes: usize) {
        self.keys += 1;
        self.bytes += (key_bytes + value_bytes) as u64;
    }

    fn fits(&self, limits: RangeLimits) -> bool {
        self.keys <= u64::from(limits.keys_max) && self.bytes <= limits.bytes_max
    }
}

fn holds(condition: Condition<'_>, slot: Option<&Slot<'_>>) -> bool {
    match condition {
        Condition::Absent => slot.is_none(),
        Condition::ModRevision(revision) => slot.is_some_and(|slot| slot.header.mod_revision == revision),
        Condition::Value(value) => slot.is_some_and(|slot| slot.value() == value),
    }
}

/// Lays rows out, into the batch and into the hash.
struct Writer<B> {
    batch: B,
    hasher: Xxh3,
    row_key: Vec<u8>,
    record: Vec<u8>,
    change: Vec<u8>,
}

impl<B: Batch> Writer<B> {
    fn new(batch: B) -> Writer<B> {
        Writer { batch, hasher: Xxh3::new(), row_key: Vec::new(), record: Vec::new(), change: Vec::new() }
    }

    fn start_entry(&mut self, hash_before: &[u8; 16], position: LogPosition) {
        self.hasher.reset();
        self.hasher.update(hash_before);
        self.hasher.update(&position.index.0.to_be_bytes());
        self.hasher.update(&position.term.0.to_be_bytes());
    }

    /// Replaces a row that every node has.
    fn meta(&mut self, key: &[u8], value: &[u8]) {
        hash_row(&mut self.hasher, Table::Meta, key, value);
        self.batch.put(Table::Meta, key, value);
    }

    /// Moves what a key holds to history.
    fn supersede(&mut self, key: &[u8], old: &Slot<'_>, revision: u64) {
        self.row_key.clear();
        layout::history_key(key, revision, &mut self.row_key);
        let record = match &old.value {
            SlotValue::Stored(record) => &record[..],
            SlotValue::Logged(value) => {
                self.record.clear();
                old.header.encode(value, &mut self.record);
                &self.record[..]
            }
        };
        hash_row(&mut self.hasher, Table::History, &self.row_key, record);
        self.batch.put(Table::History, &self.row_key, record);
    }

    fn put(&mut self, key: &[u8], header: &RecordHeader, value: &[u8]) {
        self.record.clear();
        header.encode(value, &mut self.record);
        hash_row(&mut self.hasher, Table::Current, key, &self.record);
        self.batch.put(Table::Current, key, &self.record);
        self.change(ChangeKind::Put, key, header.mod_revision, 0);
    }

    /// Deletes a key, as the `number`th change of the revision.
    fn delete(&mut self, key: &[u8], old: &Slot<'_>, revision: u64, number: u32) {
        self.supersede(key, old, revision);
        self.batch.delete(Table::Current, key);
        self.change(ChangeKind::Delete, key, revision, number);
    }

    fn membership(&mut self, encoded: &[u8]) {
        hash_row(&mut self.hasher, Table::Meta, meta::MEMBERSHIP, encoded);
        self.batch.put(Table::Meta, meta::MEMBERSHIP, encoded);
    }

    fn change(&mut self, kind: ChangeKind, key: &[u8], revision: u64, number: u32) {
        self.change.clear();
        self.change.push(kind as u8);
        self.change.extend_from_slice(key);
        let row_key = layout::change_key(revision, number);
        hash_row(&mut self.hasher, Table::Changes, &row_key, &self.change);
        self.batch.put(Table::Changes, &row_key, &self.change);
    }
}

fn hash_row(hasher: &mut Xxh3, table: Table, key: &[u8], value: &[u8]) {
    let mut lengths = [0; 17];
    lengths[0] = table as u8;
    lengths[1..9].copy_from_slice(&(key.len() as u64).to_be_bytes());
    lengths[9..].copy_from_slice(&(value.len() as u64).to_be_bytes());
    hasher.update(&lengths);
    hasher.update(key);
    hasher.update(value);
}
