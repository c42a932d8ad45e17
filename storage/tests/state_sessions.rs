//! Sessions: a command that comes twice is carried out once, and answered twice.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use raftkv_storage::command::{Command, Condition, EncodedCommand, KeyRange, Put};
use raftkv_storage::state::{CommandOutcome, Engine, MemoryEngine, RocksEngine, StateMachine};
use state_support::{NO_LIMITS, apply_at, in_session, one_at, open, plain, rocks, small_options};

const EXPIRE: Command<'static> = Command::Expire { leases_max: 100, sessions_max: 100, keys_max: 100 };

fn open_session<E: Engine>(machine: &mut StateMachine<E>, time_ms: u64, ttl_ms: u64, answers_max: u32) -> u64 {
    let opened = one_at(machine, time_ms, Command::OpenSession { ttl_ms, sessions_max: 10, answers_max });
    let CommandOutcome::SessionOpened { id } = opened else { panic!("no session was opened: {opened:?}") };
    id
}

fn create<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Put(Put { condition: Some(Condition::Absent), ..Put::new(key, value) })
}

fn call<E: Engine>(machine: &mut StateMachine<E>, time_ms: u64, command: EncodedCommand) -> CommandOutcome {
    apply_at(machine, time_ms, &[command]).remove(0)
}

#[test]
fn a_retry_returns_the_first_answer_and_changes_nothing() {
    let mut machine = open(MemoryEngine::new());
    let session = open_session(&mut machine, 0, 1_000, 8);
    let once = in_session(session, 1, 0, create(b"k", b"v"));
    let written = CommandOutcome::Put { revision: 2, previous: None };
    // Twice in one run, and again later.
    assert_eq!(apply_at(&mut machine, 0, &[once.clone(), once.clone()]), [written.clone(), written.clone()]);
    one_at(&mut machine, 0, Command::Put(Put::new(b"k", b"by somebody else")));
    assert_eq!(call(&mut machine, 0, once), written);
    assert_eq!(machine.revision(), 3);
    assert_eq!(machine.reader().get(b"k", None).unwrap().unwrap().value, &b"by somebody else"[..]);
}

#[test]
fn a_refusal_is_an_answer_too() {
    let mut machine = open(MemoryEngine::new());
    let session = open_session(&mut machine, 0, 1_000, 8);
    one_at(&mut machine, 0, Command::Put(Put::new(b"k", b"there")));
    let refused = call(&mut machine, 0, in_session(session, 1, 0, create(b"k", b"v")));
    assert!(matches!(refused, CommandOutcome::ConditionFailed { existing: Some(_) }));
    one_at(&mut machine, 0, Command::DeleteRange { range: KeyRange::ALL, limits: NO_LIMITS, previous: false });
    assert_eq!(call(&mut machine, 0, in_session(session, 1, 0, create(b"k", b"v"))), refused);
    assert_eq!(machine.reader().get(b"k", None).unwrap(), None);
    let unknown = call(&mut machine, 0, in_session(session, 2, 0, Command::RevokeLease { id: 1 }));
    assert_eq!(unknown, CommandOutcome::LeaseUnknown { id: 1 });
}

#[test]
fn numbers_may_come_in_any_order_and_those_before_the_oldest_are_forgotten() {
    let mut machine = open(MemoryEngine::new());
    let session = open_session(&mut machine, 0, 1_000, 8);
    let put = |sequence, oldest| in_session(session, sequence, oldest, Command::Put(Put::new(b"k", b"v")));
    for sequence in [3, 1, 2] {
        assert!(matches!(call(&mut machine, 0, put(sequence, 0)), CommandOutcome::Put { .. }));
    }
    assert_eq!(call(&mut machine, 0, put(4, 3)), CommandOutcome::Put { revision: 5, previous: None });
    let forgotten = |sequence| CommandOutcome::AnswerForgotten { sequence, oldest: 3 };
    assert_eq!(call(&mut machine, 0, put(2, 0)), forgotten(2), "what was said once holds");
    assert_eq!(call(&mut machine, 0, put(1, 1)), forgotten(1));
    assert_eq!(call(&mut machine, 0, put(3, 0)), CommandOutcome::Put { revision: 2, previous: None });
    assert_eq!(machine.revision(), 5);
}

#[test]
fn answers_are_bounded_and_room_is_made_by_the_client() {
    let mut machine = open(MemoryEngine::new());
    let session = open_session(&mut machine, 0, 1_000, 2);
    let put = |sequence, oldest| in_session(session, sequence, oldest, Command::Put(Put::new(b"k", b"v")));
    call(&mut machine, 0, put(1, 0));
    call(&mut machine, 0, put(2, 0));
    assert_eq!(call(&mut machine, 0, put(3, 0)), CommandOutcome::AnswersFull { answers_max: 2 });
    assert_eq!(machine.revision(), 3, "it was not carried out");
    assert_eq!(call(&mut machine, 0, put(3, 2)), CommandOutcome::Put { revision: 4, previous: None });
}

#[test]
fn sessions_are_bounded() {
    let mut machine = open(MemoryEngine::new());
    let open_one = Command::OpenSession { ttl_ms: 100, sessions_max: 1, answers_max: 1 };
    assert_eq!(one_at(&mut machine, 0, open_one.clone()), CommandOutcome::SessionOpened { id: 1 });
    assert_eq!(one_at(&mut machine, 0, open_one.clone()), CommandOutcome::SessionsFull { sessions_max: 1 });
    assert_eq!(one_at(&mut machine, 0, Command::CloseSession { id: 1 }), CommandOutcome::SessionClosed);
    assert_eq!(one_at(&mut machine, 0, Command::CloseSession { id: 1 }), CommandOutcome::SessionClosed, "again");
    assert_eq!(one_at(&mut machine, 0, open_one), CommandOutcome::SessionOpened { id: 2 }, "no number twice");
}

#[test]
fn a_session_that_is_over_refuses_and_never_carries_out() {
    let mut machine = open(MemoryEngine::new());
    let session = open_session(&mut machine, 0, 1_000, 8);
    let once = in_session(session, 1, 0, create(b"k", b"v"));
    call(&mut machine, 0, once.clone());
    one_at(&mut machine, 0, Command::CloseSession { id: session });
    one_at(&mut machine, 0, Command::DeleteRange { range: KeyRange::ALL, limits: NO_LIMITS, previous: false });
    assert_eq!(call(&mut machine, 0, once), CommandOutcome::SessionUnknown { id: session });
    assert_eq!(machine.reader().get(b"k", None).unwrap(), None);
}

#[test]
fn a_session_may_close_itself() {
    let mut machine = open(MemoryEngine::new());
    let session = open_session(&mut machine, 0, 1_000, 8);
    let close = in_session(session, 1, 0, Command::CloseSession { id: session });
    assert_eq!(call(&mut machine, 0, close.clone()), CommandOutcome::SessionClosed);
    assert_eq!(call(&mut machine, 0, close), CommandOutcome::SessionUnknown { id: session });
}

#[test]
fn a_session_ends_a_while_after_its_last_use() {
    let mut machine = open(MemoryEngine::new());
    let session = open_session(&mut machine, 100, 1_000, 1);
    assert_eq!(machine.next_expiry_ms(), Some(1_100));
    let put = |sequence| in_session(session, sequence, 0, Command::Put(Put::new(b"k", b"v")));
    call(&mut machine, 500, put(1));
    // Refused, and a use all the same.
    assert_eq!(call(&mut machine, 600, put(2)), CommandOutcome::AnswersFull { answers_max: 1 });
    assert_eq!(machine.next_expiry_ms(), Some(1_600));
    let expired = |sessions| CommandOutcome::Expired { leases: 0, sessions, deleted: 0 };
    assert_eq!(one_at(&mut machine, 1_599, EXPIRE), expired(0));
    let late = call(&mut machine, 1_700, put(1));
    assert_eq!(late, CommandOutcome::Put { revision: 2, previous: None }, "due, and not over");
    assert_eq!(one_at(&mut machine, 2_700, EXPIRE), expired(1));
    assert_eq!((machine.next_expiry_ms(), machine.revision()), (None, 2));
    assert_eq!(call(&mut machine, 2_700, put(1)), CommandOutcome::SessionUnknown { id: session });
}

#[test]
fn sessions_that_are_due_end_within_the_limit_the_longest_due_first() {
    let mut machine = open(MemoryEngine::new());
    let [late, early] = [300, 100].map(|ttl_ms| open_session(&mut machine, 0, ttl_ms, 1));
    let expire = Command::Expire { leases_max: 0, sessions_max: 1, keys_max: 0 };
    assert_eq!(one_at(&mut machine, 500, expire), CommandOutcome::Expired { leases: 0, sessions: 1, deleted: 0 });
    let put = |session| in_session(session, 1, 0, Command::Put(Put::new(b"k", b"v")));
    assert_eq!(call(&mut machine, 500, put(early)), CommandOutcome::SessionUnknown { id: early });
    assert!(matches!(call(&mut machine, 500, put(late)), CommandOutcome::Put { .. }));
}

/// Short answers and one that has a row of its own.
fn with_answers<E: Engine>(mut machine: StateMachine<E>) -> (StateMachine<E>, u64, Vec<(u64, CommandOutcome)>) {
    let session = open_session(&mut machine, 0, 1_000, 8);
    let large = Command::Put(Put::new(b"large", &[7; 10_000]));
    let previous = Command::Put(Put { previous: true, ..Put::new(b"large", b"") });
    let commands = [(1, create(b"k", b"v")), (2, large), (3, previous), (4, create(b"k", b"v"))];
    let answers = commands.map(|(sequence, command)| {
        (sequence, call(&mut machine, 10 * sequence, in_session(session, sequence, 0, command)))
    });
    (machine, session, answers.into())
}

fn nothing(session: u64, sequence: u64, oldest: u64) -> EncodedCommand {
    in_session(session, sequence, oldest, Command::KeepLeaseAlive { id: 1 })
}

#[test]
fn answers_outlive_a_restart_and_travel_in_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let (live, copy) = (directory.path().join("live"), directory.path().join("copy"));
    let (mut machine, session, answers) = with_answers(rocks(&live));
    assert!(matches!(&answers[2].1, CommandOutcome::Put { previous: Some(pair), .. } if pair.value.len() == 10_000));
    machine.checkpoint(&copy).unwrap();
    machine.flush(true).unwrap();
    drop(machine);
    for path in [live, copy] {
        let mut machine = open(RocksEngine::open(&path, &small_options()).unwrap());
        assert_eq!(machine.next_expiry_ms(), Some(1_040));
        for (sequence, answer) in &answers {
            assert_eq!(call(&mut machine, 50, nothing(session, *sequence, 0)), *answer);
        }
        assert_eq!(machine.revision(), 4);
        let next = open_session(&mut machine, 50, 1, 1);
        assert_eq!(next, session + 1);
    }
}

#[test]
fn rows_of_long_answers_go_when_they_are_forgotten_and_with_their_session() {
    use raftkv_storage::state::{Cursor as _, Snapshot as _, Table};
    let answer_rows = |machine: &StateMachine<MemoryEngine>| {
        let reader = machine.reader();
        let snapshot = reader.engine().snapshot();
        let mut cursor = snapshot.cursor(Table::Meta, b"session-answer/", Some(b"session-answer0"));
        cursor.seek_first();
        let mut count = 0;
        while cursor.item().is_some() {
            count += 1;
            cursor.next();
        }
        count
    };
    let (mut machine, session, answers) = with_answers(open(MemoryEngine::new()));
    assert_eq!(answer_rows(&machine), 1);
    assert_eq!(call(&mut machine, 50, nothing(session, 3, 3)), answers[2].1, "not forgotten yet");
    call(&mut machine, 50, nothing(session, 4, 4));
    assert_eq!(answer_rows(&machine), 0);
    let (mut machine, session, _) = with_answers(open(MemoryEngine::new()));
    one_at(&mut machine, 50, Command::CloseSession { id: session });
    assert_eq!(answer_rows(&machine), 0);
}

#[test]
fn what_a_session_answers_counts_in_the_hash() {
    let hash = |commands: &[EncodedCommand]| {
        let mut machine = open(MemoryEngine::new());
        open_session(&mut machine, 0, 100, 8);
        apply_at(&mut machine, 0, commands);
        machine.state_hash()
    };
    let [keep, put] = [Command::KeepLeaseAlive { id: 1 }, Command::KeepLeaseAlive { id: 2 }];
    assert_ne!(hash(&[in_session(1, 1, 0, keep.clone())]), hash(&[in_session(1, 1, 0, put)]));
    assert_ne!(hash(&[in_session(1, 1, 0, keep.clone())]), hash(&[plain(keep)]));
}
