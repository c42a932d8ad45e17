//! What the commands of the log mean: etcd's revisions, written down a second time.
//!
//! Every value that a key ever had is kept, so that a read can be compared with the state at the revision that it names.

use crate::workload::MARK;
use bytes::Bytes;
use raft::{Entry, EntryKind, LogIndex};
use std::collections::BTreeMap;
use storage::command::{BatchDecoder, Command, Condition, KeyRange, Put};

/// A key with its value, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) create_revision: u64,
    pub(crate) mod_revision: u64,
    pub(crate) version: u64,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A key was written, over what it held before.
    Put { previous: Option<Pair> },
    /// A put's condition did not hold.
    ConditionFailed { existing: Option<Pair> },
    /// Keys were deleted.
    Deleted { previous: Vec<Pair> },
}

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
    pub(crate) effect: Effect,
}

/// What makes a command the one that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Values are unique.
    Put { key: Bytes, value: Bytes },
    /// Deletes are told apart by their range, some of which nobody else deletes.
    Delete { start: Bytes, end: Option<Bytes> },
}

impl Kind {
    /// Whether nobody else asked for the same.
    pub(crate) fn is_unique(&self) -> bool {
        match self {
            Kind::Put { .. } => true,
            Kind::Delete { end, .. } => end.as_ref().is_some_and(|end| end.contains(&(MARK as u8))),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Model {
    revision: u64,
    /// Each key's values by revision; `None`: deleted.
    keys: BTreeMap<Bytes, Vec<(u64, Option<Pair>)>>,
    /// The log's commands, in order.
    pub(crate) done: Vec<Done>,
}

impl Model {
    /// An empty state is at revision 1.
    pub(crate) fn new() -> Model {
        Model { revision: 1, ..Model::default() }
    }

    /// Takes in the next entry.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        if entry.kind != EntryKind::Command {
            return;
        }
        for command in BatchDecoder::new(&entry.payload) {
            let item = command.unwrap_or_else(|error| panic!("entry {} does not decode: {error:?}", entry.index));
            let before = self.revision;
            let (kind, effect) = match item.command {
                Command::Put(Put { key, value, condition, .. }) => {
                    let value = value.expect("the workload keeps no values");
                    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    let effect = self.put(&key, &value, condition);
                    (Kind::Put { key, value }, effect)
                }
                // The state machine of the reference knows what it does.
                Command::RaiseFormat { .. } => continue,
                Command::Transaction { .. }
                | Command::GrantLease { .. }
                | Command::KeepLeaseAlive { .. }
                | Command::RevokeLease { .. }
                | Command::Expire { .. }
                | Command::Compact { .. }
                | Command::OpenSession { .. }
                | Command::CloseSession { .. } => unreachable!("the workload has none"),
                Command::DeleteRange { range, .. } => {
                    let previous = self.delete(range);
                    let (start, end) = (Bytes::copy_from_slice(range.start), range.end.map(Bytes::copy_from_slice));
                    (Kind::Delete { start, end }, Effect::Deleted { previous })
                }
            };
            let changes = self.revision > before;
            self.done.push(Done { index: entry.index, revision: self.revision, changes, kind, effect });
        }
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, condition: Option<Condition<'_>>) -> Effect {
        let existing = self.latest(key).cloned();
        let holds = match condition {
            None => true,
            Some(Condition::Absent) => existing.is_none(),
            Some(Condition::ModRevision(revision)) => {
                existing.as_ref().is_some_and(|pair| pair.mod_revision == revision)
            }
            Some(Condition::Value(value)) => existing.as_ref().is_some_and(|pair| pair.value == value),
        };
        if !holds {
            return Effect::ConditionFailed { existing };
        }
        self.revision += 1;
        let pair = Pair {
            key: key.clone(),
            value: value.clone(),
            create_revision: existing.as_ref().map_or(self.revision, |old| old.create_revision),
            mod_revision: self.revision,
            version: existing.as_ref().map_or(1, |old| old.version + 1),
        };
        self.keys.entry(key.clone()).or_default().push((self.revision, Some(pair)));
        Effect::Put { previous: existing }
    }

    fn delete(&mut self, range: KeyRange<'_>) -> Vec<Pair> {
        let revision = self.revision + 1;
        let mut deleted = Vec::new();
        for (key, values) in &mut self.keys {
            let inside = key.as_ref() >= range.start && range.end.is_none_or(|end| key.as_ref() < end);
            if inside && let Some((_, Some(pair))) = values.last().cloned() {
                values.push((revision, None));
                deleted.push(pair);
            }
        }
        if !deleted.is_empty() {
            self.revision = revision;
        }
        deleted
    }

    fn latest(&self, key: &Bytes) -> Option<&Pair> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// What a key held at a revision.
    pub(crate) fn at(&self, key: &[u8], revision: u64) -> Option<&Pair> {
        let values = self.keys.get(key)?;
        let after = values.partition_point(|(since, _)| *since <= revision);
        values[..after].last()?.1.as_ref()
    }

    /// What a range held at a revision, in key order.
    pub(crate) fn range(&self, start: &[u8], end: Option<&[u8]>, revision: u64) -> Vec<&Pair> {
        let keys = self.keys.keys().filter(|key| key.as_ref() >= start && end.is_none_or(|end| key.as_ref() < end));
        keys.filter_map(|key| self.at(key, revision)).collect()
    }
}
