//! A raftkv node, asked over its own protocol.

use super::DEADLINE;
use super::answer::{Answer, Coming, Done, Event, Found, Kind, Pair};
use super::operation::{Compare, Delete, Operation, Put, Range, Read, Relation, Step, Target, Transaction, Watch};
use std::time::{Duration, Instant};
use transport::proto::client as wire;
use transport::{ClientConnection, Credentials, Request, Response, ScanError, WatchError};
use wire::ErrorCode;

/// A lease to try whether leases are taken.
const TRIAL: u64 = 1 << 40;

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
            let grant = wire::LeaseGrantRequest { id: TRIAL, ttl_ms: 1_000_000, session: None };
            match raftkv.call(Request::LeaseGrant(grant)).await {
                Ok(Response::LeaseGrant(_)) => {
                    let revoke = wire::LeaseRevokeRequest { id: TRIAL, session: None };
                    raftkv.call(Request::LeaseRevoke(revoke)).await.expect("it was granted a moment ago");
                    return raftkv;
                }
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
            Operation::Grant { id, seconds } => {
                Request::LeaseGrant(wire::LeaseGrantRequest { id: *id, ttl_ms: seconds * 1000, session: None })
            }
            Operation::KeepAlive(id) => Request::LeaseKeepAlive(wire::LeaseKeepAliveRequest { id: *id }),
            Operation::Revoke(id) => Request::LeaseRevoke(wire::LeaseRevokeRequest { id: *id, session: None }),
            Operation::Show(id) => Request::LeaseShow(wire::LeaseShowRequest { id: *id, keys: true }),
            Operation::Leases => Request::LeaseList(wire::LeaseListRequest::default()),
            Operation::Watch(request) => return self.watch(request, newest).await,
            Operation::Open(_) | Operation::Close(_) => unreachable!("no single request"),
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
            Response::LeaseGrant(answer) => Answer::Granted(seconds(answer.ttl_ms)),
            Response::LeaseKeepAlive(answer) => Answer::KeptAlive(seconds(answer.ttl_ms)),
            Response::LeaseRevoke(answer) => Answer::Revoked { revision: revision(answer.header) },
            Response::LeaseShow(answer) => {
                let mut keys = answer.keys;
                keys.sort();
                let lease = answer.lease.expect("an answer about a lease has one");
                assert_eq!(keys.len() as u64, lease.key_count);
                Answer::Lease {
                    granted_seconds: seconds(lease.ttl_ms),
                    remaining_seconds: seconds(lease.remaining_ms),
                    keys,
                }
            }
            Response::LeaseList(answer) => {
                assert!(!answer.more, "a handful fit into one answer");
                Answer::Leases(answer.leases.iter().map(|lease| lease.id).collect())
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
        let revision = revision(last.header);
        if is_whole_key(request) {
            self.check_get(request, pairs.first(), revision).await;
        }
        Ok(Answer::Done { revision, done: Done::Read(Found { pairs, count, more: last.more }) })
    }

    /// A get has a path of its own, and must find what the scan has found.
    async fn check_get(&self, request: &Read, expected: Option<&Pair>, newest: u64) {
        let get = wire::GetRequest {
            key: request.range.start.clone(),
            revision: request.revision,
            ..wire::GetRequest::default()
        };
        let Response::Get(found) = self.call(Request::Get(get)).await.expect("the scan was answered") else {
            panic!("an answer of another kind")
        };
        assert_eq!((found.kv.map(pair).as_ref(), revision(found.header)), (expected, newest), "{request:?}");
    }

    /// Begins a watch that goes on.
    pub async fn open(&self, watch: &Watch) -> Coming {
        let mut stream = self.connection.watch(&watch_request(watch)).await.expect("the connection holds");
        // The first reply says where the watch begins: what happens from then on is told.
        let mut first = Some(stream.next(DEADLINE).await);
        let (events, coming) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let reply = match first.take() {
                    Some(reply) => reply,
                    None => tokio::select! {
                        () = events.closed() => return,
                        reply = stream.next(DEADLINE) => reply,
                    },
                };
                let answer = match reply {
                    Ok(reply) => Ok(reply.events.into_iter().map(event).collect()),
                    Err(WatchError::Node(error)) => Err(kind(&error)),
                    Err(broken) => panic!("{broken}"),
                };
                let has_ended = answer.is_err();
                // Fails when nobody waits for it any more.
                let _ = events.send(answer);
                if has_ended {
                    return;
                }
            }
        });
        coming
    }

    async fn watch(&self, watch: &Watch, newest: u64) -> Result<Answer, wire::Error> {
        let mut stream = self.connection.watch(&watch_request(watch)).await.expect("the connection holds");
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

/// Whole seconds, any begun one counted, as etcd has them.
fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}

/// Whether a read is of one key, and leaves nothing of it out.
fn is_whole_key(read: &Read) -> bool {
    let range = &read.range;
    let is_single = range.end.as_ref().is_some_and(|end| *end == [&range.start[..], &[0]].concat());
    let is_filtered = [read.mod_min, read.mod_max, read.create_min, read.create_max].iter().any(Option::is_some);
    is_single && !is_filtered && !read.keys_only && !read.count_only
}

fn watch_request(watch: &Watch) -> wire::WatchRequest {
    wire::WatchRequest {
        range: Some(range(&watch.range)),
        from_revision: Some(watch.from),
        previous: watch.previous,
        no_puts: watch.no_puts,
        no_deletes: watch.no_deletes,
        progress_interval_ms: 50,
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
