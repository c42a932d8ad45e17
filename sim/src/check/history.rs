//! What clients asked and what they were told, compared in the end with the one true log.
//!
//! Every reply names the revision (and for a write the log index) it speaks of, so nothing has to be searched for: the order of all
//! operations is known, and it is only verified, in O(n log n).
//!
//! - A write that was acknowledged is in the log, at its index, with the effect that it was told.
//! - A write that was refused is not in the log. One of unknown outcome is in it at most once. Nothing is in it that nobody asked for.
//! - A read equals the state of the model at its revision, scans as a whole.
//! - Real time: whatever was begun after something else was answered comes after it in the order.

use super::model::{Done, Effect, Kind, Model, Pair};
use super::reference::Reference;
use crate::clients::Reply;
use crate::schedule::Time;
use crate::workload::Ask;
use bytes::Bytes;
use std::collections::BTreeMap;
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
#[derive(Debug, Default)]
pub(crate) struct History {
    operations: Vec<Operation>,
}

impl History {
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
            in_log.entry(&done.kind).or_default().push(place);
        }
        let mut commands: Vec<Option<usize>> = vec![None; self.operations.len()];
        let mut unknown: Vec<(usize, Kind)> = Vec::new();
        for (number, operation) in self.operations.iter().enumerate() {
            let Some(kind) = operation.kind() else { continue };
            let places = in_log.get_mut(&kind);
            match &operation.outcome {
                Outcome::Answered(reply) => {
                    let index = index_of(reply);
                    let found = places.and_then(|places| {
                        let at = places.iter().position(|place| {
                            model.done[*place].index.0 == index && operation.agrees(&model.done[*place], reply)
                        })?;
                        Some(places.remove(at))
                    });
                    assert!(
                        found.is_some(),
                        "acknowledged and not in the log: {operation:?}\n{}",
                        nearest(model, &kind)
                    );
                    commands[number] = found;
                }
                Outcome::Refused => {
                    let absent = places.is_none_or(|places| places.is_empty());
                    assert!(
                        absent || !kind.is_unique(),
                        "refused and in the log: {operation:?}\n{}",
                        nearest(model, &kind)
                    );
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

    /// For each operation, the latest place in the order of anything that was answered before it was invoked.
    fn note_what_came_before(&mut self, orders: &[Option<Order>]) {
        let mut events: Vec<(Time, bool, usize)> = Vec::with_capacity(2 * orders.len());
        for (number, operation) in self.operations.iter().enumerate() {
            events.push((operation.invoked, false, number));
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
    /// What its command is known by, if it is a write.
    fn kind(&self) -> Option<Kind> {
        if let Ask::Call(Request::Put(put)) = &self.ask {
            Some(Kind::Put { key: put.key.clone(), value: put.value.clone() })
        } else if let Ask::Call(Request::Delete(delete)) = &self.ask {
            let range = delete.range.clone().unwrap_or_default();
            Some(Kind::Delete { start: range.start, end: range.end })
        } else {
            None
        }
    }

    /// Whether what the client was told is what the command did.
    fn agrees(&self, done: &Done, reply: &Reply) -> bool {
        let told = |kv: &Option<wire::KeyValue>| kv.as_ref().map(pair);
        match (&self.ask, reply, &done.effect) {
            (Ask::Call(Request::Put(put)), Reply::Call(Response::Put(reply)), Effect::Put { previous }) => {
                let expected = previous.clone().filter(|_| put.previous);
                let revision = reply.header.map(|header| header.revision);
                reply.succeeded && revision == Some(done.revision) && told(&reply.previous) == expected
            }
            (Ask::Call(Request::Put(put)), Reply::Call(Response::Put(reply)), Effect::ConditionFailed { existing }) => {
                // Large values travel only to those who asked for them.
                let expected =
                    existing.clone().map(|existing| if put.previous { existing } else { without_value(existing) });
                !reply.succeeded && told(&reply.previous) == expected
            }
            (
                Ask::Call(Request::Delete(delete)),
                Reply::Call(Response::Delete(reply)),
                Effect::Deleted { previous },
            ) => {
                let expected = if delete.previous { previous.clone() } else { Vec::new() };
                let revision = reply.header.map(|header| header.revision);
                let told: Vec<Pair> = reply.previous.iter().map(pair).collect();
                let count = reply.deleted == previous.len() as u64;
                count && revision == Some(done.revision) && told == expected
            }
            _ => false,
        }
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
        let revision = revision_of(reply);
        assert!(
            revision >= self.after.revision,
            "a stale read: at revision {revision}, after revision {} had been answered: {self:?}",
            self.after.revision
        );
        assert!(revision <= model.revision(), "a read at revision {revision}, which never was: {self:?}");
        match (&self.ask, reply.as_ref()) {
            (Ask::Call(Request::Get(get)), Reply::Call(Response::Get(reply))) => {
                let expected = model.at(&get.key, revision);
                let told = reply.kv.as_ref().map(pair);
                assert!(
                    told.as_ref() == expected,
                    "a wrong read: {self:?}\nat revision {revision} the key holds {expected:?}"
                );
            }
            (Ask::Scan(scan), Reply::Scan(replies)) => self.check_scan(scan, replies, model, revision),
            (ask, reply) => panic!("an answer of another kind: {ask:?}: {reply:?}"),
        }
    }

    fn check_scan(&self, scan: &wire::ScanRequest, replies: &[wire::ScanReply], model: &Model, revision: u64) {
        let range = scan.range.clone().unwrap_or_default();
        let mut expected = model.range(&range.start, range.end.as_deref(), revision);
        if scan.reverse {
            expected.reverse();
        }
        let whole = expected.len();
        if scan.limit > 0 {
            expected.truncate(usize::try_from(scan.limit).expect("small limits"));
        }
        let told: Vec<Pair> = replies.iter().flat_map(|reply| &reply.kvs).map(pair).collect();
        assert!(
            told.iter().eq(expected.iter().copied()),
            "a wrong scan: {self:?}\nat revision {revision} there is {expected:?}"
        );
        let last = replies.last().expect("a scan has a last reply");
        let more = whole > expected.len();
        assert!(
            last.last && last.more == more && last.count == expected.len() as u64,
            "a wrong end of a scan: {self:?}\n{} of {whole} pairs were due",
            expected.len()
        );
    }
}

fn pair(kv: &wire::KeyValue) -> Pair {
    Pair {
        key: kv.key.clone(),
        value: kv.value.clone(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
    }
}

fn without_value(pair: Pair) -> Pair {
    Pair { value: Bytes::new(), ..pair }
}

fn header_of(reply: &Reply) -> wire::Header {
    let header = if let Reply::Scan(replies) = reply {
        replies.last().and_then(|reply| reply.header)
    } else if let Reply::Call(Response::Put(wire::PutReply { header, .. })) = reply {
        *header
    } else if let Reply::Call(Response::Delete(wire::DeleteReply { header, .. })) = reply {
        *header
    } else if let Reply::Call(Response::Get(wire::GetReply { header, .. })) = reply {
        *header
    } else {
        None
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
fn nearest(model: &Model, kind: &Kind) -> String {
    let found: Vec<&Done> = model.done.iter().filter(|done| done.kind == *kind).collect();
    format!("the log has of this kind: {found:?}")
}
