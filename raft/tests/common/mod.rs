//! A whole group in memory, driven by one seed: fake time, a network that loses, repeats, delays and reorders, disks that
//! take their time and forget what was not synced, crashes, restarts, partitions, pauses and disks that hang.
//!
//! The machine of each node carries out its actions as a driver would, and checks what no driver can: that nothing is
//! promised which its disk does not hold. What concerns the whole group is checked in `checks.rs`.

#![allow(unreachable_pub, reason = "a module of tests has no public face")]
#![allow(dead_code, reason = "every test file uses a part of the harness")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests look for one kind of message among many")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

pub mod checks;
pub mod machine;
pub mod rig;

use checks::Checks;
use machine::{Disk, Machine};
use raftkv_raft::{
    Config, Event, Instant, LogIndex, LogPosition, MemberRole, Membership, MembershipChange, Message, NodeId,
    ProposeError, RepairId, Role,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The harness' own generator, apart from the core's (an xorshift).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
        for _ in 0..8 {
            dice.next();
        }
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How unkind the world is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub loss_percent: u64,
    pub repeat_percent: u64,
    pub message_micros_max: u64,
    pub write_micros_max: u64,
}

impl Weather {
    pub const FAIR: Weather =
        Weather { loss_percent: 0, repeat_percent: 0, message_micros_max: 500, write_micros_max: 300 };
}

/// Something that will happen.
#[derive(Debug)]
pub enum Coming {
    Deliver {
        from: NodeId,
        message: Message,
    },
    /// The oldest write under way is finished; so are those asked for before.
    Written {
        life: u64,
        number: u64,
    },
    Applied {
        life: u64,
    },
    Event {
        life: u64,
        event: Event,
    },
}

/// The group: see the module.
pub struct Cluster {
    pub now: Instant,
    pub dice: Dice,
    pub weather: Weather,
    pub machines: BTreeMap<NodeId, Machine>,
    coming: BTreeMap<(Instant, u64), (NodeId, Coming)>,
    sequence: u64,
    /// Links that let nothing through, each in one direction.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub checks: Checks,
    next_token: u64,
    next_payload: u64,
    /// Whether the schedule changes the membership.
    pub changes: bool,
    /// When it last asked for a change.
    changed_at: Instant,
    /// Whether it loses disks.
    pub losses: bool,
}

/// A configuration with small limits, so that every limit is met.
pub fn small_config(id: NodeId) -> Config {
    Config {
        election_timeout: Duration::from_millis(100),
        heartbeat_interval: Duration::from_millis(10),
        inflight_messages_max: 4,
        inflight_bytes_max: 400,
        append_bytes_max: 100,
        uncommitted_bytes_max: 2000,
        cache_bytes_max: 600,
        reads_waiting_max: 64,
        ..Config::new(id)
    }
}

impl Cluster {
    pub fn new(size: u64, seed: u64) -> Cluster {
        Cluster::with_spares(size, 0, false, seed)
    }

    /// `size` founding members, and `spares` nodes that have not joined. With `lease_reads`, all clocks run equally fast.
    pub fn with_spares(size: u64, spares: u64, lease_reads: bool, seed: u64) -> Cluster {
        let membership = Membership::new((1..=size).map(NodeId));
        let mut cluster = Cluster {
            now: Instant::ORIGIN,
            dice: Dice::new(seed),
            weather: Weather::FAIR,
            machines: BTreeMap::new(),
            coming: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            checks: Checks::new(membership.clone()),
            next_token: 0,
            next_payload: 0,
            changes: false,
            changed_at: Instant::ORIGIN,
            losses: false,
        };
        for id in (1..=size + spares).map(NodeId) {
            let disk = Disk::new(if id.0 <= size { membership.clone() } else { Membership::default() });
            let seed = cluster.dice.next();
            // Clocks do not run equally fast, so what one node takes for a timeout is another's half.
            let slower = if lease_reads { 0 } else { cluster.dice.below(4) };
            let election_timeout = Duration::from_millis(100 + 100 * slower);
            let config = Config { election_timeout, lease_reads, ..small_config(id) };
            cluster.machines.insert(id, Machine::new(config, disk, cluster.now, seed));
        }
        cluster
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    /// Lets something happen to `node` after `micros`.
    pub fn schedule(&mut self, micros: u64, node: NodeId, coming: Coming) {
        self.sequence += 1;
        let at = self.now + Duration::from_micros(micros);
        self.coming.insert((at, self.sequence), (node, coming));
    }

    /// Runs for this long.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.run_one(end) {}
        self.now = end;
    }

    /// Runs until `condition` holds; says whether it did within `duration`.
    pub fn run_until(&mut self, duration: Duration, condition: impl Fn(&Cluster) -> bool) -> bool {
        let end = self.now + duration;
        while !condition(self) {
            if !self.run_one(end) {
                self.now = end;
                return condition(self);
            }
        }
        true
    }

    /// Lets the next thing happen, unless it is after `end`.
    fn run_one(&mut self, end: Instant) -> bool {
        let wake = self.machines.iter().filter_map(|(id, machine)| machine.wakes_at().map(|at| (at, *id))).min();
        let coming = self.coming.keys().next().copied();
        let at = coming.map(|(at, _)| at).into_iter().chain(wake.map(|(at, _)| at)).min();
        let Some(at) = at.filter(|at| *at <= end) else { return false };
        self.now = self.now.max(at);
        match (coming, wake) {
            (Some(key), wake) if wake.is_none_or(|(wake_at, _)| key.0 <= wake_at) => {
                let (node, coming) = self.coming.remove(&key).unwrap();
                self.happen(node, coming);
            }
            (_, Some((_, node))) => self.step(node, Event::Wake),
            (_, None) => unreachable!("something was found to be next"),
        }
        true
    }

    fn happen(&mut self, node: NodeId, coming: Coming) {
        let machine = self.machines.get_mut(&node).unwrap();
        if let Some(until) = machine.paused_until.filter(|until| *until > self.now) {
            let micros = u64::try_from(until.since(self.now).as_micros()).unwrap() + 1;
            return self.schedule(micros, node, coming);
        }
        let life = machine.life;
        match coming {
            Coming::Deliver { from, message } => self.step(node, Event::Receive { from, message }),
            Coming::Written { life: of, number } if of == life => {
                for event in machine.finish_writes(number) {
                    self.step(node, event);
                }
            }
            Coming::Applied { life: of } if of == life => {
                if let Some(event) = machine.finish_apply(node, &mut self.checks) {
                    self.step(node, event);
                }
            }
            Coming::Event { life: of, event } if of == life => self.step(node, event),
            Coming::Written { .. } | Coming::Applied { .. } | Coming::Event { .. } => {}
        }
    }

    /// Steps one node, if it is up, and carries out what it asks for.
    pub fn step(&mut self, id: NodeId, event: Event) {
        let machine = self.machines.get_mut(&id).unwrap();
        if !machine.step(self.now, event) {
            return;
        }
        let orders = machine.carry_out(id, &mut self.checks);
        for (to, message) in orders.messages {
            self.transmit(id, to, message);
        }
        let life = self.machines[&id].life;
        for number in orders.writes {
            let micros = self.dice.below(self.weather.write_micros_max) + self.machines[&id].disk_stall_micros;
            self.schedule(micros, id, Coming::Written { life, number });
        }
        if orders.applies {
            let micros = self.dice.below(self.weather.write_micros_max);
            self.schedule(micros, id, Coming::Applied { life });
        }
        for event in orders.events {
            let micros = self.dice.below(self.weather.write_micros_max);
            self.schedule(micros, id, Coming::Event { life, event });
        }
        if let Some(fetch) = orders.fetch {
            self.fetch_snapshot(id, fetch.from);
        }
        self.checks.after_step(id, &self.machines, self.now);
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, message: Message) {
        if !self.machines.contains_key(&to)
            || self.cut.contains(&(from, to))
            || self.dice.chance(self.weather.loss_percent)
        {
            return;
        }
        let copies = if self.dice.chance(self.weather.repeat_percent) { 2 } else { 1 };
        for _ in 0..copies {
            // A few messages are delayed for very long, into later terms and lives.
            let rare = if self.weather.loss_percent > 0 && self.dice.chance(1) { 300_000 } else { 0 };
            let micros = 50 + self.dice.below(self.weather.message_micros_max) + self.dice.below(rare);
            self.schedule(micros, to, Coming::Deliver { from, message: message.clone() });
        }
    }

    fn fetch_snapshot(&mut self, to: NodeId, from: NodeId) {
        let reachable = !self.cut.contains(&(from, to)) && !self.cut.contains(&(to, from));
        let fails = self.dice.chance(self.weather.loss_percent);
        let source = &self.machines[&from];
        let position = (source.is_up() && reachable && !fails).then(|| self.checks.position(source.applied));
        let (micros, life, source_life) = (1000 + self.dice.below(20_000), self.machines[&to].life, source.life);
        let event = match position {
            Some(position) => {
                Event::SnapshotFetched { position, membership: self.checks.membership_at(position.index) }
            }
            None => Event::SnapshotFailed,
        };
        self.schedule(micros, to, Coming::Event { life, event });
        let sent = Event::SnapshotSent { peer: to, position };
        self.schedule(micros + 100, from, Coming::Event { life: source_life, event: sent });
    }

    /// Stops a node at once. Of the writes under way, the first few may have reached the disk.
    pub fn crash(&mut self, id: NodeId) {
        let machine = self.machines.get_mut(&id).unwrap();
        let survive = self.dice.below(machine.writes_under_way() + 1);
        machine.crash(survive);
        self.checks.crashed(id);
    }

    /// A node that is down loses its log, or its whole disk, and will notice. Not if what only it holds could be lost by that, or
    /// if the group could not do without its vote.
    pub fn lose_disk(&mut self, id: NodeId) {
        let others_are_whole = self.machines.iter().all(|(other, it)| *other == id || it.disk.repair.is_none());
        let members = self.checks.membership().clone();
        let is_settled = !members.is_joint() && members.repairs().iter().all(|repair| repair.node == id);
        let effective = self.machines.values().filter_map(|it| Some(it.node.as_ref()?.status().membership.clone()));
        let enough =
            |it: &Membership| it.voters().len() >= 3 && [0, 3, 4, 5, 6, 7].contains(&it.voters_outgoing().len());
        let in_logs = self.machines.values().flat_map(|it| machine::memberships_in(it.disk.entries.values()));
        // A change under way somewhere, also in a late message, could come to need this very node.
        let is_quiet = !self.changes || self.now.since(self.changed_at) > Duration::from_millis(700);
        let all_enough =
            effective.chain(in_logs.map(|(_, it)| it)).chain([members]).all(|it| it.is_empty() || enough(&it));
        if self.machines[&id].is_up() || !others_are_whole || !is_settled || !all_enough || !is_quiet {
            return;
        }
        let (everything, repair) = (self.dice.chance(50), RepairId(self.dice.next()));
        let start = self.checks.position(self.machines[&id].disk.flushed);
        self.machines.get_mut(&id).unwrap().disk.lose(everything, start, repair);
        self.machines.get_mut(&id).unwrap().applied = if everything { LogIndex::ZERO } else { start.index };
    }

    /// Asks for a random change of the membership.
    pub fn change_membership(&mut self, id: NodeId) {
        // Who takes voters away while another cannot vote may be left without a quorum: operators are warned, schedules abstain.
        let is_whole = self.machines.values().all(|machine| machine.disk.repair.is_none());
        if !is_whole || !self.checks.membership().repairs().is_empty() {
            return;
        }
        self.changed_at = self.now;
        let mut roles = Vec::new();
        for node in self.ids() {
            if self.dice.chance(30) {
                let role = [MemberRole::Voter, MemberRole::Voter, MemberRole::Learner, MemberRole::Removed];
                roles.push((node, role[usize::try_from(self.dice.below(4)).unwrap()]));
            }
        }
        self.step(id, Event::ChangeMembership { change: MembershipChange { roles, context: None } });
    }

    /// Starts a node from what its disk holds.
    pub fn restart(&mut self, id: NodeId) {
        let seed = self.dice.next();
        let now = self.now;
        self.machines.get_mut(&id).unwrap().start(now, seed);
        self.checks.restarted(id, &self.machines[&id]);
    }

    /// Proposes a payload that was never proposed before.
    pub fn propose(&mut self, id: NodeId) -> Option<Result<LogPosition, ProposeError>> {
        if !self.machines[&id].is_up() {
            return None;
        }
        self.next_payload += 1;
        let mut payload = self.next_payload.to_string();
        for _ in 0..self.dice.below(60) {
            payload.push('.');
        }
        self.step(id, Event::Propose { payload: payload.into() });
        self.machines[&id].last_proposal
    }

    /// Asks a node for a read index.
    pub fn read(&mut self, id: NodeId) -> u64 {
        self.next_token += 1;
        if self.machines[&id].is_up() {
            self.checks.read_begins(id, self.next_token);
            let token = self.next_token;
            let lease_will_do = self.dice.chance(50);
            self.step(id, if lease_will_do { Event::LeaseRead { token } } else { Event::Read { token } });
        }
        self.next_token
    }

    /// The log of a node on disk drops what is applied and flushed.
    pub fn compact(&mut self, id: NodeId) {
        let machine = self.machines.get_mut(&id).unwrap();
        if let Some(event) = machine.compact(&self.checks) {
            self.step(id, event);
        }
    }

    /// The leader with the highest term among the nodes that are up.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.machines.iter().filter_map(|(id, machine)| {
            let status = machine.node.as_ref()?.status();
            (status.role == Role::Leader).then_some((status.term, *id))
        });
        leaders.max().map(|(_, id)| id)
    }

    /// Ends every fault.
    pub fn heal(&mut self) {
        self.weather = Weather::FAIR;
        self.cut.clear();
        for id in self.ids() {
            let machine = self.machines.get_mut(&id).unwrap();
            machine.paused_until = None;
            machine.disk_stall_micros = 0;
            if !machine.is_up() {
                self.restart(id);
            }
        }
    }

    /// Stops nodes for good, as many at random as the others can do without: they are a quorum of every membership that is committed, and of those
    /// that are in effect on one of them. Says how many. All must be up.
    pub fn lose_a_minority(&mut self) -> usize {
        let mut live = self.ids();
        let mut candidates = live.clone();
        while !candidates.is_empty() {
            let drawn = usize::try_from(self.dice.below(candidates.len() as u64)).unwrap();
            let without = candidates.swap_remove(drawn);
            let rest: Vec<NodeId> = live.iter().copied().filter(|id| *id != without).collect();
            let statuses = self.machines.values().filter_map(|it| Some(it.node.as_ref()?.status()));
            let mut memberships = statuses.flat_map(|status| {
                let in_effect = rest.contains(&status.id).then_some(status.membership);
                [Some(status.membership_committed), in_effect].into_iter().flatten()
            });
            if memberships.all(|it| it.is_empty() || it.has_quorum(|voter| rest.contains(&voter))) {
                live = rest;
            }
        }
        let dead: Vec<NodeId> = self.ids().into_iter().filter(|id| !live.contains(id)).collect();
        for id in &dead {
            self.crash(*id);
        }
        dead.len()
    }

    /// Runs until some node leads.
    pub fn elect(&mut self) -> NodeId {
        assert!(self.run_until(Duration::from_secs(5), |cluster| cluster.leader().is_some()), "nobody was elected");
        self.leader().unwrap()
    }

    /// Runs until every member has applied everything that is committed anywhere, a fresh proposal included.
    pub fn settle(&mut self) {
        self.commit_another(|cluster, index| {
            cluster.checks.membership().members().all(|id| cluster.machines[&id].applied >= index)
        });
    }

    /// Runs until a fresh proposal is committed, and `and` holds of its index.
    pub fn commit_another(&mut self, and: impl Fn(&Cluster, LogIndex) -> bool) {
        let mut proposed = None;
        for _ in 0..100 {
            if let Some(leader) = self.leader()
                && let Some(Ok(position)) = self.propose(leader)
            {
                proposed = Some(position);
                let done = |cluster: &Cluster| {
                    and(cluster, position.index) && cluster.checks.committed_at(position.index) == Some(position.term)
                };
                if self.run_until(Duration::from_millis(1500), done) {
                    return;
                }
            }
            self.run(Duration::from_millis(100));
        }
        let states: Vec<String> =
            self.machines.values().map(|it| format!("{:?}", it.node.as_ref().map(|node| node.status()))).collect();
        panic!("no progress after everything was healed; last proposal {proposed:?}\n{}", states.join("\n"));
    }
}
