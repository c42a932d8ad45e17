//! A state machine that is too simple to be wrong: every version of every key in a map, and a copy of everything before each command.

use bytes::Bytes;
use raftkv_storage::command::{
    BatchItem, Command, Compare, CompareTarget, Condition, KeyRange, LeaseBinding, LeaseLimits, Operation, Put,
    RangeLimits, RangeRead, SessionCall, SortBy, Transaction,
};
use raftkv_storage::state::{
    CommandOutcome, KeyValue, LeaseStatus, OperationOutcome, RangeOutcome, TransactionOutcome,
};
use std::collections::BTreeMap;

#[derive(Clone)]
pub(crate) struct Model {
    /// Per key, what it held from which revision on.
    pub(crate) keys: BTreeMap<Vec<u8>, BTreeMap<u64, Option<KeyValue>>>,
    /// Revision, number within it, put or delete, key.
    pub(crate) changes: Vec<(u64, u32, u8, Vec<u8>)>,
    pub(crate) revision: u64,
    pub(crate) compacted: u64,
    pub(crate) time_ms: u64,
    pub(crate) format: u32,
    leases: BTreeMap<u64, ModelLease>,
    next_lease: u64,
    sessions: BTreeMap<u64, ModelSession>,
    next_session: u64,
}

#[derive(Clone, Copy)]
struct ModelLease {
    ttl_ms: u64,
    ends_at_ms: u64,
    keys_max: u32,
    of_one_key: bool,
}

#[derive(Clone)]
struct ModelSession {
    ttl_ms: u64,
    ends_at_ms: u64,
    oldest: u64,
    answers_max: u32,
    answers: BTreeMap<u64, CommandOutcome>,
}

/// What a transaction has used of its limits.
struct Used {
    limits: RangeLimits,
    keys: u64,
    bytes: u64,
}

impl Used {
    fn add(&mut self, keys: u64, bytes: usize) -> Result<(), CommandOutcome> {
        self.keys += keys;
        self.bytes += bytes as u64;
        let RangeLimits { keys_max, bytes_max } = self.limits;
        let exceeded = CommandOutcome::LimitExceeded { keys_max, bytes_max };
        if self.keys > u64::from(keys_max) || self.bytes > bytes_max { Err(exceeded) } else { Ok(()) }
    }

    fn add_deleted(&mut self, deleted: &[KeyValue], returned: bool) -> Result<(), CommandOutcome> {
        let keys = deleted.iter().map(|pair| 1 + pair.key.len() as u64 / 256).sum();
        self.add(keys, if returned { deleted.iter().map(size).sum() } else { 0 })
    }
}

fn size(pair: &KeyValue) -> usize {
    pair.key.len() + pair.value.len()
}

impl Model {
    pub(crate) fn new() -> Model {
        Model {
            keys: BTreeMap::new(),
            changes: Vec::new(),
            revision: 1,
            compacted: 0,
            time_ms: 0,
            format: 2,
            leases: BTreeMap::new(),
            next_lease: 1,
            sessions: BTreeMap::new(),
            next_session: 1,
        }
    }

    pub(crate) fn at(&self, key: &[u8], revision: u64) -> Option<KeyValue> {
        self.keys.get(key)?.range(..=revision).next_back()?.1.clone()
    }

    pub(crate) fn range_at(&self, range: KeyRange<'_>, revision: u64) -> Vec<KeyValue> {
        let inside = |key: &&Vec<u8>| range.contains(key) && !range.is_empty();
        self.keys.keys().filter(inside).filter_map(|key| self.at(key, revision)).collect()
    }

    pub(crate) fn lease_keys(&self, id: u64) -> Vec<Bytes> {
        let now = self.range_at(KeyRange::ALL, u64::MAX);
        now.into_iter().filter(|pair| pair.lease == id).map(|pair| pair.key).collect()
    }

    pub(crate) fn leases(&self) -> Vec<LeaseStatus> {
        let status = |(id, lease): (&u64, &ModelLease)| LeaseStatus {
            id: *id,
            ttl_ms: lease.ttl_ms,
            ends_at_ms: lease.ends_at_ms,
            keys: self.lease_keys(*id).len() as u32,
            of_one_key: lease.of_one_key,
        };
        self.leases.iter().map(status).collect()
    }

    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        let leases = self.leases.values().map(|lease| lease.ends_at_ms);
        leases.chain(self.sessions.values().map(|session| session.ends_at_ms)).min()
    }

    pub(crate) fn apply(&mut self, item: &BatchItem<'_>) -> CommandOutcome {
        let Some(SessionCall { session: id, sequence, oldest }) = item.session else { return self.carry_out(item) };
        let now = self.time_ms;
        let Some(session) = self.sessions.get_mut(&id) else { return CommandOutcome::SessionUnknown { id } };
        session.ends_at_ms = now + session.ttl_ms;
        session.oldest = session.oldest.max(oldest);
        session.answers.retain(|sequence, _| *sequence >= session.oldest);
        if sequence < session.oldest {
            return CommandOutcome::AnswerForgotten { sequence, oldest: session.oldest };
        }
        if let Some(answer) = session.answers.get(&sequence) {
            return answer.clone();
        }
        if session.answers.len() >= session.answers_max as usize {
            return CommandOutcome::AnswersFull { answers_max: session.answers_max };
        }
        let outcome = self.carry_out(item);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.answers.insert(sequence, outcome.clone());
        }
        outcome
    }

    fn carry_out(&mut self, item: &BatchItem<'_>) -> CommandOutcome {
        let before = self.clone();
        self.command(&item.command).unwrap_or_else(|refused| {
            *self = before;
            refused
        })
    }

    fn command(&mut self, command: &Command<'_>) -> Result<CommandOutcome, CommandOutcome> {
        let changes_before = self.changes.len();
        let outcome = match command {
            Command::Put(put) => self.put_command(put)?,
            Command::DeleteRange { range, limits, previous } => {
                let deleted = self.range_at(*range, u64::MAX);
                if range.single_key().is_none() {
                    let mut used = Used { limits: *limits, keys: 0, bytes: 0 };
                    used.add_deleted(&deleted, *previous)?;
                }
                deleted.iter().for_each(|pair| self.delete(&pair.key));
                let revision = self.revision + u64::from(!deleted.is_empty());
                let count = deleted.len() as u64;
                CommandOutcome::Deleted { count, revision, previous: if *previous { deleted } else { Vec::new() } }
            }
            Command::RaiseFormat { to } => {
                self.format += u32::from(*to == self.format + 1);
                CommandOutcome::FormatRaised { format: self.format }
            }
            Command::Transaction { transaction, limits } => {
                let mut used = Used { limits: *limits, keys: 0, bytes: 0 };
                let unchanged = self.clone();
                let outcome =
                    self.transaction(transaction, &unchanged, &unchanged.ways(transaction, &mut used)?, &mut used)?;
                let revision = self.revision + u64::from(self.changes.len() > changes_before);
                CommandOutcome::Transaction { revision, outcome: outcome.0 }
            }
            Command::GrantLease { id, ttl_ms, limits: LeaseLimits { leases_max, keys_max } } => {
                if self.leases.contains_key(id) {
                    return Err(CommandOutcome::LeaseExists { id: *id });
                }
                if self.leases.len() >= *leases_max as usize {
                    return Err(CommandOutcome::LeasesFull { leases_max: *leases_max });
                }
                let id = self.add_lease(*id, *ttl_ms, *keys_max, false);
                CommandOutcome::LeaseGranted { id, ttl_ms: *ttl_ms }
            }
            Command::KeepLeaseAlive { id } => {
                let now = self.time_ms;
                let lease = self.leases.get_mut(id).ok_or(CommandOutcome::LeaseUnknown { id: *id })?;
                lease.ends_at_ms = now + lease.ttl_ms;
                CommandOutcome::LeaseKeptAlive { ttl_ms: lease.ttl_ms }
            }
            Command::RevokeLease { id } => {
                self.leases.get(id).ok_or(CommandOutcome::LeaseUnknown { id: *id })?;
                let deleted = self.end_lease(*id);
                return Ok(CommandOutcome::LeaseRevoked { deleted, revision: self.revision });
            }
            Command::Expire { leases_max, sessions_max, keys_max } => {
                return Ok(self.expire(*leases_max, *sessions_max, *keys_max));
            }
            Command::Compact { revision } => {
                let (requested, current, compacted) = (*revision, self.revision, self.compacted);
                if requested > current {
                    return Err(CommandOutcome::RevisionFuture { requested, current });
                }
                if requested <= compacted {
                    return Err(CommandOutcome::RevisionCompacted { requested, compacted });
                }
                self.compacted = requested;
                CommandOutcome::Compacted { revision: requested }
            }
            Command::OpenSession { ttl_ms, sessions_max, answers_max } => {
                if self.sessions.len() >= *sessions_max as usize {
                    return Err(CommandOutcome::SessionsFull { sessions_max: *sessions_max });
                }
                let (ttl_ms, ends_at_ms, answers_max) = (*ttl_ms, self.time_ms + ttl_ms, *answers_max);
                let session = ModelSession { ttl_ms, ends_at_ms, oldest: 0, answers_max, answers: BTreeMap::new() };
                self.sessions.insert(self.next_session, session);
                self.next_session += 1;
                CommandOutcome::SessionOpened { id: self.next_session - 1 }
            }
            Command::CloseSession { id } => {
                self.sessions.remove(id);
                CommandOutcome::SessionClosed
            }
        };
        self.revision += u64::from(self.changes.len() > changes_before);
        Ok(outcome)
    }

    fn put_command(&mut self, put: &Put<'_>) -> Result<CommandOutcome, CommandOutcome> {
        let existing = self.at(put.key, u64::MAX);
        let holds = match put.condition {
            None => true,
            Some(Condition::Absent) => existing.is_none(),
            Some(Condition::ModRevision(revision)) => {
                existing.as_ref().is_some_and(|existing| existing.mod_revision == revision)
            }
            Some(Condition::Value(value)) => existing.as_ref().is_some_and(|existing| existing.value == value),
        };
        if !holds {
            let shown = |pair| if put.previous { pair } else { KeyValue { value: Bytes::new(), ..pair } };
            return Ok(CommandOutcome::ConditionFailed { existing: existing.map(shown) });
        }
        let previous = self.put(put)?;
        Ok(CommandOutcome::Put { revision: self.revision + 1, previous })
    }

    fn put(&mut self, put: &Put<'_>) -> Result<Option<KeyValue>, CommandOutcome> {
        let (key, existing) = (Bytes::copy_from_slice(put.key), self.at(put.key, u64::MAX));
        let old_lease = existing.as_ref().map_or(0, |existing| existing.lease);
        let unknown = CommandOutcome::KeyUnknown { key: key.clone() };
        let lease = match put.lease {
            LeaseBinding::None => 0,
            LeaseBinding::Keep if existing.is_none() => return Err(unknown),
            LeaseBinding::Keep => old_lease,
            LeaseBinding::Lease(id) => {
                let lease = self.leases.get(&id).ok_or(CommandOutcome::LeaseUnknown { id })?;
                if id != old_lease && self.lease_keys(id).len() >= lease.keys_max as usize {
                    return Err(CommandOutcome::LeaseFull { id, keys_max: lease.keys_max });
                }
                id
            }
            LeaseBinding::TimeToLive { ttl_ms } => self.add_lease(0, ttl_ms, 1, true),
        };
        let value = match (put.value, &existing) {
            (Some(value), _) => Bytes::copy_from_slice(value),
            (None, Some(existing)) => existing.value.clone(),
            (None, None) => return Err(unknown),
        };
        if lease != old_lease {
            self.leave(old_lease);
        }
        let revision = self.revision + 1;
        let written = KeyValue {
            key,
            value,
            create_revision: existing.as_ref().map_or(revision, |existing| existing.create_revision),
            mod_revision: revision,
            version: existing.as_ref().map_or(1, |existing| existing.version + 1),
            lease,
        };
        self.set(put.key, Some(written));
        Ok(existing.filter(|_| put.previous))
    }

    fn delete(&mut self, key: &[u8]) {
        let lease = self.at(key, u64::MAX).map_or(0, |existing| existing.lease);
        self.leave(lease);
        self.set(key, None);
    }

    /// A key lives by the lease no more.
    fn leave(&mut self, lease: u64) {
        if self.leases.get(&lease).is_some_and(|lease| lease.of_one_key) {
            self.leases.remove(&lease);
        }
    }

    fn set(&mut self, key: &[u8], value: Option<KeyValue>) {
        let revision = self.revision + 1;
        let number = self.changes.iter().rev().take_while(|change| change.0 == revision).count() as u32;
        self.changes.push((revision, number, if value.is_some() { 1 } else { 2 }, key.to_vec()));
        self.keys.entry(key.to_vec()).or_default().insert(revision, value);
    }

    fn add_lease(&mut self, id: u64, ttl_ms: u64, keys_max: u32, of_one_key: bool) -> u64 {
        let id = if id == 0 {
            while self.leases.contains_key(&self.next_lease) {
                self.next_lease += 1;
            }
            self.next_lease += 1;
            self.next_lease - 1
        } else {
            id
        };
        self.leases.insert(id, ModelLease { ttl_ms, ends_at_ms: self.time_ms + ttl_ms, keys_max, of_one_key });
        id
    }

    /// Ends a lease at a revision of its own.
    fn end_lease(&mut self, id: u64) -> u64 {
        let keys = self.lease_keys(id);
        keys.iter().for_each(|key| self.delete(key));
        self.leases.remove(&id);
        self.revision += u64::from(!keys.is_empty());
        keys.len() as u64
    }

    fn expire(&mut self, leases_max: u32, sessions_max: u32, keys_max: u32) -> CommandOutcome {
        let mut due: Vec<(u64, u64)> = self.leases.iter().map(|(id, lease)| (lease.ends_at_ms, *id)).collect();
        due.retain(|(ends_at_ms, _)| *ends_at_ms <= self.time_ms);
        due.sort_unstable();
        let (mut leases, mut deleted) = (0, 0);
        for (_, id) in due.into_iter().take(leases_max as usize) {
            if leases > 0 && deleted + self.lease_keys(id).len() as u64 > u64::from(keys_max) {
                break;
            }
            deleted += self.end_lease(id);
            leases += 1;
        }
        let mut due: Vec<(u64, u64)> = self.sessions.iter().map(|(id, it)| (it.ends_at_ms, *id)).collect();
        due.retain(|(ends_at_ms, _)| *ends_at_ms <= self.time_ms);
        due.sort_unstable();
        due.truncate(sessions_max as usize);
        due.iter().for_each(|(_, id)| drop(self.sessions.remove(id)));
        CommandOutcome::Expired { leases, sessions: due.len() as u64, deleted }
    }

    /// The ways of a transaction and of those in it, before any of it is done.
    fn ways(&self, transaction: &Transaction<'_>, used: &mut Used) -> Result<Vec<bool>, CommandOutcome> {
        let mut succeeds = true;
        for compare in &transaction.compares {
            if succeeds {
                succeeds = self.compare(compare, used)?;
            }
        }
        let mut ways = vec![succeeds];
        for operation in if succeeds { &transaction.success } else { &transaction.failure } {
            if let Operation::Transaction(inner) = operation {
                ways.extend(self.ways(inner, used)?);
            }
        }
        Ok(ways)
    }

    fn compare(&self, compare: &Compare<'_>, used: &mut Used) -> Result<bool, CommandOutcome> {
        let pairs = self.range_at(compare.range, u64::MAX);
        let holds = |number: u64, expected: u64| compare.relation.holds(number.cmp(&expected));
        for pair in &pairs {
            used.add(1, 0)?;
            let holds = match compare.target {
                CompareTarget::Version(expected) => holds(pair.version, expected),
                CompareTarget::CreateRevision(expected) => holds(pair.create_revision, expected),
                CompareTarget::ModRevision(expected) => holds(pair.mod_revision, expected),
                CompareTarget::Lease(expected) => holds(pair.lease, expected),
                CompareTarget::Value(expected) => compare.relation.holds(pair.value[..].cmp(expected)),
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(!pairs.is_empty()
            || match compare.target {
                CompareTarget::Version(expected)
                | CompareTarget::CreateRevision(expected)
                | CompareTarget::ModRevision(expected)
                | CompareTarget::Lease(expected) => holds(0, expected),
                CompareTarget::Value(_) => false,
            })
    }

    /// What it does, and how many of the ways it has used up.
    fn transaction(
        &mut self,
        transaction: &Transaction<'_>,
        before: &Model,
        ways: &[bool],
        used: &mut Used,
    ) -> Result<(TransactionOutcome, usize), CommandOutcome> {
        let (succeeded, mut ways_used) = (ways[0], 1);
        let mut operations = Vec::new();
        for operation in if succeeded { &transaction.success } else { &transaction.failure } {
            operations.push(match operation {
                Operation::Put(put) => {
                    let existing = self.at(put.key, u64::MAX);
                    if let Some(existing) = existing.filter(|_| put.previous || put.value.is_none()) {
                        used.add(1, size(&existing))?;
                    }
                    OperationOutcome::Put { previous: self.put(put)? }
                }
                Operation::DeleteRange { range, previous } => {
                    let deleted = self.range_at(*range, u64::MAX);
                    used.add_deleted(&deleted, *previous)?;
                    deleted.iter().for_each(|pair| self.delete(&pair.key));
                    let count = deleted.len() as u64;
                    OperationOutcome::Deleted { count, previous: if *previous { deleted } else { Vec::new() } }
                }
                Operation::Range(read) => OperationOutcome::Range(self.read(read, before, used)?),
                Operation::Transaction(inner) => {
                    let (outcome, more) = self.transaction(inner, before, &ways[ways_used..], used)?;
                    ways_used += more;
                    OperationOutcome::Transaction(outcome)
                }
            });
        }
        Ok((TransactionOutcome { succeeded, operations }, ways_used))
    }

    fn read(&self, read: &RangeRead<'_>, before: &Model, used: &mut Used) -> Result<RangeOutcome, CommandOutcome> {
        let (current, compacted) = (self.revision, self.compacted);
        let mut pairs = match read.revision {
            None => self.range_at(read.range, u64::MAX),
            Some(requested) if requested > current => {
                return Err(CommandOutcome::RevisionFuture { requested, current });
            }
            Some(requested) if requested < compacted => {
                return Err(CommandOutcome::RevisionCompacted { requested, compacted });
            }
            Some(requested) => before.range_at(read.range, requested),
        };
        let count = pairs.len() as u64;
        let all: Vec<Bytes> = pairs.iter().map(|pair| pair.key.clone()).collect();
        let outside = |number: u64, min: Option<u64>, max: Option<u64>| {
            number < min.unwrap_or(0) || number > max.unwrap_or(u64::MAX)
        };
        pairs.retain(|pair| {
            !read.count_only
                && !outside(pair.mod_revision, read.mod_revision_min, read.mod_revision_max)
                && !outside(pair.create_revision, read.create_revision_min, read.create_revision_max)
        });
        let limit = read.limit.map_or(usize::MAX, |limit| limit as usize);
        let more = pairs.len() > limit;
        let in_order = read.sort_by == SortBy::Key && !read.descending;
        let kept = if in_order { limit.min(pairs.len()) } else { pairs.len() };
        let without_values = read.keys_only && read.sort_by != SortBy::Value;
        let bytes = |pair: &KeyValue| if without_values { pair.key.len() } else { size(pair) };
        // Nobody counts, so whoever reads in order stops at the first pair that passes and has no room.
        let looked_at = match pairs.get(limit) {
            Some(first_over) if in_order && !read.count => {
                all.iter().position(|key| *key == first_over.key).expect("it is one of them") as u64 + 1
            }
            _ => count,
        };
        used.add(looked_at, pairs[..kept].iter().map(bytes).sum())?;
        pairs.sort_by_key(|pair| match read.sort_by {
            SortBy::Key => (0, pair.key.clone()),
            SortBy::Version => (pair.version, Bytes::new()),
            SortBy::CreateRevision => (pair.create_revision, Bytes::new()),
            SortBy::ModRevision => (pair.mod_revision, Bytes::new()),
            SortBy::Value => (0, pair.value.clone()),
        });
        if read.descending {
            // Those that are equal stay in key order.
            let mut groups: Vec<Vec<KeyValue>> = Vec::new();
            for pair in pairs {
                match groups.last_mut() {
                    Some(group) if equal(read.sort_by, &group[0], &pair) => group.push(pair),
                    _ => groups.push(vec![pair]),
                }
            }
            pairs = groups.into_iter().rev().flatten().collect();
        }
        pairs.truncate(limit);
        if read.keys_only {
            pairs.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        let count = if read.count || read.count_only { count } else { pairs.len() as u64 };
        Ok(RangeOutcome { pairs, count, more })
    }
}

fn equal(by: SortBy, left: &KeyValue, right: &KeyValue) -> bool {
    match by {
        SortBy::Key => left.key == right.key,
        SortBy::Version => left.version == right.version,
        SortBy::CreateRevision => left.create_revision == right.create_revision,
        SortBy::ModRevision => left.mod_revision == right.mod_revision,
        SortBy::Value => left.value == right.value,
    }
}
