//! What clients do: a mix of writes with and without conditions, deletes, transactions, leases, reads and scans of every kind on few keys, so that they
//! meet.
//!
//! Every value is unique, so a value that is read names the one write that wrote it. Most deletes are unique too, by the end of their range.

use crate::random::Random;
use bytes::Bytes;
use client::policy::Purpose;
use transport::proto::client as wire;
use transport::{Request, Response};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// One request, one answer.
    Call(Request),
    /// A scan.
    Scan(wire::ScanRequest),
}

impl Ask {
    /// Where it may go, and whether it may go twice.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        if let Some(freshness) = self.freshness() {
            return if freshness.level == wire::ReadLevel::Lease { Purpose::LeaseRead } else { Purpose::Read };
        }
        match self {
            Ask::Call(Request::SessionOpen(_)) => Purpose::OpenSession,
            // In a session, or of no harm when it comes twice.
            Ask::Call(request) if request.session().is_some() => Purpose::RepeatableWrite,
            Ask::Call(Request::LeaseKeepAlive(_) | Request::Compact(_)) => Purpose::RepeatableWrite,
            Ask::Call(request) if request.is_write() => Purpose::Write,
            Ask::Call(_) | Ask::Scan(_) => Purpose::Read,
        }
    }

    /// How fresh a read is to be. `None`: it does not only read.
    pub(crate) fn freshness(&self) -> Option<Freshness> {
        let (level, age_ms_max, revision_min) = match self {
            Ask::Call(Request::Get(get)) => (get.level(), get.age_ms_max, get.revision_min),
            Ask::Scan(scan) => (scan.level(), scan.age_ms_max, scan.revision_min),
            Ask::Call(request @ Request::Transaction(transaction)) if is_read_transaction(request) => {
                (transaction.level(), transaction.age_ms_max, transaction.revision_min)
            }
            Ask::Call(_) => return None,
        };
        Some(Freshness { level, age_ms_max, revision_min })
    }
}

/// How fresh a read is to be: its level, and the oldest age and revision that will do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Freshness {
    pub(crate) level: wire::ReadLevel,
    pub(crate) age_ms_max: Option<u64>,
    pub(crate) revision_min: Option<u64>,
}

/// Whether a request is a transaction that cannot write.
pub(crate) fn is_read_transaction(request: &Request) -> bool {
    matches!(request, Request::Transaction(_)) && !request.is_write()
}

/// What a mark begins with, and no key holds.
pub(crate) const MARK: char = 'c';

/// Draws one client's operations.
#[derive(Debug)]
pub(crate) struct Workload {
    client: usize,
    keys: u64,
    written: u64,
    /// The last thing known of some key: its name, mod revision and value.
    seen: Vec<(Bytes, u64, Bytes)>,
    /// Leases it was granted, some of which may have ended.
    leases: Vec<u64>,
    /// The newest revision it was told of.
    newest: u64,
}

impl Workload {
    pub(crate) fn new(client: usize, keys: u64) -> Workload {
        Workload { client, keys, written: 0, seen: Vec::new(), leases: Vec::new(), newest: 1 }
    }

    /// The next operation.
    pub(crate) fn draw(&mut self, random: &mut Random) -> Ask {
        match random.below(100) {
            0..=33 => self.put(random),
            34..=40 => {
                let key = self.key(random);
                // Some are told apart by the end of their range; the others are deletes of a single key.
                let mark = if random.chance(500) { self.mark() } else { String::new() };
                let end = [&key[..], &[0], mark.as_bytes()].concat().into();
                Ask::Call(Request::Delete(self.delete(random, key, end)))
            }
            41..=42 => {
                let range = self.range(random);
                let after_all = Bytes::from_static(b"l");
                let end = [&range.end.unwrap_or(after_all)[..], self.mark().as_bytes()].concat().into();
                Ask::Call(Request::Delete(self.delete(random, range.start, end)))
            }
            43..=52 => self.transaction(random),
            53..=57 => self.lease(random),
            58 => Ask::Call(Request::Compact(wire::CompactRequest {
                revision: random.between(1, self.newest.saturating_sub(5).max(1)),
            })),
            59..=84 => {
                let Freshness { level, age_ms_max, revision_min } = self.draw_freshness(random);
                let (key, revision) = (self.key(random), self.old_revision(random));
                Ask::Call(Request::Get(wire::GetRequest {
                    key,
                    revision,
                    level: level.into(),
                    age_ms_max,
                    revision_min,
                }))
            }
            85..=88 => self.read_transaction(random),
            _ => self.scan(random),
        }
    }

    fn delete(&mut self, random: &mut Random, start: Bytes, end: Bytes) -> wire::DeleteRequest {
        wire::DeleteRequest {
            range: Some(wire::KeyRange { start, end: Some(end) }),
            previous: random.chance(300),
            session: None,
        }
    }

    /// Puts on both ways, so that it is known by what it puts; beside them whatever a transaction may do.
    fn transaction(&mut self, random: &mut Random) -> Ask {
        use wire::operation::Kind;
        let compares = (0..random.below(3)).map(|_| self.compare(random)).collect();
        let mut way = |random: &mut Random| {
            let put = self.key(random);
            let mut operations = vec![Kind::Put(wire::PutRequest {
                key: put.clone(),
                value: self.value(random),
                previous: random.chance(300),
                ..wire::PutRequest::default()
            })];
            if random.chance(400) {
                operations.push(Kind::Range(wire::ScanRequest {
                    range: Some(self.range(random)),
                    ..wire::ScanRequest::default()
                }));
            }
            let other = self.key(random);
            if random.chance(400) && other != put {
                let end = [&other[..], &[0]].concat().into();
                operations.push(Kind::Delete(self.delete(random, other, end)));
            } else if random.chance(300) && other != put {
                let kind = Kind::Put(wire::PutRequest {
                    key: other,
                    value: self.value(random),
                    ..wire::PutRequest::default()
                });
                let inner = wire::Transaction {
                    compares: vec![self.compare(random)],
                    success: vec![wire::Operation { kind: Some(kind) }],
                    failure: Vec::new(),
                };
                operations.push(Kind::Transaction(inner));
            }
            random.shuffle(&mut operations);
            operations.into_iter().map(|kind| wire::Operation { kind: Some(kind) }).collect()
        };
        let (success, failure) = (way(random), way(random));
        let transaction = wire::Transaction { compares, success, failure };
        Ask::Call(Request::Transaction(wire::TransactionRequest {
            transaction: Some(transaction),
            ..wire::TransactionRequest::default()
        }))
    }

    /// Compares and reads, and writes nothing.
    fn read_transaction(&self, random: &mut Random) -> Ask {
        use wire::operation::Kind;
        let compares = (0..random.below(3)).map(|_| self.compare(random)).collect();
        let way = |random: &mut Random| {
            let read = |random: &mut Random| {
                let limit = if random.chance(300) { random.between(1, 3) } else { 0 };
                let range = Some(self.range(random));
                wire::Operation {
                    kind: Some(Kind::Range(wire::ScanRequest { range, limit, ..wire::ScanRequest::default() })),
                }
            };
            (0..random.between(1, 2)).map(|_| read(random)).collect()
        };
        let (success, failure) = (way(random), way(random));
        let Freshness { level, age_ms_max, revision_min } = self.draw_freshness(random);
        Ask::Call(Request::Transaction(wire::TransactionRequest {
            transaction: Some(wire::Transaction { compares, success, failure }),
            level: level.into(),
            age_ms_max,
            revision_min,
            ..wire::TransactionRequest::default()
        }))
    }

    /// Most reads must see everything that was acknowledged before; some may be stale, up to an age or from a revision on.
    fn draw_freshness(&self, random: &mut Random) -> Freshness {
        if random.chance(850) {
            let level = *random.pick(&[wire::ReadLevel::Linearizable, wire::ReadLevel::Lease]);
            return Freshness { level, ..Freshness::default() };
        }
        let age_ms_max = if random.chance(700) { Some(*random.pick(&[200, 1_000, 10_000])) } else { None };
        let revision_min = random.chance(300).then_some(self.newest);
        Freshness { level: wire::ReadLevel::Stale, age_ms_max, revision_min }
    }

    fn compare(&self, random: &mut Random) -> wire::Compare {
        use wire::compare::Target;
        let known = if self.seen.is_empty() { None } else { Some(random.pick(&self.seen).clone()) };
        let (key, target) = match (random.below(4), known) {
            (0, Some((key, revision, _))) => (key, Target::ModRevision(revision)),
            (1, Some((key, _, value))) => (key, Target::Value(value)),
            (2, _) => (self.key(random), Target::Version(random.below(4))),
            _ => (self.key(random), Target::CreateRevision(0)),
        };
        let relation = random.pick(&[
            wire::Relation::Equal,
            wire::Relation::NotEqual,
            wire::Relation::Less,
            wire::Relation::Greater,
        ]);
        let end = [&key[..], &[0]].concat().into();
        let range = Some(wire::KeyRange { start: key, end: Some(end) });
        wire::Compare { range, relation: (*relation).into(), target: Some(target) }
    }

    fn lease(&mut self, random: &mut Random) -> Ask {
        let known = if self.leases.is_empty() { None } else { Some(*random.pick(&self.leases)) };
        Ask::Call(match (random.below(4), known) {
            (1, Some(id)) => {
                self.leases.retain(|known| *known != id);
                Request::LeaseRevoke(wire::LeaseRevokeRequest { id, session: None })
            }
            (2..=3, Some(id)) => Request::LeaseKeepAlive(wire::LeaseKeepAliveRequest { id }),
            _ => Request::LeaseGrant(wire::LeaseGrantRequest {
                id: 0,
                ttl_ms: *random.pick(&[1_000, 3_000, 10_000]),
                session: None,
            }),
        })
    }

    fn scan(&mut self, random: &mut Random) -> Ask {
        let sort_by = *random.pick(&[
            wire::SortBy::Key,
            wire::SortBy::Key,
            wire::SortBy::Version,
            wire::SortBy::CreateRevision,
            wire::SortBy::ModRevision,
            wire::SortBy::Value,
        ]);
        let by_key = sort_by == wire::SortBy::Key;
        let count_only = random.chance(100);
        let Freshness { level, age_ms_max, revision_min } = self.draw_freshness(random);
        Ask::Scan(wire::ScanRequest {
            range: Some(self.range(random)),
            limit: if random.chance(300) && !count_only { random.between(1, 5) } else { 0 },
            reverse: by_key && random.chance(300),
            descending: !by_key && random.chance(300),
            sort_by: sort_by.into(),
            keys_only: random.chance(100),
            count_only,
            count_total: !count_only && random.chance(200),
            revision: self.old_revision(random),
            level: level.into(),
            age_ms_max,
            revision_min,
            ..wire::ScanRequest::default()
        })
    }

    /// Now and then one that this client has seen.
    fn old_revision(&self, random: &mut Random) -> Option<u64> {
        (self.newest > 10 && random.chance(150)).then(|| random.between(self.newest - 10, self.newest))
    }

    /// An answer said that the state is at this revision.
    pub(crate) fn saw_revision(&mut self, revision: u64) {
        self.newest = self.newest.max(revision);
    }

    /// A lease was granted.
    pub(crate) fn has_lease(&mut self, id: u64) {
        self.leases.push(id);
        if self.leases.len() > 4 {
            self.leases.remove(0);
        }
    }

    /// What an answer told of a key, for conditions to come.
    pub(crate) fn saw(&mut self, key: &Bytes, revision: u64, value: &Bytes) {
        self.seen.retain(|(known, _, _)| known != key);
        self.seen.push((key.clone(), revision, value.clone()));
        if self.seen.len() > 8 {
            self.seen.remove(0);
        }
    }

    fn put(&mut self, random: &mut Random) -> Ask {
        let known = if self.seen.is_empty() { None } else { Some(random.pick(&self.seen).clone()) };
        let (key, condition) = match (random.below(10), known) {
            (0..=1, _) => (self.key(random), Some(wire::condition::Kind::Absent(true))),
            (2..=3, Some((key, revision, _))) => (key, Some(wire::condition::Kind::ModRevision(revision))),
            (4..=5, Some((key, _, value))) => (key, Some(wire::condition::Kind::Value(value))),
            _ => (self.key(random), None),
        };
        let condition = condition.map(|kind| wire::Condition { kind: Some(kind) });
        let value = self.value(random);
        let lease = match (random.below(20), self.leases.last()) {
            (0, _) => Some(wire::put_request::Lease::TtlMs(*random.pick(&[1_000, 5_000]))),
            (1..=3, Some(id)) => Some(wire::put_request::Lease::LeaseId(*id)),
            (4, _) => Some(wire::put_request::Lease::KeepLease(true)),
            _ => None,
        };
        Ask::Call(Request::Put(wire::PutRequest {
            key,
            value,
            condition,
            previous: random.chance(300),
            lease,
            ..wire::PutRequest::default()
        }))
    }

    fn key(&self, random: &mut Random) -> Bytes {
        format!("k{:02}", random.below(self.keys)).into()
    }

    fn range(&self, random: &mut Random) -> wire::KeyRange {
        let (one, other) = (self.key(random), self.key(random));
        let (start, end) = if one <= other { (one, other) } else { (other, one) };
        match random.below(4) {
            0 => wire::KeyRange { start: Bytes::new(), end: None },
            1 => wire::KeyRange { start, end: None },
            _ => wire::KeyRange { start, end: Some([&end[..], &[0]].concat().into()) },
        }
    }

    /// What nobody else writes.
    fn mark(&mut self) -> String {
        self.written += 1;
        format!("{MARK}{}-{}", self.client, self.written)
    }

    /// A value that nobody else writes, now and then a long one.
    fn value(&mut self, random: &mut Random) -> Bytes {
        let mut value = self.mark().into_bytes();
        if random.chance(200) {
            let length = random.between(100, 1500);
            value.resize(usize::try_from(length).expect("short"), b'.');
        }
        value.into()
    }
}

/// Keys and values that a transaction may put, in order.
pub(crate) fn puts(transaction: &wire::Transaction) -> Vec<(Bytes, Bytes)> {
    use wire::operation::Kind;
    let mut found = Vec::new();
    for operation in transaction.success.iter().chain(&transaction.failure) {
        match &operation.kind {
            Some(Kind::Put(put)) => found.push((put.key.clone(), put.value.clone())),
            Some(Kind::Transaction(inner)) => found.extend(puts(inner)),
            Some(Kind::Delete(_) | Kind::Range(_)) | None => {}
        }
    }
    found
}

/// The header of an answer about data.
pub(crate) fn header_of(response: &Response) -> Option<wire::Header> {
    match response {
        Response::Put(reply) => reply.header,
        Response::Delete(reply) => reply.header,
        Response::Get(reply) => reply.header,
        Response::Transaction(reply) => reply.header,
        Response::LeaseGrant(reply) => reply.header,
        Response::LeaseKeepAlive(reply) => reply.header,
        Response::LeaseRevoke(reply) => reply.header,
        Response::SessionOpen(reply) => reply.header,
        Response::SessionClose(reply) => reply.header,
        Response::Compact(reply) => reply.header,
        Response::LeaseShow(_)
        | Response::LeaseList(_)
        | Response::Status(_)
        | Response::MemberChange(_)
        | Response::NodeConfig(_)
        | Response::LeaderTransfer(_)
        | Response::Error(_) => None,
    }
}
