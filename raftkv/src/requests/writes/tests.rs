//! Each request of each kind, as a command or a refusal; each outcome, as a reply or an error code.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use super::super::transactions::QUESTION_LIMITS;
use super::super::{LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, SESSION_TTL_MS_DEFAULT};
use super::*;
use bytes::Bytes;
use prost::Message as _;
use storage::command::{InvalidCommand, KeyRange, LeaseLimits, Operation, RangeLimits, Transaction};
use storage::state::{KeyValue, OperationOutcome, RangeOutcome, TransactionOutcome};
use transport::{ClientLimits, REPLY_BYTES_MAX};
use wire::put_request::Lease;

const LIMITS: RequestLimits = RequestLimits {
    key_bytes_max: 8,
    value_bytes_max: 16,
    transaction_operations_max: 6,
    leases_max: 100,
    lease_keys_max: 10,
    sessions_max: 50,
    session_answers_max: 20,
};

/// With the longest values that a cluster may allow.
const LARGE_VALUES: RequestLimits = RequestLimits { key_bytes_max: 64 << 10, value_bytes_max: 30 << 20, ..LIMITS };

fn put() -> wire::PutRequest {
    wire::PutRequest { key: "k".into(), value: "v".into(), ..wire::PutRequest::default() }
}

fn call() -> wire::SessionCall {
    wire::SessionCall { session: 7, sequence: 3, oldest: 2 }
}

/// The reply to an outcome at index 9, in a state at revision 40.
fn reply(outcome: CommandOutcome, asked: Asked) -> Response {
    write_reply(WriteOutcome { index: raft::LogIndex(9), revision: 40, outcome }, asked)
}

fn refusal(outcome: CommandOutcome, asked: Asked) -> wire::Error {
    let Response::Error(error) = reply(outcome, asked) else { panic!("it is an error") };
    error
}

fn code<T: std::fmt::Debug>(result: Result<T, Refused>) -> (ErrorCode, String) {
    let error = result.unwrap_err();
    (error.code(), error.message)
}

#[test]
fn a_put_says_what_its_key_lives_by() {
    let cases = [
        (None, LeaseBinding::None),
        (Some(Lease::LeaseId(5)), LeaseBinding::Lease(5)),
        (Some(Lease::TtlMs(LEASE_TTL_MS_MIN)), LeaseBinding::TimeToLive { ttl_ms: LEASE_TTL_MS_MIN }),
        (Some(Lease::KeepLease(true)), LeaseBinding::Keep),
    ];
    for (sent, lease) in cases {
        let write = LIMITS.put(&wire::PutRequest { lease: sent, ..put() }).unwrap();
        let expected = Command::Put(Put { lease, ..Put::new(b"k", b"v") });
        assert_eq!(write.command, EncodedCommand::new(&expected, None), "{sent:?}");
        assert_eq!(write.asked, Asked::Put { previous: false });
    }
}

#[test]
fn a_put_may_keep_the_value_and_come_in_a_session() {
    let sent = wire::PutRequest { value: Bytes::new(), keep_value: true, session: Some(call()), ..put() };
    let expected = Command::Put(Put { value: None, ..Put::new(b"k", b"") });
    let session = SessionCall { session: 7, sequence: 3, oldest: 2 };
    assert_eq!(LIMITS.put(&sent).unwrap().command, EncodedCommand::new(&expected, Some(session)));
}

#[test]
fn requests_about_leases_and_sessions_take_the_clusters_limits_with_them() {
    let grant = wire::LeaseGrantRequest { id: 4, ttl_ms: 9_000, session: None };
    let limits = LeaseLimits { leases_max: 100, keys_max: 10 };
    let expected = EncodedCommand::new(&Command::GrantLease { id: 4, ttl_ms: 9_000, limits }, None);
    assert_eq!(LIMITS.lease_grant(&grant).unwrap().command, expected);

    let open = LIMITS.session_open(wire::SessionOpenRequest { ttl_ms: 0 }).unwrap();
    let ttl_ms = SESSION_TTL_MS_DEFAULT;
    let expected = Command::OpenSession { ttl_ms, sessions_max: 50, answers_max: 20 };
    assert_eq!(open.command, EncodedCommand::new(&expected, None));
    assert_eq!(open.asked, Asked::Session { ttl_ms });
}

#[test]
fn what_makes_no_sense_is_refused_before_the_log_and_said() {
    let session = |session, sequence, oldest| {
        let session = Some(wire::SessionCall { session, sequence, oldest });
        LIMITS.put(&wire::PutRequest { session, ..put() })
    };
    let lease = |lease| LIMITS.put(&wire::PutRequest { lease: Some(lease), ..put() });
    let grant = |ttl_ms| LIMITS.lease_grant(&wire::LeaseGrantRequest { id: 0, ttl_ms, session: None });
    let open = |ttl_ms| LIMITS.session_open(wire::SessionOpenRequest { ttl_ms });
    let invalid = [
        (LIMITS.put(&wire::PutRequest { key: Bytes::new(), ..put() }), "the key is empty"),
        (LIMITS.put(&wire::PutRequest { keep_value: true, ..put() }), "both keeps the key's value"),
        (LIMITS.put(&wire::PutRequest { condition: Some(wire::Condition { kind: None }), ..put() }), "says nothing"),
        (lease(Lease::LeaseId(0)), "numbers from 1 on"),
        (lease(Lease::KeepLease(false)), "always true"),
        (lease(Lease::TtlMs(LEASE_TTL_MS_MIN - 1)), "a second"),
        (grant(LEASE_TTL_MS_MAX + 1), "285 years"),
        (grant(0), "a time to live of 0 ms"),
        (
            LIMITS.lease_grant(&wire::LeaseGrantRequest { id: 1 << 63, ttl_ms: 5_000, session: None }),
            "1 to 9223372036854775807 can",
        ),
        (open(1), "a session cannot live for 1 ms"),
        (open(u64::MAX), "a session cannot live for"),
        (session(0, 1, 1), "numbers from 1 on"),
        (session(1, 0, 0), "numbers from 1 on"),
        (session(1, 4, 5), "its own is"),
        (LIMITS.delete(&wire::DeleteRequest::default()), "needs a range"),
        (LIMITS.lease_keep_alive(wire::LeaseKeepAliveRequest { id: 0 }), "numbers from 1 on"),
        (LIMITS.lease_revoke(&wire::LeaseRevokeRequest { id: 0, session: None }), "numbers from 1 on"),
        (LIMITS.session_close(wire::SessionCloseRequest { session: 0 }), "numbers from 1 on"),
        (LIMITS.compact(wire::CompactRequest { revision: 0 }), "count from 1"),
    ];
    for (result, part) in invalid {
        let (code, message) = code(result);
        assert_eq!(code, ErrorCode::Invalid, "{message}");
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

#[test]
fn what_is_too_long_is_refused_with_the_limit() {
    let long_key = LIMITS.put(&wire::PutRequest { key: vec![b'k'; 9].into(), ..put() }).unwrap_err();
    assert_eq!((long_key.code(), long_key.limit), (ErrorCode::TooLarge, 8));
    let long_value = LIMITS.put(&wire::PutRequest { value: vec![b'v'; 17].into(), ..put() }).unwrap_err();
    assert_eq!((long_value.code(), long_value.limit), (ErrorCode::TooLarge, 16));
    // The end of a range that is one key of full length.
    let range = |end: usize| Some(wire::KeyRange { start: vec![b'k'; 8].into(), end: Some(vec![b'k'; end].into()) });
    assert!(LIMITS.delete(&wire::DeleteRequest { range: range(9), ..wire::DeleteRequest::default() }).is_ok());
    assert!(LIMITS.delete(&wire::DeleteRequest { range: range(10), ..wire::DeleteRequest::default() }).is_err());
}

#[test]
fn every_refusal_of_the_state_has_its_code() {
    let asked = Asked::Transaction;
    let cases = [
        (CommandOutcome::LimitExceeded { keys_max: 1, bytes_max: 2 }, ErrorCode::TooLarge),
        (CommandOutcome::KeyUnknown { key: "k".into() }, ErrorCode::KeyUnknown),
        (CommandOutcome::RevisionCompacted { requested: 1, compacted: 2 }, ErrorCode::Compacted),
        (CommandOutcome::RevisionFuture { requested: 9, current: 2 }, ErrorCode::FutureRevision),
        (CommandOutcome::LeaseExists { id: 1 }, ErrorCode::LeaseExists),
        (CommandOutcome::LeaseUnknown { id: 1 }, ErrorCode::LeaseUnknown),
        (CommandOutcome::LeasesFull { leases_max: 1 }, ErrorCode::TooMany),
        (CommandOutcome::LeaseFull { id: 1, keys_max: 1 }, ErrorCode::TooMany),
        (CommandOutcome::SessionsFull { sessions_max: 1 }, ErrorCode::TooMany),
        (CommandOutcome::AnswersFull { answers_max: 1 }, ErrorCode::TooMany),
        (CommandOutcome::SessionUnknown { id: 1 }, ErrorCode::SessionUnknown),
        (CommandOutcome::AnswerForgotten { sequence: 1, oldest: 2 }, ErrorCode::AnswerForgotten),
        (CommandOutcome::Invalid { reason: InvalidCommand::EmptyKey }, ErrorCode::Invalid),
    ];
    for (outcome, code) in cases {
        let error = refusal(outcome.clone(), asked);
        assert_eq!(error.code(), code, "{outcome:?}");
        assert!(error.message.len() > 30, "{outcome:?} hardly says anything: {}", error.message);
        let compacted = if code == ErrorCode::Compacted { Some(2) } else { None };
        assert_eq!(error.compacted, compacted);
    }
}

#[test]
fn every_success_of_the_state_has_its_reply() {
    let header = Some(wire::Header { revision: 40, index: 9 });
    let at = |revision| Some(wire::Header { revision, index: 9 });
    let session = Asked::Session { ttl_ms: 77 };
    let cases = [
        (
            CommandOutcome::LeaseGranted { id: 5, ttl_ms: 6 },
            Asked::Lease,
            Response::LeaseGrant(wire::LeaseGrantReply { header, id: 5, ttl_ms: 6 }),
        ),
        (
            CommandOutcome::LeaseKeptAlive { ttl_ms: 6 },
            Asked::Lease,
            Response::LeaseKeepAlive(wire::LeaseKeepAliveReply { header, ttl_ms: 6 }),
        ),
        (
            CommandOutcome::LeaseRevoked { deleted: 2, revision: 30 },
            Asked::Lease,
            Response::LeaseRevoke(wire::LeaseRevokeReply { header: at(30), deleted: 2 }),
        ),
        (
            CommandOutcome::SessionOpened { id: 3 },
            session,
            Response::SessionOpen(wire::SessionOpenReply { header, session: 3, ttl_ms: 77 }),
        ),
        (CommandOutcome::SessionClosed, session, Response::SessionClose(wire::SessionCloseReply { header })),
        (
            CommandOutcome::Compacted { revision: 12 },
            Asked::Compaction,
            Response::Compact(wire::CompactReply { header, compacted: 12 }),
        ),
        (
            CommandOutcome::Put { revision: 30, previous: None },
            Asked::Put { previous: false },
            Response::Put(wire::PutReply { header: at(30), succeeded: true, previous: None }),
        ),
        (
            CommandOutcome::ConditionFailed { existing: None },
            Asked::Put { previous: false },
            Response::Put(wire::PutReply { header, succeeded: false, previous: None }),
        ),
    ];
    for (outcome, asked, expected) in cases {
        assert_eq!(reply(outcome, asked), expected);
    }
}

#[test]
fn a_condition_that_failed_sends_the_value_only_to_who_asked_for_it() {
    for previous in [false, true] {
        let outcome = CommandOutcome::ConditionFailed { existing: Some(key_value_of(1, 4)) };
        let Response::Put(reply) = reply(outcome, Asked::Put { previous }) else { panic!("a put is answered as one") };
        let existing = reply.previous.unwrap();
        assert_eq!((existing.value.is_empty(), existing.mod_revision), (!previous, u64::MAX));
    }
}

/// Numbers as long as they get.
fn key_value_of(key_bytes: usize, value_bytes: usize) -> KeyValue {
    let most = u64::MAX;
    let (key, value) = (Bytes::from(vec![0; key_bytes]), Bytes::from(vec![0; value_bytes]));
    KeyValue { key, value, create_revision: most, mod_revision: most, version: most, lease: most }
}

/// As many pairs as `limits` allow, with all the bytes that they allow.
fn most_pairs(limits: RangeLimits) -> Vec<KeyValue> {
    let keys = usize::try_from(limits.keys_max).unwrap();
    let bytes = usize::try_from(limits.bytes_max).unwrap();
    vec![key_value_of(4, bytes / keys - 4); keys]
}

fn assert_fits(length: usize, bytes_max: u64) {
    let bytes = usize::try_from(bytes_max).unwrap();
    assert!(length > bytes / 2 && length <= REPLY_BYTES_MAX, "{length} bytes");
    assert!(length <= ClientLimits::default().reply_bytes_max, "{length} bytes");
}

#[test]
fn the_answer_to_the_largest_delete_fits_a_reply() {
    let limits = LARGE_VALUES.written_limits();
    let previous = most_pairs(limits);
    let outcome = CommandOutcome::Deleted { count: previous.len() as u64, revision: u64::MAX, previous };
    let Response::Delete(reply) = reply(outcome, Asked::Delete) else { panic!("a delete is answered as one") };
    assert_fits(reply.encoded_len(), limits.bytes_max);
}

/// Everything that it may read, in one of as many operations as the highest setting allows.
#[test]
fn the_answer_to_the_largest_transaction_fits_a_reply() {
    for limits in [LARGE_VALUES.written_limits(), QUESTION_LIMITS] {
        largest_answer_fits(limits);
    }
}

fn largest_answer_fits(limits: RangeLimits) {
    let pairs = most_pairs(limits);
    let most = OperationOutcome::Range(RangeOutcome { count: u64::MAX, pairs, more: true });
    let nothing = OperationOutcome::Deleted { count: u64::MAX, previous: Vec::new() };
    let operations = std::iter::once(most).chain(std::iter::repeat_n(nothing, 16_384)).collect();
    let outcome = TransactionOutcome { succeeded: true, operations };
    let outcome = CommandOutcome::Transaction { revision: u64::MAX, outcome };
    let Response::Transaction(reply) = reply(outcome, Asked::Transaction) else { panic!("it is answered as one") };
    assert_fits(reply.encoded_len(), limits.bytes_max);
}

#[test]
fn a_range_too_large_is_refused_with_both_limits_and_the_next_step() {
    for (asked, parts) in [
        (Asked::Delete, ["5 keys", "77 bytes", "nothing was deleted", "smaller ranges"]),
        (Asked::Transaction, ["5 keys", "77 bytes", "nothing was done", "set limits"]),
    ] {
        let error = refusal(CommandOutcome::LimitExceeded { keys_max: 5, bytes_max: 77 }, asked);
        assert_eq!((error.code(), error.limit, error.keys_limit), (ErrorCode::TooLarge, 77, Some(5)));
        for part in parts {
            assert!(error.message.contains(part), "{part} is not in: {}", error.message);
        }
    }
}

fn put_operation(key: &'static str) -> wire::Operation {
    let put = wire::PutRequest { key: key.into(), ..put() };
    wire::Operation { kind: Some(wire::operation::Kind::Put(put)) }
}

fn inner(transaction: wire::Transaction) -> wire::Operation {
    wire::Operation { kind: Some(wire::operation::Kind::Transaction(transaction)) }
}

fn request(success: Vec<wire::Operation>) -> wire::TransactionRequest {
    let transaction = Some(wire::Transaction { success, ..wire::Transaction::default() });
    wire::TransactionRequest { transaction, ..wire::TransactionRequest::default() }
}

#[test]
fn a_transaction_that_can_write_is_one_command() {
    let request = wire::TransactionRequest { session: Some(call()), ..request(vec![put_operation("a")]) };
    let success = vec![Operation::Put(Put::new(b"a", b"v"))];
    let transaction = Transaction { success, ..Transaction::default() };
    let expected = Command::Transaction { transaction, limits: LIMITS.written_limits() };
    let session = SessionCall { session: 7, sequence: 3, oldest: 2 };
    let write = LIMITS.transaction_write(&request).unwrap().unwrap();
    assert_eq!(write.command, EncodedCommand::new(&expected, Some(session)));
}

#[test]
fn a_transaction_that_only_reads_never_enters_the_log() {
    let range = Some(wire::KeyRange { start: "a".into(), end: None });
    let scan = wire::ScanRequest { range, ..wire::ScanRequest::default() };
    let read = wire::Operation { kind: Some(wire::operation::Kind::Range(scan)) };
    assert!(LIMITS.transaction_write(&request(vec![read.clone()])).unwrap().is_none());
    let deep = inner(wire::Transaction { failure: vec![put_operation("a")], ..wire::Transaction::default() });
    assert!(LIMITS.transaction_write(&request(vec![read, deep])).unwrap().is_some(), "one way writes");
}

#[test]
fn transactions_against_the_rules_are_refused_before_the_log() {
    let all_keys = Some(wire::KeyRange { start: Bytes::new(), end: None });
    let delete = wire::DeleteRequest { range: all_keys.clone(), ..wire::DeleteRequest::default() };
    let delete_in_session = wire::DeleteRequest { session: Some(call()), ..delete.clone() };
    let put_in_session = wire::PutRequest { session: Some(call()), ..put() };
    let condition = Some(wire::Condition { kind: Some(wire::condition::Kind::Absent(true)) });
    let put_with_condition = wire::PutRequest { condition, ..put() };
    let stale = wire::ReadLevel::Stale.into();
    let stale_range = wire::ScanRequest { range: all_keys, level: stale, ..wire::ScanRequest::default() };
    let operation = |kind| wire::Operation { kind: Some(kind) };
    let deep = (0..4).fold(put_operation("a"), |within, _| {
        inner(wire::Transaction { success: vec![within], ..wire::Transaction::default() })
    });
    use wire::operation::Kind;
    let cases = [
        (request(vec![put_operation("a"), put_operation("a")]), "one key twice"),
        (request(vec![put_operation("a"), operation(Kind::Delete(delete))]), "one key twice"),
        (request(vec![operation(Kind::Delete(delete_in_session))]), "no session of its own"),
        (request(vec![operation(Kind::Put(put_in_session))]), "no session of its own"),
        (request(vec![operation(Kind::Put(put_with_condition))]), "use a compare"),
        (request(vec![operation(Kind::Range(stale_range))]), "no level of its own"),
        (request(vec![deep]), "deep in one another"),
        (wire::TransactionRequest { level: stale, ..request(vec![put_operation("a")]) }, "linearizable"),
        (wire::TransactionRequest::default(), "is missing"),
    ];
    for (request, part) in cases {
        let (code, message) = code(LIMITS.transaction_write(&request));
        assert_eq!(code, ErrorCode::Invalid, "{message}");
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    let unknown = request(vec![wire::Operation { kind: None }]);
    assert_eq!(code(LIMITS.transaction_write(&unknown)).0, ErrorCode::Unsupported);
}

#[test]
fn operations_are_counted_all_together() {
    let within = |count: usize| {
        let compare = wire::Compare {
            range: Some(wire::KeyRange { start: "k".into(), end: None }),
            target: Some(wire::compare::Target::Version(1)),
            ..wire::Compare::default()
        };
        let compares = vec![compare; count];
        request(vec![inner(wire::Transaction { compares, success: vec![put_operation("a")], failure: Vec::new() })])
    };
    assert!(LIMITS.transaction_write(&within(4)).is_ok(), "one transaction, four compares, one put");
    let refused = LIMITS.transaction_write(&within(5)).unwrap_err();
    assert_eq!((refused.code(), refused.keys_limit), (ErrorCode::TooLarge, Some(6)));
}

/// What a node holds a command to before the log, the state machine holds it to again; a range of one key is what a client names as one.
#[test]
fn a_delete_of_one_key_is_told_from_a_range() {
    let range = Some(wire::KeyRange { start: "k".into(), end: Some("k\0".into()) });
    let write = LIMITS.delete(&wire::DeleteRequest { range, previous: true, session: None }).unwrap();
    let range = KeyRange { start: b"k", end: Some(b"k\0") };
    let expected = Command::DeleteRange { range, limits: LIMITS.written_limits(), previous: true };
    assert_eq!(write.command, EncodedCommand::new(&expected, None));
    assert_eq!(write.command.values_held(), 1);
}
