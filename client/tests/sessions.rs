//! Writes in a session, against nodes that lose answers, forget sessions, or know none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use client::{Delete, Error, Put};
use common::{Answer, Cluster, DEADLINE, Opening, SHORT, Script};
use raftkv_client as client;
use std::sync::atomic::Ordering;
use transport::proto::client as wire;
use wire::ErrorCode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_goes_again_under_its_number_on_another_node() {
    for answer in [Answer::Drop, Answer::Error(ErrorCode::OutcomeUnknown), Answer::Error(ErrorCode::Internal)] {
        let mut cluster = Cluster::new("main");
        let (first, on_first) = cluster.start(Script::of([answer]));
        let (second, on_second) = cluster.start(Script::default());
        let client = cluster.client(&[&first, &second], DEADLINE);
        assert_eq!(client.put(("k", "v")).await.unwrap().revision, 7);
        assert_eq!((on_first.numbers(), on_second.numbers()), (vec![(1, 1, 1)], vec![(1, 1, 1)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_gets_no_answer_goes_again_before_the_deadline() {
    let mut cluster = Cluster::new("main");
    let (silent, on_silent) = cluster.start(Script::of([Answer::Keep]));
    let (live, on_live) = cluster.start(Script::default());
    let client = cluster.client(&[&silent, &live], std::time::Duration::from_secs(6));
    client.put(("k", "v")).await.unwrap();
    assert_eq!(on_silent.numbers(), on_live.numbers());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clones_share_one_session_and_each_answer_lets_go_of_its_number() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::default());
    let client = cluster.client(&[&address], DEADLINE);
    client.put(("k", "1")).await.unwrap();
    client.clone().put(("k", "2")).await.unwrap();
    client.delete(Delete::key("k")).await.unwrap();
    assert_eq!(script.numbers(), [(1, 1, 1), (1, 2, 2), (1, 3, 3)]);
    assert_eq!(script.openings.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_writes_at_once_open_one_session() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::default());
    let client = cluster.client(&[&address], DEADLINE);
    let mut writes = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        writes.spawn(async move { client.put(("k", "v")).await });
    }
    assert!(writes.join_all().await.iter().all(Result::is_ok));
    let mut sequences: Vec<u64> = script.numbers().into_iter().map(|(_, sequence, _)| sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=100).collect::<Vec<u64>>());
    assert_eq!(script.openings.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_writes_than_the_window_has_room_for_wait_their_turn() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::default());
    let client = cluster.client(&[&address], DEADLINE);
    let mut writes = tokio::task::JoinSet::new();
    let many = client::session::WINDOW as u64 * 2;
    for _ in 0..many {
        let client = client.clone();
        writes.spawn(async move { client.put(("k", "v")).await });
    }
    assert!(writes.join_all().await.iter().all(Result::is_ok));
    let numbers = script.numbers();
    assert_eq!(numbers.len() as u64, many);
    for (_, sequence, oldest) in numbers {
        assert!(
            sequence - oldest < client::session::WINDOW as u64,
            "number {sequence} came with {oldest} as the oldest"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_forgotten_is_replaced_by_a_write_that_was_not_sent_before() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::of([Answer::Error(ErrorCode::SessionUnknown)]));
    let client = cluster.client(&[&address], DEADLINE);
    client.put(("k", "v")).await.unwrap();
    assert_eq!(script.numbers(), [(1, 1, 1), (2, 1, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_may_have_been_applied_does_not_go_on_in_a_new_session() {
    let mut cluster = Cluster::new("main");
    let (first, _) = cluster.start(Script::of([Answer::Drop]));
    let (second, on_second) = cluster.start(Script::of([Answer::Error(ErrorCode::SessionUnknown)]));
    let client = cluster.client(&[&first, &second], DEADLINE);
    let error = client.put(("k", "v")).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(on_second.requests(), 1, "it must not be sent under another number");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_unknown_outcome_lets_go_of_its_number() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::of([Answer::Keep]));
    let client = cluster.client(&[&address], SHORT);
    let error = client.put(("k", "1")).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    client.put(("k", "2")).await.unwrap();
    assert_eq!(script.numbers().last(), Some(&(1, 2, 2)), "the answer to number 1 is not wanted any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_caller_has_gone_lets_go_of_its_number() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::of([Answer::Keep]));
    let client = cluster.client(&[&address], DEADLINE);
    let writer = client.clone();
    let abandoned = tokio::spawn(async move { writer.put(("k", "1")).await });
    while script.requests() == 0 {
        tokio::task::yield_now().await;
    }
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    client.put(("k", "2")).await.unwrap();
    assert_eq!(script.numbers().last(), Some(&(1, 2, 2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_sessions_is_written_to_without_one() {
    for code in [ErrorCode::Unsupported, ErrorCode::Unavailable, ErrorCode::TooMany, ErrorCode::Internal] {
        let mut cluster = Cluster::new("main");
        let script = Script::default();
        *script.opening.lock().unwrap() = Opening::Refused(code);
        let (address, script) = cluster.start(script);
        let timeout = if code == ErrorCode::Internal { SHORT * 3 } else { DEADLINE };
        let client = cluster.client(&[&address], timeout);
        let first = client.put(("k", "v")).await;
        if code == ErrorCode::Internal {
            // What is wrong inside a node may be over in a moment, so it is asked until the deadline. The write itself was never sent.
            let error = first.unwrap_err();
            assert!(error.is_certainly_not_applied(), "{error:?}");
            continue;
        }
        first.unwrap();
        client.put(("k", "w")).await.unwrap();
        assert_eq!((script.requests(), script.numbers().len()), (2, 0), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_opened_as_soon_as_the_cluster_has_them() {
    let mut cluster = Cluster::new("main");
    let script = Script::default();
    *script.opening.lock().unwrap() = Opening::Refused(ErrorCode::Unavailable);
    let (address, script) = cluster.start(script);
    let client = cluster.client(&[&address], DEADLINE);
    client.put(("k", "v")).await.unwrap();
    *script.opening.lock().unwrap() = Opening::Granted;
    let deadline = std::time::Instant::now() + DEADLINE;
    while script.numbers().is_empty() {
        assert!(std::time::Instant::now() < deadline, "no session was asked for again");
        client.put(("k", "v")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_session_on_request_none_is_opened() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::default());
    let client = cluster.builder(&[&address], DEADLINE).without_session().build().unwrap();
    client.put(("k", "v")).await.unwrap();
    assert_eq!((script.openings.load(Ordering::SeqCst), script.numbers().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_session_is_told_and_the_next_write_opens_another() {
    let mut cluster = Cluster::new("main");
    let (address, script) = cluster.start(Script::default());
    let client = cluster.client(&[&address], DEADLINE);
    client.close_session().await;
    assert!(script.closed.lock().unwrap().is_empty(), "there is none to close");
    client.put(("k", "v")).await.unwrap();
    client.close_session().await;
    client.put(("k", "v")).await.unwrap();
    assert_eq!(*script.closed.lock().unwrap(), [1]);
    assert_eq!(script.numbers(), [(1, 1, 1), (2, 1, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_new_kinds_reach_the_caller_as_they_are() {
    let mut cluster = Cluster::new("main");
    let codes = [
        ErrorCode::LeaseUnknown,
        ErrorCode::KeyUnknown,
        ErrorCode::NoSpace,
        ErrorCode::TooMany,
        ErrorCode::AnswerForgotten,
    ];
    let (address, script) = cluster.start(Script::of(codes.map(Answer::Error)));
    let client = cluster.client(&[&address], DEADLINE);
    let put = || client.put(Put::new("k", "v").lease(9));
    assert!(matches!(put().await.unwrap_err(), Error::LeaseUnknown { .. }));
    assert!(matches!(put().await.unwrap_err(), Error::KeyUnknown { .. }));
    assert!(matches!(put().await.unwrap_err(), Error::NoSpace { .. }));
    assert!(matches!(put().await.unwrap_err(), Error::TooMany { .. }));
    let forgotten = put().await.unwrap_err();
    assert!(matches!(forgotten, Error::AnswerForgotten { .. }) && !forgotten.is_certainly_not_applied());
    assert_eq!(script.requests(), 5, "none of them goes again");
}
