//! The client protocol over real QUIC on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{DEADLINE, Service, client, get, listener, node, put, until};
use raft::NodeId;
use raftkv_transport::proto::client as wire;
use raftkv_transport::proto::client::ErrorCode;
use raftkv_transport::{
    AnswerClosed, CallError, ClientConnection, ClientLimits, Identity, NamedGroup, Response, ScanError, WatchError,
    WatchStream,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_is_tls13_with_hybrid_key_exchange_and_a_proved_peer() {
    let authority = common::authority("main");
    let (_listener, address, _) = listener(&node(&authority, 7), ClientLimits::default());
    let (connection, hello) =
        ClientConnection::connect(&address, &client(&authority, "admin"), DEADLINE).await.unwrap();
    let negotiated = connection.negotiated();
    assert_eq!(negotiated.tls_version, "TLS 1.3");
    assert_eq!(negotiated.key_exchange, NamedGroup::X25519MLKEM768);
    assert_eq!(negotiated.alpn, b"raftkv-client/1");
    assert_eq!(negotiated.peer, Identity::node(authority.cluster().clone(), NodeId(7)));
    assert_eq!(hello.name, "raftkv://main/client/admin", "what the node takes the client for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pipelined_requests_get_each_its_own_answer() {
    let authority = common::authority("main");
    let (_listener, address, _) = listener(&node(&authority, 1), ClientLimits::default());
    let (connection, _) = ClientConnection::connect(&address, &client(&authority, "admin"), DEADLINE).await.unwrap();
    let connection = Arc::new(connection);
    let calls: Vec<_> = (0..10_000usize)
        .map(|number| {
            let connection = connection.clone();
            tokio::spawn(async move { (number, connection.call(put("k", number % 700)).await) })
        })
        .collect();
    for call in calls {
        let (number, response) = call.await.unwrap();
        let Response::Put(reply) = response.unwrap() else { panic!("a put reply is due") };
        assert_eq!(reply.header.unwrap().revision, (number % 700) as u64);
    }
}

async fn connected(limits: ClientLimits) -> (raftkv_transport::ClientListener, ClientConnection, Arc<common::Service>) {
    let authority = common::authority("main");
    let (listener, address, service) = listener(&node(&authority, 1), limits);
    let (connection, _) = ClientConnection::connect(&address, &client(&authority, "admin"), DEADLINE).await.unwrap();
    (listener, connection, service)
}

fn error_of(response: Response) -> wire::Error {
    let Response::Error(error) = response else { panic!("an error is due, not {response:?}") };
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_any_order() {
    let (_listener, connection, service) = connected(ClientLimits::default()).await;
    let connection = Arc::new(connection);
    let kept = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(put("keep", 1)).await }
    });
    until("the first request is kept", || service.kept.lock().unwrap().len() == 1).await;
    assert!(matches!(connection.call(get("other")).await, Ok(Response::Get(_))), "a later request is answered first");
    let responder = service.kept.lock().unwrap().pop().unwrap();
    std::thread::spawn(move || responder.answer(Response::Put(wire::PutReply::default()))).join().unwrap();
    assert!(matches!(kept.await.unwrap(), Ok(Response::Put(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_responder_answers_and_never_claims_a_write_failed() {
    let (_listener, connection, _) = connected(ClientLimits::default()).await;
    assert_eq!(error_of(connection.call(put("drop", 1)).await.unwrap()).code(), ErrorCode::OutcomeUnknown);
    assert_eq!(error_of(connection.call(get("drop")).await.unwrap()).code(), ErrorCode::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_request_is_refused_and_its_neighbours_are_not() {
    let limits = ClientLimits { key_bytes_max: 100, value_bytes_max: 10_000, ..ClientLimits::default() };
    let (_listener, connection, _) = connected(limits).await;
    let (before, large, after) =
        tokio::join!(connection.call(put("a", 5)), connection.call(put("b", 5_000_000)), connection.call(put("c", 6)),);
    assert!(matches!(before, Ok(Response::Put(_))) && matches!(after, Ok(Response::Put(_))));
    let error = error_of(large.unwrap());
    assert_eq!((error.code(), error.limit), (ErrorCode::TooLarge, 10_000));
    assert!(error.message.contains("10000"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_the_largest_size_travel_both_ways() {
    let (_listener, connection, _) = connected(ClientLimits::default()).await;
    let Ok(Response::Put(reply)) = connection.call(put("k", 8 << 20)).await else { panic!("it is within the limit") };
    assert_eq!(reply.header.unwrap().revision, 8 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_are_bounded_by_not_reading_on() {
    let limits = ClientLimits { requests_max: 4, ..ClientLimits::default() };
    let (_listener, connection, service) = connected(limits).await;
    let connection = Arc::new(connection);
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.call(get("keep")).await })
        })
        .collect();
    for answered in 0..10 {
        until("as many requests as allowed have arrived", || {
            service.kept.lock().unwrap().len() == usize::min(4, 10 - answered)
        })
        .await;
        let responder = service.kept.lock().unwrap().pop().unwrap();
        responder.answer(Response::Get(wire::GetReply::default()));
    }
    for call in calls {
        assert!(matches!(call.await.unwrap(), Ok(Response::Get(_))));
    }
}

/// One thread, so that nothing is sent between two answers.
#[tokio::test]
async fn answers_that_wait_for_a_client_are_bounded_but_for_those_that_say_what_was_done() {
    let limits = ClientLimits { reply_bytes_max: 15_000, ..ClientLimits::default() };
    let (_listener, connection, service) = connected(limits).await;
    let connection = Arc::new(connection);
    let mut calls = Vec::new();
    for (number, request) in [get("keep"), get("keep"), put("keep", 1)].into_iter().enumerate() {
        let connection = connection.clone();
        calls.push(tokio::spawn(async move { connection.call(request).await }));
        until("the request has arrived", || service.kept.lock().unwrap().len() > number).await;
    }
    let long = || {
        let kvs = vec![wire::KeyValue { value: vec![b'v'; 10_000].into(), ..wire::KeyValue::default() }];
        let range = wire::RangeOutcome { kvs, count: 1, more: false };
        let operation = wire::OperationOutcome { kind: Some(wire::operation_outcome::Kind::Range(range)) };
        let outcome = Some(wire::TransactionOutcome { succeeded: true, operations: vec![operation] });
        Response::Transaction(wire::TransactionReply { header: None, outcome })
    };
    for responder in std::mem::take(&mut *service.kept.lock().unwrap()) {
        responder.answer(long());
    }
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap().unwrap());
    }
    assert_eq!((&answers[0], &answers[2]), (&long(), &long()));
    assert_eq!(error_of(answers.remove(1)).code(), ErrorCode::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_when_the_node_went_is_unknown_and_what_comes_after_is_not_sent() {
    let (listener, connection, service) = connected(ClientLimits::default()).await;
    let connection = Arc::new(connection);
    let call = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(put("keep", 1)).await }
    });
    until("the request has arrived", || service.kept.lock().unwrap().len() == 1).await;
    listener.close().await;
    let outcome = call.await.unwrap();
    assert!(
        matches!(&outcome, Err(CallError::OutcomeUnknown { cause }) if cause.contains("shutting down")),
        "{outcome:?}"
    );
    let outcome = connection.call(put("k", 1)).await;
    assert!(matches!(&outcome, Err(CallError::NotSent { .. })), "{outcome:?}");
    assert!(connection.is_closed());
}

/// A node that reads no further holds back what is being sent; what waits behind it never leaves once its caller has lost patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_leave_in_time_is_withdrawn_and_what_did_is_in_doubt() {
    let limits = ClientLimits { requests_max: 1, ..ClientLimits::default() };
    let (_listener, connection, service) = connected(limits).await;
    let connection = Arc::new(connection);
    let kept = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(get("keep")).await }
    });
    until("the first request has arrived", || service.kept.lock().unwrap().len() == 1).await;
    let patience = Duration::from_millis(300);
    let (leaving, behind, further_behind) = tokio::join!(
        connection.call_within(put("k", 8 << 20), patience),
        connection.call_within(put("keep", 8 << 20), patience),
        // Forgotten without a word, as by a caller that goes away.
        tokio::time::timeout(patience, connection.call(put("keep", 100))),
    );
    assert_eq!(leaving, Err(CallError::NoAnswer { after: patience }));
    assert!(matches!(&behind, Err(CallError::NotSent { cause }) if cause.contains("300 ms")), "{behind:?}");
    assert!(further_behind.is_err(), "{further_behind:?}");
    assert!(!connection.is_closed());
    service.kept.lock().unwrap().pop().unwrap().answer(Response::Get(wire::GetReply::default()));
    assert!(matches!(kept.await.unwrap(), Ok(Response::Get(_))));
    let Ok(Response::Put(reply)) = connection.call(put("k", 5)).await else { panic!("the connection is well") };
    assert_eq!(reply.header.unwrap().revision, 5);
    assert!(service.kept.lock().unwrap().is_empty(), "what was withdrawn has arrived");
}

/// Room for what waits is given back, also by calls that never got any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_find_no_room_in_time_are_not_sent_and_leave_the_connection_well() {
    let limits = ClientLimits { requests_max: 1, ..ClientLimits::default() };
    let (_listener, connection, service) = connected(limits).await;
    let connection = Arc::new(connection);
    let kept = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(get("keep")).await }
    });
    until("the first request has arrived", || service.kept.lock().unwrap().len() == 1).await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.call_within(put("k", 8 << 20), Duration::from_millis(300)).await })
        })
        .collect();
    let mut in_doubt = 0;
    for call in calls {
        match call.await.unwrap() {
            Err(CallError::NotSent { .. }) => {}
            Err(CallError::NoAnswer { .. }) => in_doubt += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(in_doubt, 1, "one was being sent");
    service.kept.lock().unwrap().pop().unwrap().answer(Response::Get(wire::GetReply::default()));
    assert!(matches!(kept.await.unwrap(), Ok(Response::Get(_))));
    for _ in 0..6 {
        assert!(matches!(connection.call(put("k", 8 << 20)).await, Ok(Response::Put(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_are_streamed_end_and_fail_visibly() {
    let (_listener, connection, _) = connected(ClientLimits::default()).await;
    let mut scan = connection.scan(&wire::ScanRequest { limit: 200, ..Default::default() }).await.unwrap();
    let mut versions = Vec::new();
    while let Some(reply) = scan.next().await.unwrap() {
        versions.extend(reply.kvs.iter().map(|kv| kv.version));
    }
    assert_eq!(versions, (1..=200).collect::<Vec<_>>());
    let mut refused = connection.scan(&wire::ScanRequest { count_only: true, ..Default::default() }).await.unwrap();
    let Err(ScanError::Node(error)) = refused.next().await else { panic!("the scan is refused") };
    assert_eq!(error.code(), ErrorCode::Compacted);
    // No reply at all: the responder is dropped unfinished.
    let mut broken = connection.scan(&wire::ScanRequest { limit: 0, ..Default::default() }).await.unwrap();
    assert!(matches!(broken.next().await, Err(ScanError::Broken { .. })));
    // A scan that nobody reads does not hold up anybody else.
    let _unread = connection.scan(&wire::ScanRequest { limit: 1000, ..Default::default() }).await.unwrap();
    assert!(matches!(connection.call(put("k", 1)).await, Ok(Response::Put(_))));
}

async fn watch_from(connection: &ClientConnection, revision: u64) -> WatchStream {
    let range = Some(wire::KeyRange { start: "k".into(), end: None });
    let request = wire::WatchRequest { range, from_revision: Some(revision), ..Default::default() };
    connection.watch(&request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_streamed_until_the_client_stops_them() {
    let (_listener, connection, service) = connected(ClientLimits::default()).await;
    let mut watch = watch_from(&connection, 5).await;
    for revision in 5..60 {
        let reply = watch.next(DEADLINE).await.unwrap();
        assert_eq!(reply.header.unwrap().revision, revision);
        assert_eq!(reply.events[0].kv.as_ref().unwrap().key, "k");
        assert_eq!(reply.events[0].previous, None, "it was not asked for");
    }
    assert_eq!(service.watching.load(Ordering::SeqCst), 1);
    drop(watch);
    until("the node hears that nobody reads", || service.watching.load(Ordering::SeqCst) == 0).await;
    let range = Some(wire::KeyRange::default());
    let refused = wire::WatchRequest { range, no_puts: true, ..Default::default() };
    let outcome = connection.watch(&refused).await.unwrap().next(DEADLINE).await;
    assert!(matches!(&outcome, Err(WatchError::Node(error)) if error.code() == ErrorCode::Compacted), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_nobody_reads_holds_up_nobody_else_on_its_connection() {
    let (_listener, connection, _) = connected(ClientLimits::default()).await;
    let _unread = watch_from(&connection, 1).await;
    let mut read = watch_from(&connection, 1).await;
    // More than a connection's window.
    for revision in 1..=200 {
        assert_eq!(read.next(DEADLINE).await.unwrap().header.unwrap().revision, revision);
    }
    // Nobody reads it either from here on, and two such streams fill the window of the connection.
    drop(read);
    assert!(matches!(connection.call(put("k", 1)).await, Ok(Response::Put(_))));
}

/// A watch with one reply.
async fn quiet_watch(connection: &ClientConnection) -> WatchStream {
    let range = Some(wire::KeyRange::default());
    let request = wire::WatchRequest { range, no_deletes: true, ..Default::default() };
    connection.watch(&request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_watch_too_many_is_refused_and_one_that_ended_makes_room() {
    let authority = common::authority("main");
    let limits = ClientLimits { watches_max: 2, watches_total_max: 3, ..ClientLimits::default() };
    let (_listener, address, service) = listener(&node(&authority, 1), limits);
    let connect =
        || async { ClientConnection::connect(&address, &client(&authority, "admin"), DEADLINE).await.unwrap().0 };
    let (one, other) = (connect().await, connect().await);
    let mut watches = Vec::new();
    for (connection, words) in
        [(&one, None), (&one, None), (&one, Some("connection")), (&other, None), (&other, Some("node"))]
    {
        let mut watch = quiet_watch(connection).await;
        match (words, watch.next(DEADLINE).await) {
            (None, Ok(_)) => watches.push(watch),
            (Some(word), Err(WatchError::Node(error))) => {
                assert_eq!(error.code(), ErrorCode::TooMany);
                assert!(error.message.contains(word), "{}", error.message);
            }
            (_, outcome) => panic!("with {} watches: {outcome:?}", watches.len()),
        }
    }
    drop(watches);
    until("the node hears that nobody reads", || service.watching.load(Ordering::SeqCst) == 0).await;
    let mut again = quiet_watch(&other).await;
    assert!(again.next(DEADLINE).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_longer_than_its_keys_can_be_is_refused_before_it_is_read() {
    let limits = ClientLimits { key_bytes_max: 100, ..ClientLimits::default() };
    let (_listener, connection, service) = connected(limits).await;
    let range = Some(wire::KeyRange { start: vec![1; 100_000].into(), end: None });
    let request = wire::WatchRequest { range, ..Default::default() };
    let outcome = connection.watch(&request).await.unwrap().next(DEADLINE).await;
    let Err(WatchError::Node(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.code(), error.limit), (ErrorCode::TooLarge, 100));
    assert_eq!(service.watching.load(Ordering::SeqCst), 0);
}

fn gave_up(service: &Service) -> bool {
    matches!(service.ended.lock().unwrap()[..], [Err(AnswerClosed::NotTaken { .. })])
}

/// A place is held by who reads, not by who once asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_read_is_ended_as_overloaded() {
    let limits = ClientLimits { watches_max: 1, not_taken_max: Duration::from_millis(100), ..ClientLimits::default() };
    let (_listener, connection, service) = connected(limits).await;
    let request = wire::WatchRequest { range: Some(wire::KeyRange::default()), ..Default::default() };
    let mut stuck = connection.watch(&request).await.unwrap();
    until("the node gives it up", || gave_up(&service)).await;
    let error = loop {
        match stuck.next(DEADLINE).await {
            Ok(_) => {}
            Err(WatchError::Node(error)) => break error,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(error.code(), ErrorCode::WatchOverloaded);
    assert!(error.message.contains("was not read"), "{}", error.message);
    let mut next = quiet_watch(&connection).await;
    assert!(next.next(DEADLINE).await.is_ok());
}

/// Each holds a reply of 200 KB and more, of which its stream has no room for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_are_not_read_hold_no_more_than_they_may_together() {
    let limits = ClientLimits { unread_bytes_max: 1_000_000, ..ClientLimits::default() };
    let (_listener, connection, service) = connected(limits).await;
    let range = Some(wire::KeyRange::default());
    let request = wire::WatchRequest { range, previous: true, ..Default::default() };
    let mut stuck = Vec::new();
    for _ in 0..10 {
        stuck.push(connection.watch(&request).await.unwrap());
    }
    until("enough are given up", || {
        let ended = service.ended.lock().unwrap();
        ended.len() >= 6 && ended.iter().all(|end| matches!(end, Err(AnswerClosed::NotTaken { .. })))
    })
    .await;
    assert!(service.watching.load(Ordering::SeqCst) >= 1, "no more than it takes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_is_not_read_is_ended() {
    let limits = ClientLimits { not_taken_max: Duration::from_millis(100), ..ClientLimits::default() };
    let (_listener, connection, service) = connected(limits).await;
    let request = wire::ScanRequest { limit: 1_000, ..Default::default() };
    let mut stuck = connection.scan(&request).await.unwrap();
    until("the node gives it up", || gave_up(&service)).await;
    let cause = loop {
        match stuck.next().await {
            Ok(Some(_)) => {}
            Err(ScanError::Broken { cause }) => break cause,
            other => panic!("{other:?}"),
        }
    };
    assert!(cause.contains("was not read"), "{cause}");
}
