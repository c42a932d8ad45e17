//! A raftkv node, asked over its own protocol.

use super::DEADLINE;
use super::answer::{Answer, Done, Event, Found, Kind, Pair};
use super::operation::{Compare, Delete, Operation, Put, Range, Read, Relation, Step, Target, Transaction, Watch};
use std::time::{Duration, Instant};
use transport::proto::client as wire;
use transport::{ClientConnection, Credentials, Request, Response, ScanError, WatchError};
use wire::ErrorCode;

/// Nothing expires while the comparison runs.
const LEASE_MS: u64 = 100_000_000;

pub struct Raftkv {
    connection: ClientConnection,
}

impl Raftkv {
    /// Connects to a node and waits until it takes everything that there is.
    pub async fn connect(address: &str, credentials: &Credentials) -> Raftkv {
        let connected = ClientConnection::connect(address, credentials, DEADLINE).await;
        let raftkv = Raftkv { connection: connected.expect("the node is up").0 };
        let deadline = Instant::now() + DEADLINE;
        loop {
            // Refused until the format is raised, which a new cluster does within a second or two.
            let grant = wire::LeaseGrantRequest { id: 1 << 40, ttl_ms: LEASE_MS, session: None };
            match raftkv.call(Request::LeaseGrant(grant)).await {
                Ok(Response::LeaseGrant(_)) => return raftkv,
                Ok(other) => panic!("an answer of another kind: {other:?}"),
                Err(error) if error.code() == ErrorCode::Unavailable => {
                    assert!(Instant::now() < deadline, "the node does not take leases: {error:?}");
                }
                Err(error) => panic!("{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn call(&self, request: Request) -> Result<Response, wire::Error> {
        match self.connection.call(request).await.expect("the node answers") {
            Response::Error(error) => Err(error),
            response => Ok(response),
        }
    }

    /// Does it. `newest` is the newest revision.
    pub async fn run(&self, operation: &Operation, newest: u64) -> Answer {
        match self.attempt(operation, newest).await {
            Ok(answer) => answer,
            Err(error) => Answer::Error(kind(&error)),
        }
    }

    async fn attempt(&self, operation: &Operation, newest: u64) -> Result<Answer, wire::Error> {
        let request = match operation {
            Operation::Put(request) => Request::Put(put(request)),
            Operation::Delete(request) => Request::Delete(delete(request)),
            Operation::Read(request) => return self.read(request).await,
            Operation::Transaction(request) => Request::Transaction(wire::TransactionRequest {
                transaction: Some(transaction(request)),
                ..wire::TransactionRequest::default()
            }),
            Operation::Compact(revision) => Request::Compact(wire::CompactRequest { revision: *revision }),
            Operation::Grant(id) => {
                Request::LeaseGrant(wire::LeaseGrantRequest { id: *id, ttl_ms: LEASE_MS, session: None })
            }
            Operation::Revoke(id) => Request::LeaseRevoke(wire::LeaseRevokeRequest { id: *id, session: None }),
            Operation::Show(id) => Request::LeaseShow(wire::LeaseShowRequest { id: *id, keys: true }),
            Operation::Watch(request) => return self.watch(request, newest).await,
        };
        Ok(match self.call(request).await? {
            Response::Put(answer) => {
                assert!(answer.succeeded, "there is no condition: {answer:?}");
                let previous = answer.previous.map(pair);
                Answer::Done { revision: revision(answer.header), done: Done::Put { previous } }
            }
            Response::Delete(answer) => {
                let previous = answer.previous.into_iter().map(pair).collect();
                let done = Done::Deleted { count: answer.deleted, previous };
                Answer::Done { revision: revision(answer.header), done }
            }
            Response::Transaction(answer) => {
                let done = transaction_done(answer.outcome.expect("a transaction has an outcome"));
                Answer::Done { revision: revision(answer.header), done }
            }
            Response::Compact(_) => Answer::Compacted,
            Response::LeaseGrant(_) => Answer::Granted,
            Response::LeaseRevoke(answer) => Answer::Revoked { revision: revision(answer.header) },
            Response::LeaseShow(answer) => {
                let mut keys = answer.keys;
                keys.sort();
                Answer::Lease { keys }
            }
            other => panic!("an answer of another kind: {other:?}"),
        })
    }

    async fn read(&self, request: &Read) -> Result<Answer, wire::Error> {
        let mut stream = self.connection.scan(&read(request)).await.expect("the connection holds");
        let (mut pairs, mut last) = (Vec::new(), None);
        loop {
            match stream.next().await {
                Ok(Some(reply)) => {
                    pairs.extend(reply.kvs.iter().cloned().map(pair));
                    last = Some(reply);
                }
                Ok(None) => break,
                Err(ScanError::Node(error)) => return Err(error),
                Err(broken) => panic!("{broken}"),
            }
        }
        let last = last.expect("a scan has a last reply");
        let count = if request.count_only { last.count } else { last.total.expect("it was asked for") };
        // At which revision the store is, a read of an older one does not say; the caller knows.
        let done = Done::Read(Found { pairs, count, more: last.more });
        Ok(Answer::Done { revision: revision(last.header), done })
    }

    async fn watch(&self, watch: &Watch, newest: u64) -> Result<Answer, wire::Error> {
        let request = wire::WatchRequest {
            range: Some(range(&watch.range)),
            from_revision: Some(watch.from),
            previous: watch.previous,
            no_puts: watch.no_puts,
            no_deletes: watch.no_deletes,
            progress_interval_ms: 50,
        };
        let mut stream = self.connection.watch(&request).await.expect("the connection holds");
        let mut events = Vec::new();
        loop {
            match stream.next(DEADLINE).await {
                Ok(reply) => {
                    let is_first = reply.events.is_empty() && revision(reply.header) < watch.from;
                    let done = revision(reply.header) >= newest && !is_first;
                    events.extend(reply.events.into_iter().map(event));
                    if done {
                        return Ok(Answer::Events(events));
                    }
                }
                Err(WatchError::Node(error)) => return Err(error),
                Err(broken) => panic!("{broken}"),
            }
        }
    }
}

fn revision(header: Option<wire::Header>) -> u64 {
    header.expect("a reply about data has a header").revision
}

fn kind(error: &wire::Error) -> Kind {
    match error.code() {
        ErrorCode::Compacted => Kind::Compacted,
        ErrorCode::FutureRevision => Kind::FutureRevision,
        ErrorCode::LeaseUnknown => Kind::LeaseUnknown,
        ErrorCode::LeaseExists => Kind::LeaseExists,
        ErrorCode::KeyUnknown => Kind::KeyUnknown,
        ErrorCode::Invalid if error.message.contains("twice") => Kind::DuplicateKey,
        ErrorCode::Invalid => Kind::Invalid,
        _ => panic!("raftkv says: {error:?}"),
    }
}

fn pair(kv: wire::KeyValue) -> Pair {
    let wire::KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
    Pair { key, value, create_revision, mod_revision, version, lease }
}

fn event(event: wire::WatchEvent) -> Event {
    let pair = pair(event.kv.expect("an event has a pair"));
    Event { deleted: event.deleted, pair, previous: event.previous.map(self::pair) }
}

fn transaction_done(outcome: wire::TransactionOutcome) -> Done {
    use wire::operation_outcome::Kind;
    let steps = outcome.operations.into_iter().map(|step| match step.kind.expect("each step has an outcome") {
        Kind::Put(put) => Done::Put { previous: put.previous.map(pair) },
        Kind::Delete(delete) => {
            Done::Deleted { count: delete.deleted, previous: delete.previous.into_iter().map(pair).collect() }
        }
        Kind::Range(range) => {
            Done::Read(Found { pairs: range.kvs.into_iter().map(pair).collect(), count: range.count, more: range.more })
        }
        Kind::Transaction(transaction) => transaction_done(transaction),
    });
    Done::Transaction { succeeded: outcome.succeeded, steps: steps.collect() }
}

fn range(range: &Range) -> wire::KeyRange {
    wire::KeyRange { start: range.start.clone(), end: range.end.clone() }
}

fn put(put: &Put) -> wire::PutRequest {
    use wire::put_request::Lease;
    let lease = match put.lease {
        None => Some(Lease::KeepLease(true)),
        Some(0) => None,
        Some(id) => Some(Lease::LeaseId(id)),
    };
    wire::PutRequest {
        key: put.key.clone(),
        value: put.value.clone().unwrap_or_default(),
        previous: put.previous,
        lease,
        keep_value: put.value.is_none(),
        ..wire::PutRequest::default()
    }
}

fn delete(delete: &Delete) -> wire::DeleteRequest {
    wire::DeleteRequest { range: Some(range(&delete.range)), previous: delete.previous, session: None }
}

fn read(read: &Read) -> wire::ScanRequest {
    wire::ScanRequest {
        range: Some(range(&read.range)),
        limit: read.limit,
        keys_only: read.keys_only,
        count_only: read.count_only,
        revision: read.revision,
        sort_by: read.sort_by,
        descending: read.descending,
        mod_revision_min: read.mod_min,
        mod_revision_max: read.mod_max,
        create_revision_min: read.create_min,
        create_revision_max: read.create_max,
        count_total: true,
        ..wire::ScanRequest::default()
    }
}

fn transaction(transaction: &Transaction) -> wire::Transaction {
    wire::Transaction {
        compares: transaction.compares.iter().map(compare).collect(),
        success: transaction.success.iter().map(step).collect(),
        failure: transaction.failure.iter().map(step).collect(),
    }
}

fn compare(compare: &Compare) -> wire::Compare {
    use wire::compare::Target as Wire;
    let target = match &compare.target {
        Target::Version(number) => Wire::Version(*number),
        Target::CreateRevision(number) => Wire::CreateRevision(*number),
        Target::ModRevision(number) => Wire::ModRevision(*number),
        Target::Value(value) => Wire::Value(value.clone()),
        Target::Lease(number) => Wire::Lease(*number),
    };
    let relation = match compare.relation {
        Relation::Equal => wire::Relation::Equal,
        Relation::NotEqual => wire::Relation::NotEqual,
        Relation::Less => wire::Relation::Less,
        Relation::Greater => wire::Relation::Greater,
    };
    wire::Compare { range: Some(range(&compare.range)), relation: relation.into(), target: Some(target) }
}

fn step(step: &Step) -> wire::Operation {
    use wire::operation::Kind;
    let kind = match step {
        Step::Put(request) => Kind::Put(put(request)),
        Step::Delete(request) => Kind::Delete(delete(request)),
        Step::Read(request) => Kind::Range(read(request)),
        Step::Transaction(request) => Kind::Transaction(transaction(request)),
    };
    wire::Operation { kind: Some(kind) }
}
