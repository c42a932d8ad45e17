//! What format 4 adds, asked for over the wire at real processes: transactions, leases that end by themselves, sessions in which a retry is harmless, compaction.
//!
//! The requests are sent as they are, without the client library, which would hide refusals and repeat by itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Cluster, DEADLINE};
use std::time::{Duration, Instant};
use transport::proto::client as wire;
use transport::{ClientConnection, CredentialPaths, Credentials, Request, Response};
use wire::ErrorCode;
use wire::operation::Kind;

/// A connection to the node at this position.
async fn connect(cluster: &Cluster, node: usize) -> ClientConnection {
    let admin = cluster.out().join("admin");
    let credentials = Credentials::load(&CredentialPaths {
        authority: admin.join("ca.crt"),
        certificate: admin.join("client.crt"),
        key: admin.join("client.key"),
    })
    .unwrap();
    let address = cluster.nodes[node].client_address();
    ClientConnection::connect(address, &credentials, DEADLINE).await.unwrap().0
}

/// The leader's answer, once it takes such requests: a new cluster raises its format for a second.
async fn ask(cluster: &mut Cluster, request: Request) -> Response {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let leader = cluster.agreed_leader().await;
        let response = connect(cluster, leader).await.call(request.clone()).await.unwrap();
        let Response::Error(error) = &response else { return response };
        if !matches!(error.code(), ErrorCode::Unavailable | ErrorCode::NotLeader) {
            return response;
        }
        assert!(Instant::now() < deadline, "still refused: {error:?}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn code(cluster: &mut Cluster, request: Request) -> ErrorCode {
    let Response::Error(error) = ask(cluster, request).await else { panic!("it was not refused") };
    error.code()
}

fn put(key: &'static str, value: &'static str) -> wire::PutRequest {
    wire::PutRequest { key: key.into(), value: value.into(), ..wire::PutRequest::default() }
}

fn key(key: &'static str) -> Option<wire::KeyRange> {
    Some(wire::KeyRange { start: key.into(), end: Some([key.as_bytes(), &[0]].concat().into()) })
}

async fn get(cluster: &mut Cluster, key: &'static str) -> Option<wire::KeyValue> {
    let request = wire::GetRequest { key: key.into(), ..wire::GetRequest::default() };
    let Response::Get(reply) = ask(cluster, Request::Get(request)).await else { panic!("a get is answered as one") };
    reply.kv
}

fn operation(kind: Kind) -> wire::Operation {
    wire::Operation { kind: Some(kind) }
}

fn value_is(name: &'static str, value: &'static str) -> wire::Compare {
    wire::Compare {
        range: key(name),
        relation: wire::Relation::Equal.into(),
        target: Some(wire::compare::Target::Value(value.into())),
    }
}

async fn transact(cluster: &mut Cluster, transaction: wire::Transaction) -> (u64, wire::TransactionOutcome) {
    let transaction = Some(transaction);
    let request = Request::Transaction(wire::TransactionRequest { transaction, ..wire::TransactionRequest::default() });
    let Response::Transaction(reply) = ask(cluster, request).await else { panic!("it is answered as one") };
    (reply.header.unwrap().revision, reply.outcome.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_carried_out_one_way_or_the_other_at_one_revision() {
    let mut cluster = Cluster::start(3).await;
    ask(&mut cluster, Request::Put(put("balance/a", "10"))).await;
    let swap = wire::Transaction {
        compares: vec![value_is("balance/a", "10")],
        success: vec![
            operation(Kind::Put(wire::PutRequest { previous: true, ..put("balance/a", "0") })),
            operation(Kind::Put(put("balance/b", "10"))),
        ],
        failure: vec![operation(Kind::Range(wire::ScanRequest { range: key("balance/a"), ..Default::default() }))],
    };
    let (revision, outcome) = transact(&mut cluster, swap.clone()).await;
    assert!(outcome.succeeded && outcome.operations.len() == 2, "{outcome:?}");
    for name in ["balance/a", "balance/b"] {
        assert_eq!(get(&mut cluster, name).await.unwrap().mod_revision, revision);
    }
    let (unchanged, outcome) = transact(&mut cluster, swap).await;
    assert_eq!((unchanged, outcome.succeeded), (revision, false));
    let Some(wire::operation_outcome::Kind::Range(range)) = &outcome.operations[0].kind else { panic!("{outcome:?}") };
    assert_eq!((range.kvs[0].value.as_ref(), range.count, range.more), (&b"0"[..], 1, false));
    let read = wire::Transaction {
        compares: vec![value_is("balance/b", "10")],
        success: vec![operation(Kind::Range(wire::ScanRequest { range: key("balance/b"), ..Default::default() }))],
        failure: Vec::new(),
    };
    let (at, outcome) = transact(&mut cluster, read).await;
    assert_eq!((at, outcome.succeeded), (revision, true), "one that only reads takes no revision");
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_nobody_keeps_alive_ends_with_its_keys_and_one_that_is_revoked_at_once() {
    let mut cluster = Cluster::start(3).await;
    let grant = wire::LeaseGrantRequest { id: 0, ttl_ms: 2_000, session: None };
    let Response::LeaseGrant(granted) = ask(&mut cluster, Request::LeaseGrant(grant)).await else { panic!("no lease") };
    let lease = Some(wire::put_request::Lease::LeaseId(granted.id));
    ask(&mut cluster, Request::Put(wire::PutRequest { lease, ..put("by-lease", "v") })).await;
    let lease = Some(wire::put_request::Lease::TtlMs(2_000));
    ask(&mut cluster, Request::Put(wire::PutRequest { lease, ..put("by-itself", "v") })).await;
    let show = Request::LeaseShow(wire::LeaseShowRequest { id: granted.id, keys: true });
    let Response::LeaseShow(shown) = ask(&mut cluster, show.clone()).await else { panic!("it is not shown") };
    assert_eq!(shown.keys, ["by-lease"]);
    assert!(shown.lease.unwrap().remaining_ms <= 2_000);
    let list = Request::LeaseList(wire::LeaseListRequest::default());
    let Response::LeaseList(listed) = ask(&mut cluster, list).await else { panic!("they are not listed") };
    assert_eq!(listed.leases.len(), 2);
    // Longer than its time to live: it ends all the same while another leader takes over.
    let kept = Request::LeaseKeepAlive(wire::LeaseKeepAliveRequest { id: granted.id });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(matches!(ask(&mut cluster, kept.clone()).await, Response::LeaseKeepAlive(_)));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(get(&mut cluster, "by-lease").await.is_some(), "it was kept alive");
    let leader = cluster.agreed_leader().await;
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    let deadline = Instant::now() + DEADLINE;
    while get(&mut cluster, "by-lease").await.is_some() || get(&mut cluster, "by-itself").await.is_some() {
        assert!(Instant::now() < deadline, "it does not end\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(code(&mut cluster, show).await, ErrorCode::LeaseUnknown);
    assert_eq!(code(&mut cluster, kept).await, ErrorCode::LeaseUnknown);
    let grant = wire::LeaseGrantRequest { id: 77, ttl_ms: 3_600_000, session: None };
    ask(&mut cluster, Request::LeaseGrant(grant)).await;
    assert_eq!(code(&mut cluster, Request::LeaseGrant(grant)).await, ErrorCode::LeaseExists);
    let lease = Some(wire::put_request::Lease::LeaseId(77));
    ask(&mut cluster, Request::Put(wire::PutRequest { lease, ..put("revoked", "v") })).await;
    let revoke = Request::LeaseRevoke(wire::LeaseRevokeRequest { id: 77, session: None });
    let Response::LeaseRevoke(revoked) = ask(&mut cluster, revoke).await else { panic!("it is not revoked") };
    assert_eq!(revoked.deleted, 1);
    assert_eq!(get(&mut cluster, "revoked").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_sent_again_in_its_session_gets_its_first_answer_also_from_the_next_leader() {
    let mut cluster = Cluster::start(3).await;
    let open = Request::SessionOpen(wire::SessionOpenRequest { ttl_ms: 0 });
    let Response::SessionOpen(opened) = ask(&mut cluster, open).await else { panic!("no session") };
    let session = opened.session;
    let call = |sequence, oldest| Some(wire::SessionCall { session, sequence, oldest });
    let first = Request::Put(wire::PutRequest { session: call(1, 1), ..put("k", "one") });
    let Response::Put(answered) = ask(&mut cluster, first.clone()).await else { panic!("it is not written") };
    ask(&mut cluster, Request::Put(wire::PutRequest { session: call(2, 1), ..put("k", "two") })).await;
    let leader = cluster.agreed_leader().await;
    cluster.nodes[leader].kill();
    cluster.nodes[leader].start();
    let Response::Put(again) = ask(&mut cluster, first.clone()).await else { panic!("it is not answered") };
    let revision = |reply: &wire::PutReply| reply.header.unwrap().revision;
    assert_eq!(revision(&again), revision(&answered));
    assert_eq!(get(&mut cluster, "k").await.unwrap().value.as_ref(), b"two", "it was not written again");
    ask(&mut cluster, Request::Put(wire::PutRequest { session: call(3, 3), ..put("k", "three") })).await;
    assert_eq!(code(&mut cluster, first.clone()).await, ErrorCode::AnswerForgotten);
    ask(&mut cluster, Request::SessionClose(wire::SessionCloseRequest { session })).await;
    assert_eq!(code(&mut cluster, first).await, ErrorCode::SessionUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_cannot_be_read_and_what_is_to_come_not_yet() {
    let mut cluster = Cluster::start(3).await;
    for value in ["one", "two", "three"] {
        ask(&mut cluster, Request::Put(put("k", value))).await;
    }
    let newest = get(&mut cluster, "k").await.unwrap().mod_revision;
    let compact = |revision| Request::Compact(wire::CompactRequest { revision });
    let Response::Compact(reply) = ask(&mut cluster, compact(newest)).await else { panic!("it is not compacted") };
    assert_eq!(reply.compacted, newest);
    let at = |revision| {
        Request::Get(wire::GetRequest { key: "k".into(), revision: Some(revision), ..wire::GetRequest::default() })
    };
    assert_eq!(code(&mut cluster, at(newest - 1)).await, ErrorCode::Compacted);
    assert_eq!(code(&mut cluster, at(newest + 1_000)).await, ErrorCode::FutureRevision);
    assert_eq!(code(&mut cluster, at(0)).await, ErrorCode::Invalid);
    assert_eq!(code(&mut cluster, compact(newest + 1_000)).await, ErrorCode::FutureRevision);
    assert!(matches!(ask(&mut cluster, at(newest)).await, Response::Get(reply) if reply.kv.is_some()));
}
