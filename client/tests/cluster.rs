//! The client against nodes that do as a test says: how it finds its way, and what it says of writes that go without a session.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use client::{Error, Get, Level, Part, Put, Range, Scan};
use common::{Answer, Cluster, DEADLINE, SHORT, Script, credentials, header, silent_address};
use raft::NodeId;
use raftkv_client as client;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport::proto::client as wire;
use transport::{
    ClientLimits, ClientListener, ClientService, Identity, LEAF_VALIDITY, Request, Responder, Response, ScanResponder,
    Validity,
};
use wire::ErrorCode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_is_found_from_a_follower_and_remembered() {
    let mut cluster = Cluster::new("main");
    let (leader, on_leader) = cluster.start(Script::default());
    let (follower, on_follower) = cluster.start(Script::of([Answer::Redirect(leader)]));
    let client = cluster.client(&[&follower], DEADLINE);
    assert_eq!(client.put(("k", "v")).await.unwrap().revision, 7);
    assert_eq!(client.put(("k", "w")).await.unwrap().index, 9);
    assert_eq!((on_follower.requests(), on_leader.requests()), (1, 2));
}

#[test]
fn client_that_moves_to_another_runtime_goes_on_at_once_and_learns_the_members_there() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let nodes = runtime();
    let _spawns_there = nodes.enter();
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::default());
    let other = wire::Member { client_address: "another:7420".into(), ..wire::Member::default() };
    script.status.lock().unwrap().members.push(other);
    let client = cluster.client(&[&address], DEADLINE);
    runtime().block_on(client.put(("k", "v"))).unwrap();
    runtime().block_on(async {
        let began = Instant::now();
        client.put(("k", "w")).await.unwrap();
        assert!(began.elapsed() < DEADLINE / 5, "it waited for a connection on which nothing moves any more");
        while !format!("{client:?}").contains("another:7420") {
            assert!(began.elapsed() < DEADLINE, "the members are not learned");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_of_unknown_outcome_is_sent_once_without_a_session() {
    for answer in [Answer::Drop, Answer::Error(ErrorCode::OutcomeUnknown), Answer::Error(ErrorCode::Internal)] {
        let mut cluster = Cluster::new("main");
        let (first, on_first) = cluster.start(Script::of([answer]));
        let (second, on_second) = cluster.start(Script::default());
        let client = cluster.builder(&[&first, &second], DEADLINE).without_session().build().unwrap();
        let error = client.put(("k", "v")).await.unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
        assert_eq!((error.endpoint(), on_first.requests(), on_second.requests()), (first.as_str(), 1, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_without_an_answer_is_unknown_when_the_deadline_comes() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::of([Answer::Keep]));
    let client = cluster.builder(&[&address], SHORT).without_session().build().unwrap();
    let error = client.put(("k", "v")).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(script.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_that_was_refused_goes_again_until_it_succeeds() {
    let refusals = [ErrorCode::Unavailable, ErrorCode::NotLeader, ErrorCode::Unavailable].map(Answer::Error);
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::of(refusals));
    let client = cluster.client(&[&address], DEADLINE);
    assert_eq!(client.put(("k", "v")).await.unwrap().revision, 7);
    assert_eq!(script.requests(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_endpoint_does_not_keep_a_request_from_the_others() {
    let mut cluster = Cluster::new("main");
    let (_held, dead) = silent_address();
    let (live, _) = cluster.start(Script::default());
    let client = cluster.client(&[&dead, &live], DEADLINE);
    assert_eq!(client.get("k").await.unwrap().kv.unwrap().value, "k");
    client.put(("k", "v")).await.unwrap();
    let stale = Get::new("k").level(Level::Stale { age_max: None });
    assert_eq!(client.get(stale).await.unwrap().revision, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nobody_answers_a_write_was_certainly_not_applied() {
    let cluster = Cluster::new("main");
    let (_held, dead) = silent_address();
    let client = cluster.client(&[&dead], SHORT);
    let began = Instant::now();
    let error = client.put(("k", "v")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(began.elapsed() < DEADLINE, "the deadline of {SHORT:?} was passed by far: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_another_cluster_fails_at_once() {
    let mut cluster = Cluster::new("main");
    let (address, _) = cluster.start(Script::default());
    let stranger = Cluster::new("other").client(&[&address], DEADLINE);
    let began = Instant::now();
    let error = stranger.put(("k", "v")).await.unwrap_err();
    assert!(error.is_permission(), "{error:?}");
    assert!(began.elapsed() < DEADLINE, "it was tried until the deadline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_the_limit_is_not_sent() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script { value_bytes_max: 8, ..Script::default() });
    let client = cluster.client(&[&address], DEADLINE);
    let error = client.put(("k", "123456789")).await.unwrap_err();
    assert_eq!(error, Error::TooLarge { endpoint: address, part: Part::Value, bytes: Some(9), limit: 8 });
    client.put(Put::new("k", "12345678")).await.unwrap();
    assert_eq!(script.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_leaves_a_node_that_does_not_answer() {
    let mut cluster = Cluster::new("main");
    let (silent, _) = cluster.start(Script::of([Answer::Keep]));
    let (live, on_live) = cluster.start(Script::default());
    let client = cluster.client(&[&silent, &live], Duration::from_secs(3));
    assert_eq!(client.get("k").await.unwrap().kv.unwrap().key, "k");
    assert_eq!(on_live.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scan_goes_on_at_another_node_where_it_broke_off() {
    let mut cluster = Cluster::new("main");
    let (breaking, on_breaking) = cluster.start(Script { scan_breaks_after: Some(2), ..Script::default() });
    let (whole, on_whole) = cluster.start(Script::default());
    let client = cluster.client(&[&breaking, &whole], DEADLINE);
    let mut scan = client.scan(Scan::new(Range::from("a"))).await.unwrap();
    let mut keys = Vec::new();
    while let Some(kv) = scan.next().await.unwrap() {
        keys.push(String::from_utf8(kv.key.to_vec()).unwrap());
        if keys.len() == 2 {
            on_breaking.break_now.notify_one();
        }
    }
    assert_eq!(keys, ["a", "b", "c", "d"]);
    let summary = scan.summary().unwrap();
    assert_eq!((summary.revision, summary.count, summary.more), (7, 4, false));
    let resumed = on_whole.scans.lock().unwrap().pop().unwrap();
    assert_eq!(resumed.revision, Some(7), "both halves are of one revision");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_asks_every_member_and_shows_the_dead_ones() {
    let mut cluster = Cluster::new("main");
    let (first, on_first) = cluster.start(Script::default());
    let (second, on_second) = cluster.start(Script::default());
    let (_held, dead) = silent_address();
    let member = |id, client_address: &str| wire::Member {
        id,
        client_address: client_address.into(),
        kind: "voter".into(),
        ..wire::Member::default()
    };
    let members = vec![member(1, &first), member(2, &second), member(3, &dead)];
    for (node, script) in [(1, &on_first), (2, &on_second)] {
        *script.status.lock().unwrap() =
            wire::StatusReply { node, leader: 2, members: members.clone(), ..wire::StatusReply::default() };
    }
    let client = cluster.client(&[&first], DEADLINE);
    let lines = client.cluster_status().await.unwrap();
    let shown: Vec<_> = lines
        .iter()
        .map(|line| (line.member.as_ref().unwrap().id, line.status.as_ref().ok().map(|status| status.node)))
        .collect();
    assert_eq!(shown, [(1, Some(1)), (2, Some(2)), (3, None)]);
    let addresses: Vec<String> =
        client.member_list().await.unwrap().into_iter().map(|member| member.client_address).collect();
    assert_eq!(addresses, [first, second, dead]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn condition_that_does_not_hold_says_what_is_there() {
    // The node says so in its reply, not as an error.
    struct Refusing;
    impl ClientService for Refusing {
        fn hello(&self, _client: &Identity) -> wire::HelloReply {
            wire::HelloReply::default()
        }

        fn call(&self, _client: &Identity, _request: Request, responder: Responder) {
            let existing = wire::KeyValue { key: "k".into(), mod_revision: 5, ..wire::KeyValue::default() };
            let reply = wire::PutReply { header: Some(header()), succeeded: false, previous: Some(existing) };
            responder.answer(Response::Put(reply));
        }

        fn scan(&self, _client: &Identity, _request: wire::ScanRequest, responder: ScanResponder) {
            drop(responder);
        }

        fn watch(&self, _client: &Identity, _request: wire::WatchRequest, _responder: transport::WatchResponder) {
            unreachable!("nothing is watched here")
        }
    }
    let cluster = Cluster::new("main");
    let issued = cluster.authority.issue_node(NodeId(1), Validity::lasting(LEAF_VALIDITY)).unwrap();
    let bind = SocketAddr::from(([127, 0, 0, 1], 0));
    let credentials = credentials(&cluster.authority, &issued);
    let listener = ClientListener::start(bind, &credentials, ClientLimits::default(), Arc::new(Refusing)).unwrap();
    let address = listener.local_address().unwrap().to_string();
    let client = cluster.builder(&[&address], DEADLINE).without_session().build().unwrap();
    let error = client.put(Put::new("k", "v").if_absent()).await.unwrap_err();
    let Error::PreconditionFailed { existing: Some(existing), .. } = error else { panic!("{error:?}") };
    assert_eq!(existing.mod_revision, 5);
}
