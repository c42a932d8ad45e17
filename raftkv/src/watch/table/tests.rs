//! The table of watchers against a list of everything that happened.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

/// Key and whether it was deleted, in the order of the revisions.
type History = Vec<(u64, Bytes, bool)>;

fn gathered(revision: u64, key: &'static str, bytes: usize) -> Gathered<()> {
    Gathered { revision, key: key.into(), is_delete: false, bytes, payload: () }
}

fn filter(start: &'static str, end: Option<&'static str>) -> WatchFilter {
    let range = WatchedRange { start: start.into(), end: end.map(Bytes::from) };
    WatchFilter { range, previous: false, puts: true, deletes: true }
}

fn all() -> WatchFilter {
    filter("", None)
}

fn publish(table: &mut WatchTable<()>, through: u64, events: Vec<Gathered<()>>) -> Vec<WatcherId> {
    let mut wake = Vec::new();
    assert!(table.gather(through).is_some(), "somebody watches");
    table.publish(through, events, &mut wake);
    wake
}

fn revisions(step: Step<()>) -> (Vec<u64>, u64) {
    let Step::Batch { events, through } = step else { panic!("a batch is due, not {step:?}") };
    (events.iter().map(|event| event.revision).collect(), through)
}

#[test]
fn only_whoever_wants_an_event_is_woken_and_only_once() {
    let mut table = WatchTable::new(10, 1000);
    let (a, b) = (table.add(filter("a", Some("b")), 11, 10), table.add(filter("b", Some("b\0")), 11, 10));
    assert_eq!(publish(&mut table, 12, vec![gathered(11, "a", 1), gathered(12, "a", 1)]), [a]);
    assert_eq!(publish(&mut table, 13, vec![gathered(13, "a", 1)]), [], "it has not taken anything yet");
    assert_eq!(table.step(b, 100), Step::Wait { through: 13 });
    assert_eq!(revisions(table.step(a, 100)), (vec![11, 12, 13], 13));
    assert_eq!(table.step(a, 100), Step::Wait { through: 13 });
    assert_eq!(publish(&mut table, 14, vec![gathered(14, "b", 1)]), [b]);
}

#[test]
fn a_batch_ends_between_revisions() {
    let mut table = WatchTable::new(1, 1000);
    let id = table.add(all(), 2, 1);
    publish(&mut table, 3, vec![gathered(2, "a", 10), gathered(2, "b", 10), gathered(3, "c", 10)]);
    assert_eq!(revisions(table.step(id, 1)), (vec![2, 2], 2));
    assert_eq!(revisions(table.step(id, 1)), (vec![3], 3));
}

#[test]
fn the_ring_waits_for_nobody() {
    let mut table = WatchTable::new(1, 25);
    let (slow, quick, elsewhere) = (table.add(all(), 2, 1), table.add(all(), 2, 1), table.add(filter("z", None), 2, 1));
    for revision in 2..=6 {
        publish(&mut table, revision, vec![gathered(revision, "a", 10)]);
        assert_eq!(revisions(table.step(quick, 100)), (vec![revision], revision));
        assert!(table.ring_bytes() <= 25);
    }
    assert_eq!(table.step(slow, 100), Step::Disk(2..=4));
    assert_eq!(table.step(elsewhere, 100), Step::Wait { through: 6 }, "nothing has come for it");
    table.have_read(slow, 3);
    assert_eq!(table.step(slow, 100), Step::Disk(4..=4));
    table.have_read(slow, 4);
    assert_eq!(revisions(table.step(slow, 100)), (vec![5, 6], 6));
}

#[test]
fn a_revision_larger_than_the_ring_is_read_from_disk() {
    let mut table = WatchTable::new(1, 15);
    let id = table.add(all(), 2, 1);
    assert_eq!(publish(&mut table, 2, vec![gathered(2, "a", 10), gathered(2, "b", 10)]), [id]);
    assert_eq!((table.step(id, 100), table.ring_bytes()), (Step::Disk(2..=2), 0));
    table.have_read(id, 2);
    assert_eq!(table.step(id, 100), Step::Wait { through: 2 });
}

#[test]
fn who_comes_while_others_gather_reads_those_revisions_from_disk() {
    let mut table = WatchTable::new(1, 1000);
    let first = table.add(filter("a", Some("b")), 2, 1);
    assert_eq!(table.gather(9), Some(2..=9));
    // The change of revision 3 has been passed over: nobody wanted it.
    let late = table.add(filter("b", None), 3, 9);
    let mut wake = Vec::new();
    table.publish(5, vec![gathered(2, "a", 1)], &mut wake);
    assert_eq!(wake, [first]);
    assert_eq!(table.step(late, 100), Step::Disk(3..=9));
    table.have_read(late, 9);
    assert_eq!(table.step(late, 100), Step::Wait { through: 9 });
    assert_eq!(table.gather(9), Some(6..=9));
    table.publish(9, vec![gathered(7, "b", 1)], &mut wake);
    assert_eq!(table.step(late, 100), Step::Wait { through: 9 }, "it has read that one from disk");
}

#[test]
fn a_watch_from_the_future_waits_for_it() {
    let mut table = WatchTable::new(1, 1000);
    let id = table.add(all(), 4, 1);
    assert_eq!(publish(&mut table, 3, vec![gathered(2, "a", 1), gathered(3, "a", 1)]), []);
    assert_eq!(table.step(id, 100), Step::Wait { through: 3 });
    assert_eq!(publish(&mut table, 4, vec![gathered(4, "a", 1)]), [id]);
    assert_eq!(revisions(table.step(id, 100)), (vec![4], 4));
}

#[test]
fn what_cannot_be_gathered_is_for_each_watcher_to_find_out() {
    let mut table = WatchTable::new(1, 1000);
    let id = table.add(all(), 2, 1);
    publish(&mut table, 2, Vec::new());
    assert_eq!(table.gather(9), Some(3..=9));
    let mut wake = Vec::new();
    table.skip(9, &mut wake);
    assert_eq!((wake, table.step(id, 100)), (vec![id], Step::Disk(3..=9)));
}

#[test]
fn nothing_is_gathered_while_nobody_watches() {
    let mut table: WatchTable<()> = WatchTable::new(1, 1000);
    assert_eq!(table.gather(100), None);
    let id = table.add(all(), 50, 120);
    assert_eq!(table.step(id, 100), Step::Disk(50..=120), "what was not gathered is on disk");
    table.remove(id);
    assert_eq!((table.watchers(), table.gather(200)), (0, None));
}

#[derive(Debug, Clone)]
enum Happening {
    /// A revision with these changes is applied.
    Applied(Vec<(Bytes, bool)>),
    /// Somebody gathers so many revisions.
    Gathers(u64),
    /// And publishes them.
    Publishes,
    /// Watches keys from here on, from so many revisions before or after the newest.
    Comes(Bytes, Option<Bytes>, i64, bool),
    /// One of the watchers takes a step.
    Steps(prop::sample::Index),
    /// One of them goes.
    Goes(prop::sample::Index),
}

fn happenings() -> impl Strategy<Value = Happening> {
    let key = || prop::sample::select(vec!["a", "b", "ba", "c"]).prop_map(Bytes::from);
    prop_oneof![
        6 => prop::collection::vec((key(), any::<bool>()), 1..4).prop_map(Happening::Applied),
        4 => (1u64..4).prop_map(Happening::Gathers),
        4 => Just(Happening::Publishes),
        2 => (key(), prop::option::of(key()), -5i64..4, any::<bool>())
            .prop_map(|(start, end, from, deletes)| Happening::Comes(start, end, from, deletes)),
        8 => any::<prop::sample::Index>().prop_map(Happening::Steps),
        1 => any::<prop::sample::Index>().prop_map(Happening::Goes),
    ]
}

struct Seen {
    id: WatcherId,
    filter: WatchFilter,
    from: u64,
    events: History,
}

/// One step of one watcher, its disk included.
fn step(
    table: &mut WatchTable<()>,
    history: &History,
    seen: &mut Seen,
    through: &mut BTreeMap<WatcherId, u64>,
) -> bool {
    let (events, now_through): (History, u64) = match table.step(seen.id, 4) {
        Step::Wait { through } => {
            assert!(through + 1 >= seen.from, "it waits at {through}, and wants what comes from {}", seen.from);
            return false;
        }
        Step::Batch { events, through } => {
            (events.iter().map(|event| (event.revision, event.key.clone(), event.is_delete)).collect(), through)
        }
        Step::Disk(range) => {
            // The first two revisions of what was asked for.
            let through = (*range.end()).min(range.start() + 1);
            let read = |(revision, key, is_delete): &&(u64, Bytes, bool)| {
                (*range.start()..=through).contains(revision) && seen.filter.wants(key, *is_delete)
            };
            table.have_read(seen.id, through);
            (history.iter().filter(read).cloned().collect(), through)
        }
    };
    let before = through.insert(seen.id, now_through).unwrap_or(0);
    assert!(before < now_through, "a watcher went from {before} to {now_through}");
    assert!(events.iter().all(|(revision, ..)| (before + 1..=now_through).contains(revision)), "{events:?}");
    seen.events.extend(events);
    true
}

/// What was gathered and not published.
type InFlight = Option<(u64, Vec<Gathered<()>>)>;

fn gather(table: &mut WatchTable<()>, history: &History, newest: u64, revisions_max: u64) -> InFlight {
    let range = table.gather(newest)?;
    let through = (*range.end()).min(range.start() + revisions_max - 1);
    let inside = history.iter().filter(|(revision, ..)| (*range.start()..=through).contains(revision));
    let wanted = inside.filter(|(_, key, is_delete)| table.interest(key, *is_delete) != Interest::Nothing);
    let event = |(revision, key, is_delete): &(u64, Bytes, bool)| Gathered {
        revision: *revision,
        key: key.clone(),
        is_delete: *is_delete,
        bytes: 1,
        payload: (),
    };
    Some((through, wanted.map(event).collect()))
}

fn publish_gathered(table: &mut WatchTable<()>, in_flight: &mut InFlight) {
    if let Some((through, events)) = in_flight.take() {
        table.publish(through, events, &mut Vec::new());
    }
}

proptest! {
    #![proptest_config(Config { cases: 2000, rng_seed: RngSeed::Fixed(8), failure_persistence: None, ..Config::default() })]

    #[test]
    fn every_watcher_gets_what_it_wants_once_and_in_order(happenings in prop::collection::vec(happenings(), 1..120)) {
        let mut table: WatchTable<()> = WatchTable::new(1, 6);
        let (mut history, mut newest, mut in_flight) = (History::new(), 1u64, None);
        let (mut watchers, mut through) = (Vec::<Seen>::new(), BTreeMap::new());
        for happening in happenings {
            match happening {
                Happening::Applied(changes) => {
                    newest += 1;
                    history.extend(changes.into_iter().map(|(key, is_delete)| (newest, key, is_delete)));
                }
                Happening::Gathers(revisions) => {
                    publish_gathered(&mut table, &mut in_flight);
                    in_flight = gather(&mut table, &history, newest, revisions);
                }
                Happening::Publishes => publish_gathered(&mut table, &mut in_flight),
                Happening::Comes(start, end, from, deletes) => {
                    let from = newest.saturating_add_signed(from).max(1);
                    let filter = WatchFilter { range: WatchedRange { start, end }, previous: false, puts: true, deletes };
                    let id = table.add(filter.clone(), from, newest);
                    watchers.push(Seen { id, filter, from, events: History::new() });
                }
                Happening::Steps(index) => {
                    if !watchers.is_empty() {
                        let index = index.index(watchers.len());
                        step(&mut table, &history, &mut watchers[index], &mut through);
                    }
                }
                Happening::Goes(index) => {
                    if !watchers.is_empty() {
                        let gone = watchers.swap_remove(index.index(watchers.len()));
                        table.remove(gone.id);
                    }
                }
            }
            prop_assert!(table.ring_bytes() <= 6);
        }
        publish_gathered(&mut table, &mut in_flight);
        in_flight = gather(&mut table, &history, newest, u64::MAX / 2);
        publish_gathered(&mut table, &mut in_flight);
        for seen in &mut watchers {
            while step(&mut table, &history, seen, &mut through) {}
            let wanted = |(revision, key, is_delete): &&(u64, Bytes, bool)| {
                *revision >= seen.from && seen.filter.wants(key, *is_delete)
            };
            let expected: History = history.iter().filter(wanted).cloned().collect();
            prop_assert_eq!(&seen.events, &expected, "{:?} from {}", seen.filter, seen.from);
        }
        prop_assert_eq!(watchers.len(), table.watchers());
    }
}
