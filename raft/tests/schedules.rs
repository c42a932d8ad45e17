//! Thousands of random schedules of faults, each from one seed, against every promise of Raft (Figure 3), linearizable reads
//! and progress after the faults end. A failure names its seed; `RAFT_SEED=n cargo test --release -p raftkv-raft --test
//! schedules` repeats it alone.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use common::{Cluster, Weather};
use raftkv_raft::{Event, NodeId};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// One fault or one piece of work.
fn disturb(cluster: &mut Cluster) {
    let ids = cluster.ids();
    let anybody = ids[usize::try_from(cluster.dice.below(ids.len() as u64)).unwrap()];
    // What happens to leaders is the most interesting.
    let id = if cluster.dice.chance(40) { cluster.leader().unwrap_or(anybody) } else { anybody };
    let other = ids[usize::try_from(cluster.dice.below(ids.len() as u64)).unwrap()];
    match cluster.dice.below(100) {
        0..=3 if cluster.machines[&id].is_up() => cluster.crash(id),
        4..=13 if !cluster.machines[&id].is_up() => cluster.restart(id),
        14..=16 if id != other => {
            cluster.cut.insert((id, other));
        }
        17..=18 => {
            for peer in ids {
                cluster.cut.insert((id, peer));
                cluster.cut.insert((peer, id));
            }
        }
        19..=24 => cluster.cut.clear(),
        25 => {
            let pause = Duration::from_micros(cluster.dice.below(400_000));
            let until = cluster.now + pause;
            cluster.machines.get_mut(&id).unwrap().paused_until = Some(until);
        }
        26..=27 => {
            let stall = cluster.dice.below(250_000);
            cluster.machines.get_mut(&id).unwrap().disk_stall_micros = stall;
        }
        28..=32 => cluster.machines.get_mut(&id).unwrap().disk_stall_micros = 0,
        33..=36 => cluster.machines.get_mut(&id).unwrap().flush(),
        37..=39 => cluster.compact(id),
        40 => {
            let target = if cluster.dice.chance(50) { Some(other) } else { None };
            cluster.step(id, Event::TransferLeadership { target });
        }
        41 if cluster.changes => cluster.change_membership(id),
        42 if cluster.losses => {
            if cluster.machines[&id].is_up() {
                cluster.crash(id);
            }
            cluster.lose_disk(id);
        }
        41..=42 => cluster.step(id, Event::Unreachable { peer: other }),
        43..=60 => {
            cluster.read(id);
        }
        _ => {
            let leader = cluster.leader();
            cluster.propose(leader.unwrap_or(id));
        }
    }
}

/// Faults for a while, then peace, then everybody must agree and go on.
fn run_schedule(seed: u64) -> [u64; 8] {
    let size = [1, 2, 3, 3, 3, 5, 5, 7][usize::try_from(seed % 8).unwrap()];
    let (changes, losses, lease_reads) = (seed % 3 == 1, seed % 5 < 2, seed % 7 == 3);
    let mut cluster = Cluster::with_spares(size, if changes { 3 } else { 0 }, lease_reads, seed);
    (cluster.changes, cluster.losses) = (changes, losses);
    cluster.weather = Weather {
        loss_percent: cluster.dice.below(15),
        repeat_percent: cluster.dice.below(15),
        message_micros_max: 100 + cluster.dice.below(12_000),
        write_micros_max: 100 + cluster.dice.below(15_000),
    };
    if !seed.is_multiple_of(4) {
        cluster.elect_if_possible();
    }
    let micros_max = if cluster.dice.chance(50) { 8_000 } else { 40_000 };
    for _ in 0..250 {
        disturb(&mut cluster);
        let micros = cluster.dice.below(micros_max);
        cluster.run(Duration::from_micros(micros));
    }
    cluster.heal();
    cluster.settle();
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.checks.reads_under_way(), 0, "a read was neither answered nor refused");
    assert_reads_are_served(&mut cluster);
    let checks = &cluster.checks;
    let entries = checks.committed_count() as u64;
    let memberships = checks.memberships.len() as u64 - 1;
    let disturbances = [checks.elections, checks.installs, checks.loads, checks.truncations];
    let [elections, installs, loads, truncations] = disturbances;
    [entries, checks.reads_served, elections, installs, loads, truncations, memberships, checks.repairs]
}

/// Members change while links are cut; then some nodes are gone for good, and the others are a quorum of every membership that they know
/// of. Says how many are gone.
fn lose_nodes_for_good(seed: u64) -> usize {
    let size = [2, 3, 3, 4, 5][usize::try_from(seed % 5).unwrap()];
    let mut cluster = Cluster::with_spares(size, 2, seed % 7 == 3, seed);
    cluster.changes = true;
    cluster.elect_if_possible();
    for _ in 0..40 {
        let ids = cluster.ids();
        let [id, other] = [0, 1].map(|_| ids[usize::try_from(cluster.dice.below(ids.len() as u64)).unwrap()]);
        match cluster.dice.below(10) {
            0..=2 => {
                let leader = cluster.leader().unwrap_or(id);
                cluster.change_membership(leader);
            }
            3..=5 => {
                cluster.cut.insert((id, other));
                cluster.cut.insert((other, id));
            }
            6 => cluster.cut.clear(),
            7 => {
                let leader = cluster.leader().unwrap_or(id);
                cluster.step(leader, Event::TransferLeadership { target: None });
            }
            _ => disturb(&mut cluster),
        }
        let micros = cluster.dice.below(60_000);
        cluster.run(Duration::from_micros(micros));
    }
    // What is under way arrives before anybody is lost.
    let ids = cluster.ids();
    cluster.cut.extend(ids.iter().flat_map(|from| ids.iter().map(|to| (*from, *to))));
    cluster.run(Duration::from_millis(900));
    cluster.heal();
    let gone = cluster.lose_a_minority();
    cluster.commit_another(|_, _| true);
    gone
}

/// In peace every node serves reads.
fn assert_reads_are_served(cluster: &mut Cluster) {
    let served = cluster.checks.reads_served;
    let members: Vec<NodeId> = cluster.checks.membership().members().collect();
    for id in &members {
        cluster.read(*id);
    }
    cluster.run(Duration::from_millis(100));
    assert_eq!(cluster.checks.reads_served, served + members.len() as u64, "a read in peace was refused");
}

impl Cluster {
    fn elect_if_possible(&mut self) -> Option<NodeId> {
        self.run_until(Duration::from_secs(2), |cluster| cluster.leader().is_some());
        self.leader()
    }
}

/// Runs each, and says with which command one that fails is repeated.
fn run_each<T>(seeds: impl Iterator<Item = u64>, test: &str, run: impl Fn(u64) -> T) -> Vec<T> {
    let repeat = |seed| format!("RAFT_SEED={seed} cargo test --release -p raftkv-raft --test schedules {test}");
    seeds
        .map(|seed| {
            catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
                let note = format!("failed: {}\n", repeat(seed));
                std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes()).unwrap();
                resume_unwind(panic);
            })
        })
        .collect()
}

fn run_seeds(seeds: impl Iterator<Item = u64>) {
    let (mut schedules, mut totals) = (0_u64, [0_u64; 8]);
    for counts in run_each(seeds, "random_schedules", run_schedule) {
        schedules += 1;
        for (total, count) in totals.iter_mut().zip(counts) {
            *total += count;
        }
    }
    // The schedules must do something: faults that stop all work, or that never happen, would find nothing.
    let per_hundred = totals.map(|total| 100 * total / schedules);
    let [entries, reads, elections, installs, loads, truncations, memberships, repairs] = per_hundred;
    let works = entries > 2000 && reads > 300 && memberships > 50 && repairs > 10;
    let busy = works && elections > 200 && installs > 10 && loads > 50 && truncations > 10;
    assert!(busy || schedules < 100, "counts for every hundred schedules: {per_hundred:?}");
}

/// The seeds to run: one of the two halves, or the one asked for.
fn seeds(half: u64) -> Vec<u64> {
    match std::env::var("RAFT_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let count: u64 = std::env::var("RAFT_SCHEDULES").map_or(10_000, |count| count.parse().unwrap());
            (0..count).filter(|seed| seed % 2 == half).collect()
        }
    }
}

#[test]
fn whoever_is_left_when_nodes_are_gone_for_good_goes_on() {
    let gone = run_each(seeds(0).into_iter(), "whoever_is_left", lose_nodes_for_good);
    let schedules_with_losses = gone.iter().filter(|gone| **gone > 0).count();
    assert!(schedules_with_losses * 2 > gone.len(), "nobody was gone in more than half of the schedules");
}

#[test]
fn random_schedules_even() {
    run_seeds(seeds(0).into_iter());
}

#[test]
fn random_schedules_odd() {
    run_seeds(seeds(1).into_iter());
}

#[test]
fn same_seed_gives_the_same_run() {
    assert_eq!(run_schedule(11), run_schedule(11));
}
