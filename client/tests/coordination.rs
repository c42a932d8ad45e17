//! Transactions, leases, locks and elections, against nodes that answer as a test says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test's node has something to say about few kinds of requests")]

mod common;

use client::{Compare, Election, Level, Lock, LockError, Operation, OperationOutcome, Put, Range, Scan, Transaction};
use client::{Error, LeaseLoss};
use common::{Answer, Cluster, DEADLINE, Decide, SHORT, Script, header, success};
use raftkv_client as client;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use transport::proto::client as wire;
use transport::{Request, Response};
use wire::ErrorCode;

/// A time to live that a test can wait for, and that a busy machine does not miss by itself.
const TTL: Duration = Duration::from_millis(900);

fn pair(key: &str, create_revision: u64) -> wire::KeyValue {
    wire::KeyValue { key: key.to_owned().into(), value: "v".into(), create_revision, ..wire::KeyValue::default() }
}

fn found(kvs: Vec<wire::KeyValue>) -> wire::OperationOutcome {
    let count = kvs.len() as u64;
    let range = wire::RangeOutcome { kvs, count, more: false };
    wire::OperationOutcome { kind: Some(wire::operation_outcome::Kind::Range(range)) }
}

fn outcome(succeeded: bool, operations: Vec<wire::OperationOutcome>) -> Response {
    let outcome = Some(wire::TransactionOutcome { succeeded, operations });
    Response::Transaction(wire::TransactionReply { header: Some(header()), outcome })
}

fn kept_alive(ttl: Duration) -> Response {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap();
    Response::LeaseKeepAlive(wire::LeaseKeepAliveReply { header: Some(header()), ttl_ms })
}

/// What a line does: takes places, and says who stands before them.
fn line(ahead: impl Fn() -> Vec<wire::OperationOutcome> + Send + Sync + 'static) -> Decide {
    Box::new(move |request| match request {
        Request::LeaseKeepAlive(_) => kept_alive(Duration::from_secs(60)),
        Request::Transaction(transaction) if request.is_write() => {
            assert!(!transaction.transaction.as_ref().unwrap().compares.is_empty(), "a place is taken only once");
            outcome(
                true,
                vec![wire::OperationOutcome {
                    kind: Some(wire::operation_outcome::Kind::Put(wire::PutOutcome::default())),
                }],
            )
        }
        Request::Transaction(_) => outcome(true, ahead()),
        other => success(other.clone()),
    })
}

fn own() -> wire::OperationOutcome {
    // The script grants lease 70, and its revision is always 7.
    found(vec![pair("backup/@0000000000000046", 7)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_says_which_way_it_went_and_what_each_operation_did() {
    use wire::operation_outcome::Kind;
    let of = |kind| wire::OperationOutcome { kind: Some(kind) };
    let inner = wire::TransactionOutcome { succeeded: false, operations: vec![found(vec![pair("n", 3)])] };
    let reply = outcome(
        true,
        vec![
            of(Kind::Put(wire::PutOutcome { previous: Some(pair("k", 2)) })),
            of(Kind::Delete(wire::DeleteOutcome { deleted: 4, previous: Vec::new() })),
            of(Kind::Transaction(inner)),
        ],
    );
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::of([Answer::Reply(reply)]));
    let client = cluster.client(&[&address], DEADLINE);
    let transaction = Transaction::new().when(Compare::exists("k")).then(Operation::put(("k", "v")));
    let outcome = client.transaction(transaction).await.unwrap();
    assert_eq!((outcome.succeeded, outcome.revision, outcome.index), (true, 7, Some(9)));
    assert_eq!(outcome.operations[0].pairs()[0].create_revision, 2);
    assert_eq!(outcome.operations[1], OperationOutcome::Delete { deleted: 4, previous: Vec::new() });
    let OperationOutcome::Transaction { succeeded: false, operations } = &outcome.operations[2] else {
        panic!("{outcome:?}")
    };
    assert_eq!(operations[0].pairs()[0].key, "n");
    assert_eq!(script.numbers(), [(1, 1, 1)], "what can write comes in the session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_only_reads_is_a_read() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::of([Answer::Error(ErrorCode::Timeout)]));
    let client = cluster.client(&[&address], DEADLINE);
    let reads = Transaction::new().then(Operation::range(Scan::new(Range::all()))).level(Level::Lease);
    let outcome = client.transaction(reads).await.unwrap();
    assert_eq!((outcome.index, script.openings.load(Ordering::SeqCst)), (None, 0));
    assert_eq!(script.requests(), 2, "a read whose answer was lost goes again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_of_a_transaction_have_the_same_limits() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script { value_bytes_max: 8, ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let inner = Transaction::new().then(Operation::put(Put::new("k", "123456789")));
    let error = client.transaction(Transaction::new().otherwise(Operation::transaction(inner))).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 8, .. }), "{error:?}");
    let compare = Transaction::new().when(Compare::value("k").equals("123456789")).then(Operation::put(("k", "v")));
    assert!(client.transaction(compare).await.is_err());
    assert_eq!(script.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_kept_alive_while_its_handle_is_there_and_no_longer() {
    let alive = Arc::new(AtomicU64::new(0));
    let counter = alive.clone();
    let decide: Decide = Box::new(move |request| match request {
        Request::LeaseKeepAlive(request) => {
            assert_eq!(request.id, 70);
            counter.fetch_add(1, Ordering::SeqCst);
            kept_alive(TTL)
        }
        other => success(other.clone()),
    });
    let mut cluster = Cluster::new("main");
    let (address, _) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let began = Instant::now();
    let lease = client.grant_lease(TTL).await.unwrap();
    assert_eq!((lease.id(), lease.ttl()), (70, TTL));
    while alive.load(Ordering::SeqCst) < 4 {
        assert!(!lease.is_lost(), "lost after {:?}", began.elapsed());
        assert!(began.elapsed() < DEADLINE, "it is not kept alive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(began.elapsed() > TTL, "four thirds of its time have passed");
    drop(lease);
    let then = alive.load(Ordering::SeqCst);
    tokio::time::sleep(TTL).await;
    assert!(alive.load(Ordering::SeqCst) <= then + 1, "one may have been under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_keep_alives_are_not_answered_is_lost_when_its_time_is_over() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::default());
    let client = cluster.client(&[&address], DEADLINE);
    let began = Instant::now();
    let grant = wire::LeaseGrantReply { header: Some(header()), id: 70, ttl_ms: 900 };
    let answers = std::iter::once(Answer::Reply(Response::LeaseGrant(grant))).chain((0..99).map(|_| Answer::Keep));
    script.answers.lock().unwrap().extend(answers);
    let lease = client.grant_lease(TTL).await.unwrap();
    assert!(!lease.is_lost());
    let loss = tokio::time::timeout(DEADLINE, lease.lost()).await.unwrap();
    assert!(matches!(loss, LeaseLoss::NotKeptAlive { ttl: TTL, .. }), "{loss:?}");
    assert!(began.elapsed() >= TTL, "it was given up before its time");
    assert!(lease.is_lost() && lease.held_until().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_the_cluster_has_ended_is_lost_at_once() {
    let decide: Decide = Box::new(|request| match request {
        Request::LeaseKeepAlive(_) => Response::error(ErrorCode::LeaseUnknown, "no lease 70"),
        other => success(other.clone()),
    });
    let mut cluster = Cluster::new("main");
    let (address, _) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let lease = client.grant_lease(TTL).await.unwrap();
    let loss = tokio::time::timeout(DEADLINE, lease.lost()).await.unwrap();
    assert_eq!(loss, LeaseLoss::Ended { cause: "no lease 70".into() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_counts_from_the_moment_at_which_it_was_asked_for() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::of([Answer::Keep]));
    let client = cluster.client(&[&address], DEADLINE);
    let began = Instant::now();
    let granting = tokio::spawn(async move { client.grant_lease(Duration::from_secs(60)).await });
    let responder = loop {
        if let Some(responder) = script.kept.lock().unwrap().pop() {
            break responder;
        }
        tokio::task::yield_now().await;
    };
    let asked_before = Instant::now();
    // The answer takes its time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    responder.answer(Response::LeaseGrant(wire::LeaseGrantReply { header: Some(header()), id: 70, ttl_ms: 60_000 }));
    let lease = granting.await.unwrap().unwrap();
    let until = lease.held_until().unwrap();
    assert!(until >= began + Duration::from_secs(60) && until <= asked_before + Duration::from_secs(60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_nobody_else_wants_is_held_with_its_revision_as_the_token() {
    let mut cluster = Cluster::new("main");
    let decide = line(|| vec![own(), found(Vec::new())]);
    let (address, script) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let guard = client.lock(Lock::new("backup").value("me")).await.unwrap();
    assert_eq!((guard.token(), guard.key().as_ref()), (7, b"backup/@0000000000000046".as_slice()));
    guard.unlock().await.unwrap();
    let seen = script.seen.lock().unwrap();
    let revoked = seen.iter().filter(|request| matches!(request, Request::LeaseRevoke(revoke) if revoke.id == 70));
    assert_eq!(revoked.count(), 1, "{seen:?}");
    let put = seen.iter().find_map(|request| match request {
        Request::Transaction(request) => request.transaction.as_ref().unwrap().success.first().cloned(),
        _ => None,
    });
    let Some(wire::operation::Kind::Put(put)) = put.unwrap().kind else { panic!("the place is taken by a put") };
    assert_eq!((put.lease, put.value.as_ref()), (Some(wire::put_request::Lease::LeaseId(70)), b"me".as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_waits_for_the_place_before_its_own_and_looks_again() {
    let (looked, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (looks, reads) = (looked.clone(), read.clone());
    // Somebody stands before at first, then somebody who stood further ahead, then nobody.
    let places = line(move || match looks.fetch_add(1, Ordering::SeqCst) {
        0 => vec![own(), found(vec![pair("backup/b", 6)])],
        1 => vec![own(), found(vec![pair("backup/a", 5)])],
        _ => vec![own(), found(Vec::new())],
    });
    let decide: Decide = Box::new(move |request| match request {
        Request::Get(get) => {
            let times = reads.fetch_add(1, Ordering::SeqCst);
            // The first is there when the watch has begun; in place of the second there is another, created later.
            let kv = if times == 0 { pair("backup/b", 6) } else { pair("backup/a", 9) };
            assert_eq!(get.key, kv.key);
            let kv = Some(kv);
            Response::Get(wire::GetReply { header: Some(header()), kv })
        }
        other => places(other),
    });
    let mut cluster = Cluster::new("main");
    let (address, _) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let guard = tokio::time::timeout(DEADLINE, client.lock(Lock::new("backup"))).await.unwrap().unwrap();
    assert_eq!((guard.token(), looked.load(Ordering::SeqCst), read.load(Ordering::SeqCst)), (7, 3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_gone_is_no_lock() {
    let mut cluster = Cluster::new("main");
    let decide = line(|| vec![found(Vec::new()), found(Vec::new())]);
    let (address, _) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let error = client.lock(Lock::new("backup")).await.unwrap_err();
    assert!(matches!(error, LockError::Lost(LeaseLoss::KeyGone { .. })), "{error:?}");
}

/// From the key alone it looks the same; the cluster knows whether there is the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_went_with_its_lease_says_so() {
    let mut cluster = Cluster::new("main");
    let places = line(|| vec![found(Vec::new()), found(Vec::new())]);
    let decide: Decide = Box::new(move |request| match request {
        Request::LeaseShow(_) => Response::error(ErrorCode::LeaseUnknown, "there is no lease 70"),
        other => places(other),
    });
    let (address, _) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let LockError::Lost(LeaseLoss::Ended { cause }) = client.lock(Lock::new("backup")).await.unwrap_err() else {
        panic!("it was lost with its lease")
    };
    assert!(cause.contains("lease 70 was revoked or has expired"), "{cause}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_lock_ends_when_the_lease_of_the_place_is_lost() {
    let decide: Decide = Box::new(|request| match request {
        Request::LeaseKeepAlive(_) => Response::error(ErrorCode::LeaseUnknown, "it is over"),
        Request::Get(_) => Response::Get(wire::GetReply { header: Some(header()), kv: Some(pair("backup/a", 5)) }),
        Request::Transaction(_) if !request.is_write() => outcome(true, vec![own(), found(vec![pair("backup/a", 5)])]),
        other => success(other.clone()),
    });
    let mut cluster = Cluster::new("main");
    let (address, _) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let waiting = client.lock(Lock::new("backup").ttl(TTL));
    let error = tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap_err();
    assert_eq!(error, LockError::Lost(LeaseLoss::Ended { cause: "it is over".into() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_want_to_wait_any_longer_leaves_the_line() {
    let mut cluster = Cluster::new("main");
    let places = line(|| vec![own(), found(vec![pair("backup/a", 5)])]);
    let decide: Decide = Box::new(move |request| match request {
        Request::Get(_) => Response::Get(wire::GetReply { header: Some(header()), kv: Some(pair("backup/a", 5)) }),
        other => places(other),
    });
    let (address, script) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let taken = client.lock_unless(Lock::new("backup"), tokio::time::sleep(SHORT)).await.unwrap();
    assert!(taken.is_none());
    let seen = script.seen.lock().unwrap();
    assert!(matches!(seen.last(), Some(Request::LeaseRevoke(revoke)) if revoke.id == 70), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trying_a_lock_that_somebody_has_takes_no_place() {
    let mut cluster = Cluster::new("main");
    let decide = line(|| vec![found(vec![pair("backup/a", 5)])]);
    let (address, script) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    assert!(client.try_lock(Lock::new("backup")).await.unwrap().is_none());
    assert_eq!(script.requests(), 1, "nothing but a look");
    assert!(client.try_lock(Lock::new("")).await.is_err(), "a lock has a name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_deposed_cannot_proclaim() {
    let mut cluster = Cluster::new("main");
    let decide = line(|| vec![own(), found(Vec::new())]);
    let (address, script) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let leadership = client.campaign(Election::new("backup"), "here").await.unwrap();
    assert_eq!(leadership.proclaim("there").await.unwrap(), 7);
    script.answers.lock().unwrap().push_back(Answer::Reply(outcome(false, Vec::new())));
    let error = leadership.proclaim("elsewhere").await.unwrap_err();
    assert!(matches!(error, client::ElectionError::Lost(_)), "{error:?}");
    leadership.resign().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_is_told_of_each_leader_once() {
    let looked = Arc::new(AtomicUsize::new(0));
    let decide = line(move || match looked.fetch_add(1, Ordering::SeqCst) {
        0 => vec![found(Vec::new())],
        1 | 2 => vec![found(vec![pair("backup/a", 5)])],
        _ => vec![found(vec![pair("backup/b", 6)])],
    });
    let mut cluster = Cluster::new("main");
    let (address, _) = cluster.start(Script { decide: Some(decide), ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let mut observer = client.observe("backup").unwrap();
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let elected = tokio::time::timeout(DEADLINE, observer.next()).await.unwrap().unwrap();
        tokens.push(elected.map(|elected| elected.token));
    }
    assert_eq!(tokens, [None, Some(5), Some(6)]);
    assert!(tokio::time::timeout(SHORT, observer.next()).await.is_err(), "nothing has changed since");
}
