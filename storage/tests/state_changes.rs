//! The changes of revisions against a model that writes them down as they happen, on both engines.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod state_support;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use raftkv_storage::state::{
    Change, ChangePosition, Engine, Interest, KeyValue, MemoryEngine, PartBounds, ReadError, StateReader,
};
use state_support::{NO_LIMITS, Owned, apply, delete, delete_range, entries, open, put, rocks};
use std::collections::BTreeMap;

/// Everything that happened, with what was there before.
#[derive(Default)]
struct Model {
    current: BTreeMap<Vec<u8>, KeyValue>,
    changes: Vec<Change>,
    revision: u64,
}

impl Model {
    fn of(batches: &[Vec<Owned>]) -> Model {
        let mut model = Model { revision: 1, ..Model::default() };
        batches.iter().flatten().for_each(|command| model.apply(command));
        model
    }

    fn apply(&mut self, command: &Owned) {
        match command {
            Owned::Put { key, value, .. } => {
                self.revision += 1;
                let previous = self.current.get(key).cloned();
                let written = KeyValue {
                    key: key.clone().into(),
                    value: value.clone().into(),
                    create_revision: previous.as_ref().map_or(self.revision, |kv| kv.create_revision),
                    mod_revision: self.revision,
                    version: previous.as_ref().map_or(1, |kv| kv.version + 1),
                    lease: 0,
                };
                self.current.insert(key.clone(), written.clone());
                let change =
                    Change { revision: self.revision, key: key.clone().into(), value: Some(written), previous };
                self.changes.push(change);
            }
            Owned::Delete { start, end, .. } => {
                let inside = |key: &Vec<u8>| key >= start && end.as_ref().is_none_or(|end| key < end);
                let keys: Vec<Vec<u8>> = self.current.keys().filter(|key| inside(key)).cloned().collect();
                self.revision += u64::from(!keys.is_empty());
                for key in keys {
                    let previous = self.current.remove(&key);
                    self.changes.push(Change { revision: self.revision, key: key.into(), value: None, previous });
                }
            }
        }
    }

    fn between(&self, first: u64, last: u64, question: &Question) -> Vec<Change> {
        let wanted = |change: &&Change| {
            (first..=last).contains(&change.revision)
                && question.interest(&change.key, change.value.is_none()) != Interest::Nothing
        };
        let mut changes: Vec<Change> = self.changes.iter().filter(wanted).cloned().collect();
        if !question.previous {
            changes.iter_mut().for_each(|change| change.previous = None);
        }
        changes
    }
}

const LARGE: PartBounds = PartBounds { bytes: 1 << 20, revision_bytes: 1 << 20 };

#[derive(Debug, Clone)]
struct Question {
    first: f64,
    last: f64,
    bounds: PartBounds,
    prefix: Option<u8>,
    previous: bool,
    deletes: bool,
}

impl Question {
    fn interest(&self, key: &[u8], is_delete: bool) -> Interest {
        if self.prefix.is_some_and(|prefix| key[0] != prefix) || (is_delete && !self.deletes) {
            Interest::Nothing
        } else if self.previous {
            Interest::WithPrevious
        } else {
            Interest::Change
        }
    }
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, b'a', 0xff]), 1..3)
}

fn commands() -> impl Strategy<Value = Owned> {
    let values = prop::sample::select(vec![b"".to_vec(), b"x".to_vec(), vec![b'y'; 40]]);
    prop_oneof![
        6 => (keys(), values).prop_map(|(key, value)| put(&key, &value)),
        3 => keys().prop_map(|key| delete(&key)),
        1 => keys().prop_map(|start| delete_range(&start, None, NO_LIMITS)),
    ]
}

fn questions() -> impl Strategy<Value = Question> {
    let prefix = prop::option::of(prop::sample::select(vec![0u8, b'a', 0xff]));
    let bytes = || prop::sample::select(vec![0usize, 1, 50, 1 << 20]);
    (0.0..=1.0, 0.0..=1.0, bytes(), bytes(), prefix, any::<bool>(), any::<bool>()).prop_map(
        |(a, b, bytes, revision_bytes, prefix, previous, deletes): (f64, f64, _, _, _, _, _)| Question {
            first: a.min(b),
            last: a.max(b),
            bounds: PartBounds { bytes, revision_bytes },
            prefix,
            previous,
            deletes,
        },
    )
}

fn cases() -> impl Strategy<Value = (Vec<Vec<Owned>>, Vec<Question>)> {
    let batches = prop::collection::vec(prop::collection::vec(commands(), 0..6), 1..15);
    (batches, prop::collection::vec(questions(), 15))
}

/// Reads in parts until `last`, and checks of each part what can be said of it alone.
fn read_all<E: Engine>(reader: &StateReader<E>, first: u64, last: u64, question: &Question) -> Vec<Change> {
    let (mut next, mut found) = (ChangePosition::start_of(first), Vec::new());
    while next.revision <= last {
        let mut interest = |key: &[u8], is_delete: bool| question.interest(key, is_delete);
        let part = reader.changes(next, last, question.bounds, &mut interest).unwrap();
        assert!(next < part.next && part.next <= ChangePosition::start_of(last + 1), "{next:?} to {last}: {part:?}");
        let whole = next.revision..=part.through();
        if part.is_within_revision() {
            assert!(part.through() < next.revision, "a part of a revision, and others: {part:?}");
            assert!(part.changes.iter().all(|change| change.revision == next.revision), "{part:?}");
        } else {
            assert!(part.changes.iter().all(|change| whole.contains(&change.revision)), "{part:?}");
        }
        if let Some(newest) = part.changes.last() {
            let is_newest = |change: &&Change| change.revision == newest.revision;
            let bytes_of = |is_newest_wanted: bool| -> Vec<usize> {
                part.changes.iter().filter(|it| is_newest(it) == is_newest_wanted).map(Change::bytes).collect()
            };
            let before: usize = bytes_of(false).iter().sum();
            assert!(before < question.bounds.bytes.max(1), "{before} bytes before the last revision of a part");
            let newest = bytes_of(true);
            let but_one: usize = newest[..newest.len() - 1].iter().sum();
            assert!(but_one < question.bounds.revision_bytes.max(1), "{but_one} bytes of one revision, and one more");
        }
        next = part.next;
        found.extend(part.changes);
    }
    found
}

fn check<E: Engine>(reader: &StateReader<E>, model: &Model, questions: &[Question]) {
    assert_eq!(reader.revision(), model.revision);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a small number")]
    let revision = |share: f64| 1 + (share * (model.revision - 1) as f64) as u64;
    for question in questions {
        let (first, last) = (revision(question.first), revision(question.last));
        assert_eq!(
            read_all(reader, first, last, question),
            model.between(first, last, question),
            "{question:?}, {first} to {last}"
        );
    }
    let (requested, current) = (model.revision + 1, model.revision);
    let future = reader.changes(ChangePosition::start_of(1), requested, LARGE, &mut |_, _| Interest::Change);
    assert_eq!(future, Err(ReadError::Future { requested, current }));
}

proptest! {
    #![proptest_config(Config { cases: 300, rng_seed: RngSeed::Fixed(5), failure_persistence: None, ..Config::default() })]

    #[test]
    fn changes_in_memory_are_what_happened((batches, questions) in cases()) {
        let mut machine = open(MemoryEngine::new());
        apply(&mut machine, &batches);
        check(&machine.reader(), &Model::of(&batches), &questions);
    }
}

proptest! {
    #![proptest_config(Config { cases: 25, rng_seed: RngSeed::Fixed(6), failure_persistence: None, ..Config::default() })]

    #[test]
    fn changes_in_rocksdb_are_what_happened((batches, questions) in cases()) {
        let directory = tempfile::tempdir().unwrap();
        let mut machine = rocks(&directory.path().join("db"));
        let all = entries(&batches);
        let (first, second) = all.split_at(all.len() / 2);
        // Half of it comes from files, half from memtables.
        machine.apply(first, &mut Vec::new()).unwrap();
        machine.flush(true).unwrap();
        machine.apply(second, &mut Vec::new()).unwrap();
        check(&machine.reader(), &Model::of(&batches), &questions);
    }
}

#[test]
fn a_revision_is_split_only_where_it_is_too_large_by_itself() {
    let mut machine = open(MemoryEngine::new());
    let puts: Vec<Owned> = (0..100u8).map(|number| put(&[b'k', number], b"value")).collect();
    apply(&mut machine, &[puts, vec![delete_range(b"", None, NO_LIMITS)], vec![put(b"z", b"")]]);
    let reader = machine.reader();
    let read = |from, bytes, revision_bytes| {
        reader.changes(from, 103, PartBounds { bytes, revision_bytes }, &mut |_, _| Interest::WithPrevious).unwrap()
    };
    let part = read(ChangePosition::start_of(102), 1, 900);
    assert_eq!((part.changes.len(), part.through(), part.is_within_revision()), (100, 102, false));
    assert!(part.changes.iter().all(|change| change.previous.as_ref().unwrap().value == "value"));
    // Each of its changes has nine bytes.
    let first = read(ChangePosition::start_of(102), 1, 540);
    assert_eq!((first.changes.len(), first.next), (60, ChangePosition { revision: 102, number: 60 }));
    let rest = read(first.next, 1_000, 540);
    assert_eq!((rest.changes.len(), rest.through(), rest.is_within_revision()), (41, 103, false));
    assert_eq!([&first.changes[..], &rest.changes[..40]].concat(), part.changes);
    let before = read(ChangePosition::start_of(100), 1_000, 540);
    assert_eq!((before.changes.len(), before.next), (2, ChangePosition::start_of(102)));
}

#[test]
fn a_reader_that_wants_nothing_hears_how_far_it_is() {
    let mut machine = open(MemoryEngine::new());
    let puts: Vec<Owned> = (0..20_000).map(|_| put(b"k", b"")).collect();
    apply(&mut machine, &[puts]);
    let reader = machine.reader();
    let part = reader.changes(ChangePosition::start_of(2), 20_001, LARGE, &mut |_, _| Interest::Nothing).unwrap();
    assert!(part.changes.is_empty() && part.through() > 2 && part.through() < 20_001, "{part:?}");
}

#[test]
fn no_value_is_looked_up_for_a_change_that_nobody_wants() {
    let mut machine = open(MemoryEngine::new());
    apply(&mut machine, &[vec![put(b"a", b"1"), put(b"b", b"2"), put(b"a", b"3")]]);
    let mut asked = Vec::new();
    let part = machine.reader().changes(ChangePosition::start_of(1), 4, LARGE, &mut |key, is_delete| {
        asked.push((Bytes::copy_from_slice(key), is_delete));
        if key == b"b" { Interest::Change } else { Interest::Nothing }
    });
    let part = part.unwrap();
    assert_eq!(asked, [("a".into(), false), ("b".into(), false), ("a".into(), false)]);
    assert_eq!(part.changes.iter().map(|change| change.key.as_ref()).collect::<Vec<_>>(), [b"b"]);
}
