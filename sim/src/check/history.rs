//! What clients asked and what they were told, compared in the end with the one true log.
//!
//! Every reply names the revision (and for a write the log index) it speaks of, so nothing has to be searched for: the order of all
//! operations is known, and it is only verified, in O(n log n).
//!
//! - A write that was acknowledged is in the log, at its index, with the effect that it was told.
//! - A write that was refused is not in the log. One of unknown outcome is in it at most once. Nothing is in it that nobody asked for.
//! - A read equals the state of the model at its revision, scans as a whole.
//! - Real time: whatever was begun after something else was answered comes after it in the order.

use super::model::{Done, Kind, Model, select, was_tried};
use super::reference::Reference;
use crate::clients::Reply;
use crate::schedule::Time;
use crate::serving::LIMITS;
use crate::workload::{Ask, Freshness};
use raft::LogIndex;
use raftkv::driver::WriteOutcome;
use raftkv::requests::{Asked, SESSION_TTL_MS_DEFAULT, write_reply};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::command::{KeyRange, RangeRead, SortBy};
use storage::state::{CommandOutcome, KeyValue};
use transport::proto::client as wire;
use transport::{Request, Response};

/// The number of an operation, from one, in the order in which they were begun.
pub(crate) type OperationId = u64;

/// What a client was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Answered.
    Answered(Box<Reply>),
    /// Certainly not applied.
    Refused,
    /// May or may not be applied.
    Unknown,
}

#[derive(Debug, Clone)]
struct Operation {
    #[expect(dead_code, reason = "messages show it")]
    client: usize,
    invoked: Time,
    done: Option<Time>,
    ask: Ask,
    outcome: Outcome,
    /// What was acknowledged before it was invoked: the revision and the number of commands that it must come after.
    after: Order,
}

/// A place in the order of all operations.
#[derive(Debug, Clone, Copy, Default)]
struct Order {
    revision: u64,
    commands: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    operations: Vec<Operation>,
    /// By how much a stale read may be older than its age allows, in this run; `None`: by any time.
    stale_slack: Option<Duration>,
}

impl History {
    pub(crate) fn new(stale_slack: Option<Duration>) -> History {
        History { operations: Vec::new(), stale_slack }
    }

    /// A client begins an operation.
    pub(crate) fn invoke(&mut self, client: usize, now: Time, ask: &Ask) -> OperationId {
        self.operations.push(Operation {
            client,
            invoked: now,
            done: None,
            ask: ask.clone(),
            outcome: Outcome::Unknown,
            after: Order::default(),
        });
        self.operations.len() as u64
    }

    /// It is over.
    pub(crate) fn done(&mut self, operation: OperationId, now: Time, outcome: Outcome) {
        let place = usize::try_from(operation).expect("few operations") - 1;
        let operation = &mut self.operations[place];
        assert!(operation.done.is_none(), "{operation:?} ends twice");
        (operation.done, operation.outcome) = (Some(now), outcome);
    }

    /// How many operations were answered: those that failed are held against the log too, and say less.
    pub(crate) fn answered(&self) -> usize {
        self.operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Answered(_))).count()
    }

    /// How often clients have asked for a compaction.
    pub(crate) fn compactions_asked_for(&self) -> usize {
        self.operations.iter().filter(|operation| matches!(operation.ask, Ask::Call(Request::Compact(_)))).count()
    }

    /// Holds everything against the log. Panics with both sides of the contradiction.
    pub(crate) fn verify(mut self, reference: &Reference) {
        let model = &reference.model;
        let commands = self.match_writes(model);
        let orders: Vec<Option<Order>> = self
            .operations
            .iter()
            .zip(&commands)
            .map(|(operation, command)| place(operation, *command, model))
            .collect();
        self.note_what_came_before(&orders);
        for (operation, command) in self.operations.iter().zip(&commands) {
            match command {
                Some(command) => operation.check_order_of_write(*command, &model.done[*command]),
                None => operation.check_read(model),
            }
        }
    }

    /// Finds each write's command in the log: its place among all commands.
    fn match_writes(&self, model: &Model) -> Vec<Option<usize>> {
        let mut in_log: BTreeMap<&Kind, Vec<usize>> = BTreeMap::new();
        for (place, done) in model.done.iter().enumerate() {
            if done.kind != Kind::Other && !done.repeats && was_tried(&done.outcome) {
                in_log.entry(&done.kind).or_default().push(place);
            }
        }
        for (kind, places) in &in_log {
            let in_session = matches!(kind, Kind::InSession { .. });
            assert!(!in_session || places.len() == 1, "carried out twice: {kind:?} at {places:?}");
        }
        let mut commands: Vec<Option<usize>> = vec![None; self.operations.len()];
        let mut unknown: Vec<(usize, Kind)> = Vec::new();
        for (number, operation) in self.operations.iter().enumerate() {
            let Some(kind) = operation.kind() else { continue };
            if let Outcome::Answered(reply) = &operation.outcome {
                assert!(operation.is_answered_as_done(model, reply), "{}", nearest(model, operation, &kind));
            }
            if kind == Kind::Other {
                continue;
            }
            let places = in_log.get_mut(&kind);
            match &operation.outcome {
                Outcome::Answered(reply) => {
                    let in_session = matches!(kind, Kind::InSession { .. });
                    let found = places.and_then(|places| {
                        let at = places.iter().position(|place| {
                            let done = &model.done[*place];
                            in_session || (done.index.0 == index_of(reply) && operation.agrees(done, reply))
                        })?;
                        Some(places.remove(at))
                    });
                    assert!(found.is_some(), "acknowledged and not in the log: {}", nearest(model, operation, &kind));
                    commands[number] = found;
                }
                // What the state refused is in the log all the same, and has changed nothing.
                Outcome::Refused => {
                    let places = places.map(std::mem::take).unwrap_or_default();
                    let harmless = places.iter().all(|place| !model.done[*place].changes);
                    assert!(
                        harmless || !kind.is_unique(),
                        "refused and in the log: {}",
                        nearest(model, operation, &kind)
                    );
                    if !kind.is_unique() {
                        in_log.get_mut(&kind).into_iter().for_each(|left| *left = places.clone());
                    }
                }
                Outcome::Unknown => unknown.push((number, kind)),
            }
        }
        // What is left in the log is of writes whose outcome nobody was told, each at most once, and not before it was asked for.
        for (number, kind) in unknown {
            if let Some(places) = in_log.get_mut(&kind).filter(|places| !places.is_empty()) {
                // Several deletes of one key cannot be told apart: no order is claimed for them.
                let place = places.remove(0);
                if kind.is_unique() {
                    commands[number] = Some(place);
                }
            }
        }
        for (kind, places) in in_log {
            assert!(
                places.is_empty(),
                "in the log more often than asked for (applied twice, or refused and applied): {kind:?} at {:?}",
                places.iter().map(|place| &model.done[*place]).collect::<Vec<_>>()
            );
        }
        commands
    }

    /// Whatever was answered before this moment, an operation has to know of.
    fn fresh_from(&self, operation: &Operation) -> Time {
        let freshness = operation.ask.freshness().unwrap_or_default();
        if freshness.level != wire::ReadLevel::Stale {
            return operation.invoked;
        }
        let (Some(age_ms), Some(slack)) = (freshness.age_ms_max, self.stale_slack) else { return Time::START };
        // Clocks run up to a twentieth too slowly.
        let age = Duration::from_millis(age_ms) * 20 / 19 + slack;
        let earlier = Duration::from_nanos(operation.invoked.0).saturating_sub(age);
        Time::START + earlier
    }

    /// For each operation, the latest place in the order of anything that was answered before it was invoked.
    fn note_what_came_before(&mut self, orders: &[Option<Order>]) {
        let mut events: Vec<(Time, bool, usize)> = Vec::with_capacity(2 * orders.len());
        for (number, operation) in self.operations.iter().enumerate() {
            // What it must come after: for a stale read that is what was known a while before.
            events.push((self.fresh_from(operation), false, number));
            if let (Some(done), Outcome::Answered(_)) = (operation.done, &operation.outcome) {
                events.push((done, true, number));
            }
        }
        // At one moment, beginnings come before ends: such operations count as concurrent.
        events.sort_unstable();
        let mut latest = Order::default();
        for (_, is_end, number) in events {
            if !is_end {
                self.operations[number].after = latest;
            } else if let Some(order) = orders[number] {
                latest.revision = latest.revision.max(order.revision);
                latest.commands = latest.commands.max(order.commands);
            }
        }
    }
}

/// Where an operation stands in the order: after this revision, and after that many commands.
fn place(operation: &Operation, command: Option<usize>, model: &Model) -> Option<Order> {
    match (command, &operation.outcome) {
        (Some(command), _) => Some(Order { revision: model.done[command].revision, commands: command + 1 }),
        (None, Outcome::Answered(reply)) => {
            let revision = revision_of(reply);
            // A read comes after the command that made its revision.
            let commands = model
                .done
                .partition_point(|done| done.revision < revision || (done.revision == revision && done.changes));
            let made = model.done[..commands].iter().rposition(|done| done.changes).map_or(0, |at| at + 1);
            Some(Order { revision, commands: made })
        }
        (None, Outcome::Refused | Outcome::Unknown) => None,
    }
}

impl Operation {
    /// What its command is known by, if it goes through the log.
    fn kind(&self) -> Option<Kind> {
        let Ask::Call(request) = &self.ask else { return None };
        if self.ask.freshness().is_some() {
            return None;
        }
        let session = request.session();
        if let Some(call) = session {
            return Some(Kind::InSession { session: call.session, sequence: call.sequence });
        }
        if let Request::Put(put) = request {
            Some(Kind::Put { key: put.key.clone(), value: put.value.clone() })
        } else if let Request::Delete(delete) = request {
            let range = delete.range.clone().unwrap_or_default();
            Some(Kind::Delete { start: range.start, end: range.end })
        } else if let Request::Transaction(transaction) = request {
            let transaction = transaction.transaction.as_ref().expect("the workload sends whole transactions");
            Some(Kind::Transaction { puts: crate::workload::puts(transaction) })
        } else {
            Some(Kind::Other)
        }
    }

    /// Whether the entry that the client was told holds a command with the outcome that it was told.
    fn is_answered_as_done(&self, model: &Model, reply: &Reply) -> bool {
        model.done_at(LogIndex(index_of(reply))).any(|done| self.agrees(done, reply))
    }

    /// Whether what the client was told is what the command did: the reply that belongs to its outcome.
    fn agrees(&self, done: &Done, reply: &Reply) -> bool {
        let (Ask::Call(request), Reply::Call(told)) = (&self.ask, reply) else { return false };
        if !fits(request, &done.outcome) {
            return false;
        }
        let header = header_of(reply);
        // The revision counts where the outcome has one of its own; otherwise it is that of the state then, or a later one.
        let outcome =
            WriteOutcome { index: LogIndex(header.index), revision: header.revision, outcome: done.outcome.clone() };
        (done.repeats || header.revision >= done.revision) && write_reply(outcome, asked(request)) == *told
    }

    fn check_order_of_write(&self, command: usize, done: &Done) {
        assert!(
            command >= self.after.commands,
            "a write came before what was answered before it was begun: {self:?}\nis command {command} of the log: {done:?}"
        );
        let early =
            if done.changes { done.revision <= self.after.revision } else { done.revision < self.after.revision };
        assert!(!early, "a write got a revision that was known before it was begun: {self:?}\n{done:?}");
    }

    fn check_read(&self, model: &Model) {
        let Outcome::Answered(reply) = &self.outcome else { return };
        let Some(Freshness { revision_min, .. }) = self.ask.freshness() else { return };
        let revision = revision_of(reply);
        let is_recent = revision_min.is_none_or(|least| revision >= least);
        assert!(is_recent, "a read at revision {revision}: {self:?}");
        assert!(revision <= model.revision(), "a read at revision {revision}, which never was: {self:?}");
        match (&self.ask, reply.as_ref()) {
            (Ask::Call(Request::Get(get)), Reply::Call(Response::Get(reply))) => {
                self.check_not_stale(revision);
                let revision = get.revision.unwrap_or(revision);
                let expected = model.at(&get.key, revision);
                let told = reply.kv.as_ref().map(pair);
                assert!(
                    told.as_ref() == expected,
                    "a wrong read: {self:?}\nat revision {revision} the key holds {expected:?}"
                );
            }
            (Ask::Call(request @ Request::Transaction(transaction)), Reply::Call(told)) => {
                self.check_not_stale(revision);
                let transaction = LIMITS.transaction(transaction).expect("it was answered");
                let outcome = model.outcome_at(&transaction, revision);
                let expected = write_reply(WriteOutcome { index: LogIndex::ZERO, revision, outcome }, asked(request));
                assert!(expected == *told, "a wrong read: {self:?}\nat revision {revision} it is {expected:?}");
            }
            (Ask::Scan(scan), Reply::Scan(replies)) => {
                self.check_not_stale(revision);
                self.check_scan(scan, replies, model, scan.revision.unwrap_or(revision));
            }
            (ask, reply) => panic!("an answer of another kind: {ask:?}: {reply:?}"),
        }
    }

    fn check_not_stale(&self, revision: u64) {
        assert!(
            revision >= self.after.revision,
            "a stale read: at revision {revision}, after revision {} had been answered: {self:?}",
            self.after.revision
        );
    }

    fn check_scan(&self, scan: &wire::ScanRequest, replies: &[wire::ScanReply], model: &Model, revision: u64) {
        let range = scan.range.clone().unwrap_or_default();
        let range = KeyRange { start: &range.start, end: range.end.as_deref() };
        let read = RangeRead {
            limit: (scan.limit > 0).then_some(scan.limit),
            sort_by: match scan.sort_by() {
                wire::SortBy::Key => SortBy::Key,
                wire::SortBy::Version => SortBy::Version,
                wire::SortBy::CreateRevision => SortBy::CreateRevision,
                wire::SortBy::ModRevision => SortBy::ModRevision,
                wire::SortBy::Value => SortBy::Value,
            },
            descending: scan.descending || scan.reverse,
            keys_only: scan.keys_only,
            count_only: scan.count_only,
            ..RangeRead::all_of(range)
        };
        let expected = select(&read, model.range(range, revision).into_iter().cloned().collect());
        let told: Vec<KeyValue> = replies.iter().flat_map(|reply| &reply.kvs).map(pair).collect();
        assert!(told == expected.pairs, "a wrong scan: {self:?}\nat revision {revision} there is {:?}", expected.pairs);
        let last = replies.last().expect("a scan has a last reply");
        let count = if scan.count_only { expected.count } else { expected.pairs.len() as u64 };
        let total = scan.count_total.then_some(expected.count);
        assert!(
            last.last && last.more == expected.more && last.count == count && last.total == total,
            "a wrong end of a scan: {self:?}\n{} of {} pairs were due",
            expected.pairs.len(),
            expected.count
        );
    }
}

/// What a request wants to know when it is answered.
fn asked(request: &Request) -> Asked {
    if let Request::Put(put) = request {
        Asked::Put { previous: put.previous }
    } else if let Request::Delete(_) = request {
        Asked::Delete
    } else if let Request::Transaction(_) = request {
        Asked::Transaction
    } else if let Request::SessionOpen(open) = request {
        Asked::Session { ttl_ms: if open.ttl_ms == 0 { SESSION_TTL_MS_DEFAULT } else { open.ttl_ms } }
    } else if let Request::SessionClose(_) = request {
        Asked::Session { ttl_ms: 0 }
    } else if let Request::Compact(_) = request {
        Asked::Compaction
    } else {
        Asked::Lease
    }
}

/// Whether an outcome can be that of such a request. What is refused is an error on the wire, and no answer.
fn fits(request: &Request, outcome: &CommandOutcome) -> bool {
    match outcome {
        CommandOutcome::Put { .. } | CommandOutcome::ConditionFailed { .. } => matches!(request, Request::Put(_)),
        CommandOutcome::Deleted { .. } => matches!(request, Request::Delete(_)),
        CommandOutcome::Transaction { .. } => matches!(request, Request::Transaction(_)),
        CommandOutcome::LeaseGranted { .. } => matches!(request, Request::LeaseGrant(_)),
        CommandOutcome::LeaseKeptAlive { .. } => matches!(request, Request::LeaseKeepAlive(_)),
        CommandOutcome::LeaseRevoked { .. } => matches!(request, Request::LeaseRevoke(_)),
        CommandOutcome::Compacted { .. } => matches!(request, Request::Compact(_)),
        CommandOutcome::SessionOpened { .. } => matches!(request, Request::SessionOpen(_)),
        CommandOutcome::SessionClosed => matches!(request, Request::SessionClose(_)),
        CommandOutcome::LimitExceeded { .. }
        | CommandOutcome::FormatRaised { .. }
        | CommandOutcome::KeyUnknown { .. }
        | CommandOutcome::RevisionCompacted { .. }
        | CommandOutcome::RevisionFuture { .. }
        | CommandOutcome::LeaseExists { .. }
        | CommandOutcome::LeaseUnknown { .. }
        | CommandOutcome::LeasesFull { .. }
        | CommandOutcome::LeaseFull { .. }
        | CommandOutcome::Expired { .. }
        | CommandOutcome::SessionUnknown { .. }
        | CommandOutcome::AnswerForgotten { .. }
        | CommandOutcome::SessionsFull { .. }
        | CommandOutcome::AnswersFull { .. }
        | CommandOutcome::Invalid { .. } => false,
    }
}

pub(super) fn pair(kv: &wire::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key.clone(),
        value: kv.value.clone(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn header_of(reply: &Reply) -> wire::Header {
    let header = match reply {
        Reply::Scan(replies) => replies.last().and_then(|reply| reply.header),
        Reply::Call(response) => crate::workload::header_of(response),
    };
    header.unwrap_or_else(|| panic!("a reply about data has a header: {reply:?}"))
}

fn index_of(reply: &Reply) -> u64 {
    header_of(reply).index
}

fn revision_of(reply: &Reply) -> u64 {
    header_of(reply).revision
}

/// What the log has of this kind, for messages.
fn nearest(model: &Model, operation: &Operation, kind: &Kind) -> String {
    let found: Vec<&Done> = model.done.iter().filter(|done| done.kind == *kind).take(8).collect();
    let told = if let Outcome::Answered(reply) = &operation.outcome { index_of(reply) } else { 0 };
    let there: Vec<&Done> = model.done_at(LogIndex(told)).collect();
    format!("{operation:?}\nthe log has of this kind: {found:?}\nand in the entry that it was told: {there:?}")
}
