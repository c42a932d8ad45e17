//! Leases and times to live of single keys: what binds, what ends, and that it outlives restarts and snapshots.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use raftkv_storage::command::{Command, KeyRange, LeaseBinding, LeaseLimits, Put};
use raftkv_storage::state::{CommandOutcome, Engine, LeaseStatus, MemoryEngine, RocksEngine, StateMachine};
use state_support::{NO_LIMITS, apply_at, one_at, only, open, plain, rocks, small_options};

const LIMITS: LeaseLimits = LeaseLimits { leases_max: 100, keys_max: 3 };
const EXPIRE: Command<'static> = Command::Expire { leases_max: 100, sessions_max: 100, keys_max: 100 };

fn grant(id: u64, ttl_ms: u64) -> Command<'static> {
    Command::GrantLease { id, ttl_ms, limits: LIMITS }
}

fn put_with(key: &'static [u8], lease: LeaseBinding) -> Command<'static> {
    Command::Put(Put { lease, ..Put::new(key, b"v") })
}

fn bound(key: &'static [u8], id: u64) -> Command<'static> {
    put_with(key, LeaseBinding::Lease(id))
}

fn for_ms(key: &'static [u8], ttl_ms: u64) -> Command<'static> {
    put_with(key, LeaseBinding::TimeToLive { ttl_ms })
}

fn expired(leases: u64, deleted: u64) -> CommandOutcome {
    CommandOutcome::Expired { leases, sessions: 0, deleted }
}

fn exists<E: Engine>(machine: &StateMachine<E>, key: &[u8]) -> bool {
    machine.reader().get(key, None).unwrap().is_some()
}

/// Of a lease that there is.
fn lease_keys<E: Engine>(machine: &StateMachine<E>, id: u64) -> Vec<Bytes> {
    machine.reader().lease_with_keys(id, usize::MAX).unwrap().unwrap().keys.unwrap()
}

#[test]
fn a_lease_lives_for_its_time_and_its_keys_end_with_it_at_one_revision() {
    let mut machine = open(MemoryEngine::new());
    let granted = one_at(&mut machine, 1_000, grant(7, 500));
    assert_eq!(granted, CommandOutcome::LeaseGranted { id: 7, ttl_ms: 500 });
    assert_eq!(machine.next_expiry_ms(), Some(1_500));
    apply_at(&mut machine, 1_100, &[plain(bound(b"b", 7)), plain(bound(b"a", 7))]);
    let status = LeaseStatus { id: 7, ttl_ms: 500, ends_at_ms: 1_500, keys: 2, of_one_key: false };
    assert_eq!(machine.reader().lease(7).unwrap(), Some(status));
    assert_eq!(lease_keys(&machine, 7), ["a", "b"]);
    assert_eq!(one_at(&mut machine, 1_499, EXPIRE), expired(0, 0));
    assert_eq!(one_at(&mut machine, 1_500, EXPIRE), expired(1, 2));
    assert_eq!((machine.revision(), machine.next_expiry_ms()), (4, None));
    assert_eq!(machine.reader().get(b"a", Some(3)).unwrap().unwrap().lease, 7);
    assert!(!exists(&machine, b"a") && !exists(&machine, b"b"));
    assert_eq!(machine.reader().lease(7).unwrap(), None);
    one_at(&mut machine, 1_500, grant(7, 500));
    assert_eq!(lease_keys(&machine, 7).len(), 0, "another one has the number, and not the keys");
}

#[test]
fn a_keep_alive_that_comes_before_the_end_wins() {
    let mut machine = open(MemoryEngine::new());
    one_at(&mut machine, 0, grant(1, 500));
    one_at(&mut machine, 0, bound(b"k", 1));
    // Due, and not over: the leader's word comes behind.
    let kept = one_at(&mut machine, 600, Command::KeepLeaseAlive { id: 1 });
    assert_eq!(kept, CommandOutcome::LeaseKeptAlive { ttl_ms: 500 });
    assert_eq!(one_at(&mut machine, 601, EXPIRE), expired(0, 0));
    assert!(exists(&machine, b"k"));
    assert_eq!(one_at(&mut machine, 1_100, EXPIRE), expired(1, 1));
    let gone = one_at(&mut machine, 1_100, Command::KeepLeaseAlive { id: 1 });
    assert_eq!(gone, CommandOutcome::LeaseUnknown { id: 1 });
}

/// A batch whose time is behind, or that has none, comes at the cluster's time.
#[test]
fn time_never_goes_back_for_a_lease() {
    let mut machine = open(MemoryEngine::new());
    one_at(&mut machine, 1_000, grant(1, 500));
    one_at(&mut machine, 10, Command::KeepLeaseAlive { id: 1 });
    assert_eq!(machine.next_expiry_ms(), Some(1_500));
    let entry = state_support::batch_entry(3, None, &[plain(Command::KeepLeaseAlive { id: 1 })]);
    machine.apply(&[entry], &mut Vec::new()).unwrap();
    assert_eq!(machine.next_expiry_ms(), Some(1_500));
}

#[test]
fn puts_bind_rebind_keep_and_unbind() {
    let mut machine = open(MemoryEngine::new());
    apply_at(&mut machine, 0, &[plain(grant(1, 500)), plain(grant(2, 500))]);
    one_at(&mut machine, 0, bound(b"k", 1));
    assert_eq!((lease_keys(&machine, 1).len(), lease_keys(&machine, 2).len()), (1, 0));
    one_at(&mut machine, 0, bound(b"k", 2));
    assert_eq!((lease_keys(&machine, 1).len(), lease_keys(&machine, 2).len()), (0, 1));
    one_at(&mut machine, 0, put_with(b"k", LeaseBinding::Keep));
    assert_eq!(machine.reader().get(b"k", None).unwrap().unwrap().lease, 2);
    one_at(&mut machine, 0, put_with(b"k", LeaseBinding::None));
    assert_eq!(lease_keys(&machine, 2).len(), 0);
    one_at(&mut machine, 0, bound(b"k", 2));
    one_at(&mut machine, 0, Command::DeleteRange { range: only(b"k\0"), limits: NO_LIMITS, previous: false });
    assert_eq!(lease_keys(&machine, 2).len(), 0);
    let revoked = one_at(&mut machine, 0, Command::RevokeLease { id: 2 });
    assert_eq!(revoked, CommandOutcome::LeaseRevoked { deleted: 0, revision: machine.revision() });
    let unknown = one_at(&mut machine, 0, bound(b"k", 2));
    assert_eq!(unknown, CommandOutcome::LeaseUnknown { id: 2 });
}

#[test]
fn a_revoked_lease_takes_keys_of_its_own_run_along() {
    let mut machine = open(MemoryEngine::new());
    let before = [plain(grant(1, 500)), plain(bound(b"kept", 1)), plain(bound(b"stored", 1))];
    apply_at(&mut machine, 0, &before);
    let results = apply_at(
        &mut machine,
        0,
        &[
            plain(bound(b"new", 1)),
            plain(put_with(b"kept", LeaseBinding::None)),
            plain(Command::RevokeLease { id: 1 }),
            plain(Command::RevokeLease { id: 1 }),
        ],
    );
    assert_eq!(results[2], CommandOutcome::LeaseRevoked { deleted: 2, revision: 6 });
    assert_eq!(results[3], CommandOutcome::LeaseUnknown { id: 1 });
    assert!(exists(&machine, b"kept") && !exists(&machine, b"stored") && !exists(&machine, b"new"));
}

#[test]
fn a_key_with_a_time_to_live_ends_by_itself_alone() {
    let mut machine = open(MemoryEngine::new());
    apply_at(&mut machine, 1_000, &[plain(for_ms(b"a", 100)), plain(for_ms(b"b", 200))]);
    let leases = machine.reader().leases(0, 10).unwrap();
    assert_eq!(
        leases.iter().map(|lease| (lease.ends_at_ms, lease.keys, lease.of_one_key)).collect::<Vec<_>>(),
        [(1_100, 1, true), (1_200, 1, true)]
    );
    assert_eq!(machine.reader().get(b"a", None).unwrap().unwrap().lease, leases[0].id);
    assert_eq!(one_at(&mut machine, 1_100, EXPIRE), expired(1, 1));
    assert!(!exists(&machine, b"a") && exists(&machine, b"b"));
}

#[test]
fn a_lease_of_one_key_ends_when_its_key_is_put_anew_or_deleted() {
    let mut machine = open(MemoryEngine::new());
    one_at(&mut machine, 0, for_ms(b"k", 100));
    one_at(&mut machine, 50, for_ms(b"k", 100));
    let [lease] = machine.reader().leases(0, 10).unwrap()[..] else { panic!("there is one lease") };
    assert_eq!(lease.ends_at_ms, 150, "the second put's");
    let full = one_at(&mut machine, 50, bound(b"other", lease.id));
    assert_eq!(full, CommandOutcome::LeaseFull { id: lease.id, keys_max: 1 });
    one_at(&mut machine, 60, put_with(b"k", LeaseBinding::None));
    assert_eq!(machine.next_expiry_ms(), None);
    one_at(&mut machine, 60, for_ms(b"k", 100));
    one_at(&mut machine, 60, Command::DeleteRange { range: KeyRange::ALL, limits: NO_LIMITS, previous: false });
    assert_eq!((machine.next_expiry_ms(), machine.reader().leases(0, 10).unwrap()), (None, vec![]));
}

#[test]
fn what_is_due_the_longest_ends_first_within_the_limits() {
    let mut machine = open(MemoryEngine::new());
    apply_at(&mut machine, 0, &[plain(grant(1, 300)), plain(grant(2, 100)), plain(grant(3, 200))]);
    let keys: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
    for (key, id) in keys.into_iter().zip([1, 2, 2, 3, 3]) {
        one_at(&mut machine, 0, bound(key, id));
    }
    let expire = |leases_max, keys_max| Command::Expire { leases_max, sessions_max: 0, keys_max };
    assert_eq!(one_at(&mut machine, 1_000, expire(0, 9)), expired(0, 0));
    assert_eq!(one_at(&mut machine, 1_000, expire(9, 0)), expired(1, 2), "the first goes whatever it holds");
    assert!(!exists(&machine, b"b") && exists(&machine, b"d") && exists(&machine, b"a"));
    assert_eq!(one_at(&mut machine, 1_000, expire(9, 2)), expired(1, 2));
    assert!(!exists(&machine, b"d") && exists(&machine, b"a"));
    assert_eq!(one_at(&mut machine, 1_000, expire(9, 9)), expired(1, 1));
}

#[test]
fn each_lease_that_ends_has_a_revision_of_its_own() {
    let mut machine = open(MemoryEngine::new());
    apply_at(&mut machine, 0, &[plain(grant(1, 100)), plain(grant(2, 100)), plain(grant(3, 100))]);
    for (key, id) in [(b"a", 1), (b"b", 1), (b"c", 3)] {
        one_at(&mut machine, 0, bound(key, id));
    }
    assert_eq!((machine.revision(), one_at(&mut machine, 100, EXPIRE)), (4, expired(3, 3)));
    assert_eq!(machine.revision(), 6, "the one without keys took none");
    assert!(machine.reader().get(b"c", Some(5)).unwrap().is_some());
    assert!(machine.reader().get(b"a", Some(5)).unwrap().is_none());
}

#[test]
fn grants_and_keys_are_refused_above_their_limits() {
    let mut machine = open(MemoryEngine::new());
    let limits = LeaseLimits { leases_max: 2, keys_max: 1 };
    let grant = |id| Command::GrantLease { id, ttl_ms: 100, limits };
    one_at(&mut machine, 0, grant(5));
    assert_eq!(one_at(&mut machine, 0, grant(5)), CommandOutcome::LeaseExists { id: 5 });
    one_at(&mut machine, 0, for_ms(b"own", 100));
    assert_eq!(one_at(&mut machine, 0, grant(6)), CommandOutcome::LeasesFull { leases_max: 2 });
    one_at(&mut machine, 0, bound(b"a", 5));
    let full = CommandOutcome::LeaseFull { id: 5, keys_max: 1 };
    assert_eq!(one_at(&mut machine, 0, bound(b"b", 5)), full);
    assert!(matches!(one_at(&mut machine, 0, bound(b"a", 5)), CommandOutcome::Put { .. }), "it is in it already");
    assert!(!exists(&machine, b"b"));
}

#[test]
fn numbers_are_given_out_once() {
    let mut machine = open(MemoryEngine::new());
    one_at(&mut machine, 0, grant(2, 100));
    let granted = |id| CommandOutcome::LeaseGranted { id, ttl_ms: 100 };
    assert_eq!(one_at(&mut machine, 0, grant(0, 100)), granted(1));
    assert_eq!(one_at(&mut machine, 0, grant(0, 100)), granted(3));
    one_at(&mut machine, 0, Command::RevokeLease { id: 3 });
    assert_eq!(one_at(&mut machine, 0, grant(0, 100)), granted(4));
}

fn leases_of<E: Engine>(machine: &StateMachine<E>) -> (Vec<LeaseStatus>, Vec<Vec<Bytes>>, Option<u64>) {
    let leases = machine.reader().leases(0, 100).unwrap();
    let keys = leases.iter().map(|lease| lease_keys(machine, lease.id)).collect();
    (leases, keys, machine.next_expiry_ms())
}

fn with_leases<E: Engine>(mut machine: StateMachine<E>) -> StateMachine<E> {
    apply_at(&mut machine, 0, &[plain(grant(9, 1_000)), plain(grant(0, 2_000)), plain(bound(b"a\0", 9))]);
    apply_at(&mut machine, 10, &[plain(bound(b"b", 9)), plain(for_ms(b"c", 500)), plain(bound(b"d", 1))]);
    apply_at(&mut machine, 20, &[plain(Command::KeepLeaseAlive { id: 9 }), plain(put_with(b"d", LeaseBinding::None))]);
    machine
}

#[test]
fn leases_outlive_a_restart_and_travel_in_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let (live, copy) = (directory.path().join("live"), directory.path().join("copy"));
    let mut machine = with_leases(rocks(&live));
    let before = leases_of(&machine);
    assert_eq!(
        before.0.iter().map(|lease| (lease.id, lease.ends_at_ms)).collect::<Vec<_>>(),
        [(1, 2_000), (2, 510), (9, 1_020)]
    );
    machine.checkpoint(&copy).unwrap();
    machine.flush(true).unwrap();
    drop(machine);
    for path in [live, copy] {
        let mut machine = open(RocksEngine::open(&path, &small_options()).unwrap());
        assert_eq!(leases_of(&machine), before);
        assert_eq!(one_at(&mut machine, 1_020, EXPIRE), expired(2, 3));
        assert!(!exists(&machine, b"a\0") && !exists(&machine, b"c") && exists(&machine, b"d"));
        assert_eq!(one_at(&mut machine, 1_020, grant(0, 1)), CommandOutcome::LeaseGranted { id: 3, ttl_ms: 1 });
    }
}

#[test]
fn a_lease_is_shown_with_all_its_keys_or_none() {
    let machine = with_leases(open(MemoryEngine::new()));
    let reader = machine.reader();
    let shown = reader.lease_with_keys(9, 3).unwrap().unwrap();
    assert_eq!((shown.revision, shown.status), (machine.revision(), reader.lease(9).unwrap().unwrap()));
    assert_eq!(shown.keys.unwrap(), [&b"a\0"[..], b"b"]);
    assert_eq!(reader.lease_with_keys(9, 2).unwrap().unwrap().keys, None, "they have three bytes");
    assert_eq!(reader.lease_with_keys(77, 2).unwrap(), None);
}

#[test]
fn a_reader_pages_through_leases() {
    let machine = with_leases(open(MemoryEngine::new()));
    let reader = machine.reader();
    let ids =
        |after, limit| -> Vec<u64> { reader.leases(after, limit).unwrap().into_iter().map(|lease| lease.id).collect() };
    assert_eq!((ids(0, 2), ids(2, 2), ids(9, 2), ids(u64::MAX, 2)), (vec![1, 2], vec![9], vec![], vec![]));
}

#[test]
fn the_time_of_a_lease_counts_in_the_hash() {
    let hash = |ttl_ms| {
        let mut machine = open(MemoryEngine::new());
        one_at(&mut machine, 0, grant(1, ttl_ms));
        machine.state_hash()
    };
    assert_ne!(hash(100), hash(101));
}
