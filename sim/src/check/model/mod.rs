//! What the commands of the log mean: etcd's revisions, transactions and leases, and sessions, written down a second time.
//!
//! Every value that a key ever had is kept, so that a read can be compared with the state at the revision that it names, and every change in its
//! order, so that a watch can. It is slow and plain where the state machine is fast: no overlay, no rows, no index.
//!
//! The state machine of the reference must come to the same outcome for every command. What a client was told must be the reply that belongs to that outcome.

mod leases;
mod sessions;
mod transactions;

pub(crate) use transactions::select;

use crate::workload::MARK;
use bytes::Bytes;
use leases::Leases;
use raft::{Entry, EntryKind, LogIndex};
use sessions::Sessions;
use std::collections::BTreeMap;
use storage::command::{BatchDecoder, BatchItem, Command, Condition, KeyRange, LeaseBinding, Put, RangeLimits};
use storage::state::{CommandOutcome, KeyValue, STATE_FORMAT_OLDEST};

/// One command of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// The entry.
    pub(crate) index: LogIndex,
    /// The revision after it.
    pub(crate) revision: u64,
    /// Whether it took a revision of its own.
    pub(crate) changes: bool,
    pub(crate) kind: Kind,
    pub(crate) outcome: CommandOutcome,
    /// It had been carried out before, in the same session, under the same number.
    pub(crate) repeats: bool,
}

/// What makes a command the one that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Numbers of a session are a command's own.
    InSession { session: u64, sequence: u64 },
    /// Values are unique.
    Put { key: Bytes, value: Bytes },
    /// Deletes are told apart by their range only.
    Delete { start: Bytes, end: Option<Bytes> },
    /// The bytes of a transaction hold unique values.
    Transaction { puts: Vec<(Bytes, Bytes)> },
    /// What is asked for more than once, or by nobody: leases, sessions, compaction.
    Other,
}

impl Kind {
    /// Whether nobody else asked for the same.
    pub(crate) fn is_unique(&self) -> bool {
        match self {
            Kind::InSession { .. } | Kind::Put { .. } | Kind::Transaction { .. } => true,
            Kind::Delete { end, .. } => end.as_ref().is_some_and(|end| end.contains(&(MARK as u8))),
            Kind::Other => false,
        }
    }
}

/// Whether a command of a session was tried, as opposed to refused without a look at it.
pub(crate) fn was_tried(outcome: &CommandOutcome) -> bool {
    !matches!(
        outcome,
        CommandOutcome::SessionUnknown { .. }
            | CommandOutcome::AnswerForgotten { .. }
            | CommandOutcome::AnswersFull { .. }
    )
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Bytes,
    /// `None`: it was deleted.
    pub(crate) now: Option<KeyValue>,
    pub(crate) before: Option<KeyValue>,
}

/// Why a command changes nothing.
type Refusal = CommandOutcome;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Model {
    revision: u64,
    compacted: u64,
    time_ms: u64,
    format: u32,
    /// Each key's values by revision; `None`: deleted.
    keys: BTreeMap<Bytes, Vec<(u64, Option<KeyValue>)>>,
    leases: Leases,
    sessions: Sessions,
    /// All changes, in order.
    pub(crate) changes: Vec<Change>,
    /// The log's commands, in order.
    pub(crate) done: Vec<Done>,
}

impl Model {
    /// An empty state is at revision 1.
    pub(crate) fn new() -> Model {
        Model { revision: 1, format: STATE_FORMAT_OLDEST, ..Model::default() }
    }

    /// Takes in the next entry.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        if entry.kind != EntryKind::Command {
            return;
        }
        let batch = BatchDecoder::new(&entry.payload);
        self.time_ms = self.time_ms.max(batch.time_ms().unwrap_or(0));
        for item in batch {
            let item = item.unwrap_or_else(|error| panic!("entry {} does not decode: {error:?}", entry.index));
            let before = self.revision;
            let (outcome, repeats) = self.item(&item);
            let changes = self.revision > before;
            let kind = kind(&item);
            self.done.push(Done { index: entry.index, revision: self.revision, changes, kind, outcome, repeats });
        }
    }

    /// The commands of an entry, in order.
    pub(crate) fn done_at(&self, index: LogIndex) -> impl Iterator<Item = &Done> {
        let first = self.done.partition_point(|done| done.index < index);
        self.done[first..].iter().take_while(move |done| done.index == index)
    }

    fn item(&mut self, item: &BatchItem<'_>) -> (CommandOutcome, bool) {
        let Some(call) = item.session else { return (self.command(&item.command), false) };
        match self.sessions.begin(call, self.time_ms) {
            Ok(()) => {}
            Err(known) => return (known.outcome, known.is_answer),
        }
        let outcome = self.command(&item.command);
        self.sessions.answer(call, &outcome);
        (outcome, false)
    }

    fn command(&mut self, command: &Command<'_>) -> CommandOutcome {
        let done = match command {
            Command::Put(put) => self.put(put),
            Command::DeleteRange { range, limits, previous } => self.delete_range(*range, *limits, *previous),
            Command::RaiseFormat { to } => {
                if *to == self.format + 1 {
                    self.format = *to;
                }
                Ok(CommandOutcome::FormatRaised { format: self.format })
            }
            Command::Transaction { transaction, limits } => self.transaction(transaction, *limits),
            Command::GrantLease { id, ttl_ms, limits } => self.leases.grant(*id, *ttl_ms, *limits, self.time_ms),
            Command::KeepLeaseAlive { id } => self.leases.keep_alive(*id, self.time_ms),
            Command::RevokeLease { id } => self.revoke(*id),
            Command::Expire { leases_max, sessions_max, keys_max } => {
                Ok(self.expire(*leases_max, *sessions_max, *keys_max))
            }
            Command::Compact { revision } => self.compact(*revision),
            Command::OpenSession { ttl_ms, sessions_max, answers_max } => {
                self.sessions.open(*ttl_ms, *sessions_max, *answers_max, self.time_ms)
            }
            Command::CloseSession { id } => Ok(self.sessions.close(*id)),
        };
        done.unwrap_or_else(|refusal| refusal)
    }

    fn put(&mut self, put: &Put<'_>) -> Result<CommandOutcome, Refusal> {
        let existing = self.latest(put.key).cloned();
        let holds = match put.condition {
            None => true,
            Some(Condition::Absent) => existing.is_none(),
            Some(Condition::ModRevision(revision)) => existing.as_ref().is_some_and(|kv| kv.mod_revision == revision),
            Some(Condition::Value(value)) => existing.as_ref().is_some_and(|kv| kv.value == value),
        };
        if !holds {
            let shown = |kv| if put.previous { kv } else { KeyValue { value: Bytes::new(), ..kv } };
            return Err(CommandOutcome::ConditionFailed { existing: existing.map(shown) });
        }
        let revision = self.revision + 1;
        let previous = self.write(put, revision)?;
        self.revision = revision;
        Ok(CommandOutcome::Put { revision, previous: previous.filter(|_| put.previous) })
    }

    /// Writes a key at a revision that is not the state's yet. Returns what was there.
    fn write(&mut self, put: &Put<'_>, revision: u64) -> Result<Option<KeyValue>, Refusal> {
        let key = Bytes::copy_from_slice(put.key);
        let before = self.latest(put.key).cloned();
        let keeps = put.value.is_none() || put.lease == LeaseBinding::Keep;
        if keeps && before.is_none() {
            return Err(CommandOutcome::KeyUnknown { key });
        }
        let old_lease = before.as_ref().map_or(0, |kv| kv.lease);
        let lease = self.leases.bind(&key, old_lease, put.lease, self.time_ms)?;
        let value = match (put.value, &before) {
            (Some(value), _) => Bytes::copy_from_slice(value),
            (None, Some(kv)) => kv.value.clone(),
            (None, None) => unreachable!("a value is kept of a key that exists"),
        };
        let now = KeyValue {
            key: key.clone(),
            value,
            create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            lease,
        };
        self.change(key, revision, Some(now));
        Ok(before)
    }

    fn delete_range(
        &mut self,
        range: KeyRange<'_>,
        limits: RangeLimits,
        previous: bool,
    ) -> Result<CommandOutcome, Refusal> {
        let found = self.pairs(range);
        let is_single = range.single_key().is_some();
        if !is_single && !fits(&found, limits, previous) {
            let RangeLimits { keys_max, bytes_max } = limits;
            return Err(CommandOutcome::LimitExceeded { keys_max, bytes_max });
        }
        let revision = self.revision + 1;
        self.delete(&found, revision);
        if !found.is_empty() {
            self.revision = revision;
        }
        let count = found.len() as u64;
        Ok(CommandOutcome::Deleted {
            count,
            revision: self.revision,
            previous: if previous { found } else { Vec::new() },
        })
    }

    fn delete(&mut self, pairs: &[KeyValue], revision: u64) {
        for kv in pairs {
            self.leases.unbind(&kv.key, kv.lease);
            self.change(kv.key.clone(), revision, None);
        }
    }

    fn revoke(&mut self, id: u64) -> Result<CommandOutcome, Refusal> {
        let keys = self.leases.end(id)?;
        let deleted = keys.len() as u64;
        if deleted > 0 {
            self.revision += 1;
            for key in keys {
                self.change(key, self.revision, None);
            }
        }
        Ok(CommandOutcome::LeaseRevoked { deleted, revision: self.revision })
    }

    fn expire(&mut self, leases_max: u32, sessions_max: u32, keys_max: u32) -> CommandOutcome {
        let (mut leases, mut deleted) = (0, 0);
        while leases < u64::from(leases_max)
            && let Some((id, keys)) = self.leases.due(self.time_ms)
            && (leases == 0 || deleted + keys <= u64::from(keys_max))
        {
            let ended = self.revoke(id);
            assert!(matches!(ended, Ok(CommandOutcome::LeaseRevoked { .. })), "lease {id} is due: {ended:?}");
            leases += 1;
            deleted += keys;
        }
        let sessions = self.sessions.expire(sessions_max, self.time_ms);
        CommandOutcome::Expired { leases, sessions, deleted }
    }

    fn compact(&mut self, revision: u64) -> Result<CommandOutcome, Refusal> {
        if revision > self.revision {
            return Err(CommandOutcome::RevisionFuture { requested: revision, current: self.revision });
        }
        if revision <= self.compacted {
            return Err(CommandOutcome::RevisionCompacted { requested: revision, compacted: self.compacted });
        }
        self.compacted = revision;
        Ok(CommandOutcome::Compacted { revision })
    }

    fn change(&mut self, key: Bytes, revision: u64, now: Option<KeyValue>) {
        let before = self.latest(&key).cloned();
        self.keys.entry(key.clone()).or_default().push((revision, now.clone()));
        self.changes.push(Change { revision, key, now, before });
    }

    /// Takes back every change at `revision`, which is not the state's yet.
    fn take_back(&mut self, revision: u64) {
        while let Some(change) = self.changes.pop_if(|change| change.revision == revision) {
            let values = self.keys.get_mut(&change.key).expect("a key that was changed has values");
            values.pop();
        }
    }

    fn latest(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    /// What a range holds now, in key order.
    fn pairs(&self, range: KeyRange<'_>) -> Vec<KeyValue> {
        let values = self.keys.iter().filter(|(key, _)| range.contains(key));
        values.filter_map(|(_, values)| values.last()?.1.clone()).collect()
    }

    /// The oldest revision that can be read; zero: all can.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// What a key held at a revision.
    pub(crate) fn at(&self, key: &[u8], revision: u64) -> Option<&KeyValue> {
        let values = self.keys.get(key)?;
        let after = values.partition_point(|(since, _)| *since <= revision);
        values[..after].last()?.1.as_ref()
    }

    /// What a range held at a revision, in key order.
    pub(crate) fn range(&self, range: KeyRange<'_>, revision: u64) -> Vec<&KeyValue> {
        self.keys.keys().filter(|key| range.contains(key)).filter_map(|key| self.at(key, revision)).collect()
    }
}

fn fits(pairs: &[KeyValue], limits: RangeLimits, returned: bool) -> bool {
    let bytes: usize = if returned { pairs.iter().map(|kv| kv.key.len() + kv.value.len()).sum() } else { 0 };
    pairs.len() as u64 <= u64::from(limits.keys_max) && bytes as u64 <= limits.bytes_max
}

fn kind(item: &BatchItem<'_>) -> Kind {
    if let Some(call) = item.session {
        return Kind::InSession { session: call.session, sequence: call.sequence };
    }
    match &item.command {
        Command::Put(put) => Kind::Put {
            key: Bytes::copy_from_slice(put.key),
            value: Bytes::copy_from_slice(put.value.unwrap_or_default()),
        },
        Command::DeleteRange { range, .. } => {
            Kind::Delete { start: Bytes::copy_from_slice(range.start), end: range.end.map(Bytes::copy_from_slice) }
        }
        Command::Transaction { transaction, .. } => Kind::Transaction { puts: transactions::puts(transaction) },
        Command::RaiseFormat { .. }
        | Command::GrantLease { .. }
        | Command::KeepLeaseAlive { .. }
        | Command::RevokeLease { .. }
        | Command::Expire { .. }
        | Command::Compact { .. }
        | Command::OpenSession { .. }
        | Command::CloseSession { .. } => Kind::Other,
    }
}
