//! A cluster's life from beginning to end: the loop over what is due, and the phases of a run.
//!
//! ```text
//!   turns.rs      a driver's turn, and carrying out what it asks for
//!   work.rs       log, state machine, snapshots: jobs that take simulated time
//!   lives.rs      starts, crashes, pauses
//!   serving.rs    clients, and nodes answering them
//!   space.rs      how large the state is, and giving room back
//!   watching.rs   watchers, and nodes telling them what was applied
//!   injection.rs  faults
//!   damage.rs     disks that lose what they were given
//!   operator.rs   members that come and go
//!   upgrade.rs    programs that know one format less
//! ```
//!
//! A run has three phases. While *faulty*, faults come and go as the plan says, until the clients have done what they were to do (a plan that
//! hardly lets them ends early, and they do the rest in *calm*).
//! Then a majority is *healed*, the others stay as broken as they are, and a write must be acknowledged within a bound. At last everything
//! is healed, the clients *finish*, and all nodes must come to the same state.

use crate::checks::Checks;
use crate::clients::{Client, Reply};
use crate::counters::Counters;
use crate::engine::SimEngine;
use crate::faults::FaultKind;
use crate::network::Network;
use crate::node::{Node, index_of};
use crate::random::Random;
use crate::schedule::{Schedule, Time};
use crate::settings::Settings;
use crate::trace::{Sink, Trace};
use crate::watching::{AtWatcher, Part, Watcher};
use crate::workload::Ask;
use bytes::Bytes;
use client::policy::Failure;
use raft::{FetchSnapshot, Load, Message};
use raftkv::driver::{Input, ReadWaiter};
use raftkv::watch::WatcherId;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::state::ChangePosition;
use transport::proto::client as wire;

/// After this time faults end, even if clients have not done what they were to do: some plans hardly let them.
const FAULTY_BOUND: Duration = Duration::from_secs(600);
/// A healed majority must acknowledge a write within this time.
const PROGRESS_BOUND: Duration = Duration::from_secs(30);
/// A healed cluster must come to one state within this time.
const AGREEMENT_BOUND: Duration = Duration::from_secs(60);
/// How often the phase is looked at.
const PHASE_INTERVAL: Duration = Duration::from_millis(50);
/// A run that has not ended by then never ends.
const RUN_BOUND: Duration = Duration::from_secs(1200);

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Operations that clients did.
    pub operations: u64,
    /// Things that happened.
    pub happenings: u64,
    /// What happened how often.
    pub counters: Counters,
    /// The hash of the trace.
    pub trace_hash: u64,
}

/// One thing that is due.
pub(crate) enum Happening {
    /// Something at a node.
    Node { node: usize, what: AtNode },
    /// Something in one life of a node; void in later ones.
    Process { node: usize, life: u64, what: InProcess },
    /// Something at a client.
    Client { client: usize, what: AtClient },
    /// Something at a watcher.
    Watcher { watcher: usize, what: AtWatcher },
    /// A fault of this kind.
    Fault(FaultKind),
    /// A fault ends.
    Mend(Mend),
    /// Time to see whether a phase is over.
    Phase,
}

/// What may happen to a node in any life.
pub(crate) enum AtNode {
    Start,
    Resume,
    /// A peer's message arrives. `from_life` and `to_life` are those at the time of sending.
    Deliver {
        from: usize,
        from_life: u64,
        to_life: u64,
        parcel: Parcel,
        late: bool,
    },
    /// A client's request arrives.
    Ask {
        client: usize,
        attempt: u64,
        ask: Ask,
    },
    /// A watcher wants to be told.
    Watch {
        watcher: usize,
        stream: u64,
        request: wire::WatchRequest,
    },
    /// A watcher is gone.
    Unwatch {
        watcher: usize,
        stream: u64,
    },
    /// A peer wants a snapshot.
    OpenSnapshot {
        peer: usize,
        peer_life: u64,
        fetch: FetchSnapshot,
        number: u64,
    },
}

/// What may happen to a process.
pub(crate) enum InProcess {
    Turn {
        number: u64,
    },
    LogDone,
    StateDone,
    Loaded(Load),
    Serve(Vec<ReadWaiter>),
    Flush,
    Repaired,
    Space,
    GatherWatched,
    PublishWatched(Part),
    WatchStep(WatcherId),
    WatchRead(WatcherId, ChangePosition, u64),
    WatchProgress(WatcherId),
    Input(Input),
    /// A snapshot has come, whole.
    FetchTimedOut {
        number: u64,
    },
    SnapshotArrived {
        fetch: u64,
        from: usize,
        from_life: u64,
        engine: SimEngine,
    },
}

/// What may happen to a client.
pub(crate) enum AtClient {
    /// It may begin its next operation.
    Begin,
    /// It goes on after a pause.
    GoOn,
    /// An attempt ended in a failure.
    Failed { attempt: u64, failure: Failure },
    /// An attempt is answered.
    Answered { attempt: u64, node: usize, reply: Reply },
}

/// What ends when a fault ends.
pub(crate) enum Mend {
    Links(Vec<(usize, usize)>),
    ClientLinks(Vec<(usize, usize)>),
    Slow(usize),
    Full(usize),
    /// A process ends, so that its next start looks at its disk.
    Restart(usize),
}

/// A message as it travels.
pub(crate) enum Parcel {
    Value(Box<Message>),
    Encoded(Bytes),
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Faulty,
    /// Faults have ended, and clients do the rest of what they were to do.
    Calm,
    /// A majority is healed since then.
    Progress(Time),
    /// Everything is healed since then, and clients finish what they have begun.
    Agreement(Time),
    Over,
}

/// See the module.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) random: Random,
    pub(crate) schedule: Schedule<Happening>,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) watchers: Vec<Watcher>,
    /// The operation that a client has under way, as the checks know it.
    pub(crate) operations: BTreeMap<usize, u64>,
    /// Operations that were answered.
    pub(crate) operations_done: u64,
    /// A write that was invoked at that moment was acknowledged, the latest such moment.
    pub(crate) acknowledged_since: Option<Time>,
    /// A write was refused for want of room, and none that adds data was answered since.
    pub(crate) room_wanted: bool,
    pub(crate) phase: Phase,
    pub(crate) checks: Checks,
    pub(crate) counters: Counters,
    pub(crate) trace: Trace,
    /// To which life of a node a client is connected.
    pub(crate) connections: BTreeMap<(usize, usize), u64>,
}

/// Runs one seed.
///
/// # Panics
/// When anything is wrong: see `checks`.
#[must_use]
pub fn run(seed: u64, sink: Option<Sink>) -> Report {
    let mut world = World::new(seed, sink);
    world.begin();
    let mut happenings = 0;
    while world.phase != Phase::Over {
        let due = world.schedule.go_on().expect("something is always due");
        happenings += 1;
        world.happen(due);
        let now = world.schedule.now();
        assert!(now < Time::START + RUN_BOUND, "the run does not end: {:?} at {now}", world.phase);
    }
    for node in &world.nodes {
        node.disks.log.statistics().count(&mut world.counters);
        node.disks.data.statistics().count(&mut world.counters);
    }
    world.checks.count(&mut world.counters);
    Report {
        seed,
        simulated: world.schedule.now().since(Time::START),
        operations: world.checks.finish() as u64,
        happenings,
        trace_hash: world.trace.hash(),
        counters: world.counters,
    }
}

impl World {
    fn new(seed: u64, sink: Option<Sink>) -> World {
        let mut random = Random::new(seed);
        let settings = Settings::draw(&mut random);
        let network = Network::new(settings.network.clone(), random.fork(), settings.nodes(), settings.clients);
        let nodes = (0..settings.nodes()).map(|index| Node::new(index, settings.founders, &mut random)).collect();
        let origin = std::time::Instant::now();
        let clients = (0..settings.clients)
            .map(|number| Client::new(number, settings.founders, settings.keys, random.fork(), origin))
            .collect();
        let watchers = (0..settings.watchers).map(|_| Watcher::new(&settings, &mut random)).collect();
        World {
            watchers,
            random,
            schedule: Schedule::new(),
            network,
            nodes,
            clients,
            operations: BTreeMap::new(),
            operations_done: 0,
            acknowledged_since: None,
            room_wanted: false,
            phase: Phase::Faulty,
            checks: Checks::new(&settings),
            settings,
            counters: Counters::default(),
            trace: Trace::new(sink),
            connections: BTreeMap::new(),
        }
    }

    fn begin(&mut self) {
        let now = self.schedule.now();
        let settings = format!("{:?}", self.settings);
        self.trace.line(now, format_args!("{settings}"));
        self.begin_with_the_older_program();
        for node in 0..self.nodes.len() {
            if self.settings.faults.is_on(FaultKind::ClockDrift) {
                self.counters.count("clock: drift");
                self.nodes[node].drift = i64::try_from(self.random.below(100_001)).expect("small") - 50_000;
            }
            self.schedule.after(
                self.random.duration(Duration::ZERO, Duration::from_millis(50)),
                Happening::Node { node, what: AtNode::Start },
            );
        }
        for client in 0..self.clients.len() {
            let delay = self.random.duration(Duration::ZERO, Duration::from_secs(1));
            self.schedule.after(delay, Happening::Client { client, what: AtClient::Begin });
        }
        self.begin_watches();
        for kind in self.settings.faults.kinds().to_vec() {
            self.counters.count(kind.counted_as());
            self.schedule_fault(kind);
        }
        self.schedule.after(PHASE_INTERVAL, Happening::Phase);
    }

    fn happen(&mut self, due: Happening) {
        match due {
            Happening::Node { node, what } => self.at_node(node, what),
            Happening::Process { node, life, what } => self.in_process(node, life, what),
            Happening::Client { client, what } => self.at_client(client, what),
            Happening::Watcher { watcher, what } => self.at_watcher(watcher, what),
            Happening::Fault(kind) => self.inject(kind),
            Happening::Mend(mend) => self.mend(mend),
            Happening::Phase => self.look_at_phase(),
        }
    }

    /// Notes a line of the trace.
    pub(crate) fn say(&mut self, line: std::fmt::Arguments<'_>) {
        let now = self.schedule.now();
        self.trace.line(now, line);
    }

    fn look_at_phase(&mut self) {
        let now = self.schedule.now();
        match self.phase {
            Phase::Faulty | Phase::Calm => {
                let enough = self.operations_done >= self.settings.operations;
                if enough && now >= Time::START + self.settings.duration && !self.is_change_on_its_way() {
                    self.heal_majority();
                    self.phase = Phase::Progress(now);
                } else if self.phase == Phase::Faulty && now >= Time::START + FAULTY_BOUND {
                    self.counters.count("client: too many faults to get done");
                    self.end_faults();
                    self.tell_clients();
                    self.phase = Phase::Calm;
                }
            }
            Phase::Progress(since) => {
                if self.acknowledged_since.is_some_and(|invoked| invoked >= since) {
                    self.heal_all();
                    self.phase = Phase::Agreement(now);
                } else {
                    let waited = now.since(since);
                    assert!(
                        waited <= PROGRESS_BOUND,
                        "no progress: a majority is healed since {since}, and no write invoked since then was acknowledged by {now}\n{}",
                        self.describe()
                    );
                }
            }
            Phase::Agreement(since) => {
                if self.agrees() && self.watchers_have_all() {
                    self.say(format_args!("all nodes agree"));
                    self.phase = Phase::Over;
                } else {
                    assert!(
                        now.since(since) <= AGREEMENT_BOUND,
                        "no agreement: everything is healed since {since}, and at {now} the nodes are not at one state\n{}",
                        self.describe()
                    );
                }
            }
            Phase::Over => {}
        }
        self.schedule.after(PHASE_INTERVAL, Happening::Phase);
    }

    /// Whether clients have finished, all members hold the same, and nobody is left under repair or between two memberships.
    fn agrees(&self) -> bool {
        let membership = self.checks.membership();
        let mut states = membership.members().map(|id| {
            let node = &self.nodes[index_of(id)];
            let process = node.process.as_ref()?;
            let status = process.driver.core().status();
            let applied = process.machine.applied();
            let settled = status.log_last == applied.index && status.commit == applied.index && status.repair.is_none();
            settled.then(|| (applied, process.machine.state_hash()))
        });
        let first = states.next().flatten();
        let in_between = membership.is_joint() || !membership.repairs().is_empty();
        self.operations.is_empty() && !in_between && first.is_some() && states.all(|state| state == first)
    }

    /// Everybody's state, for messages.
    fn describe(&self) -> String {
        let mut lines = Vec::new();
        for node in &self.nodes {
            let Some(process) = &node.process else {
                lines.push(format!(
                    "  node {}: {:?}, down, life {}, {:?}",
                    node.id, node.presence, node.life, node.damage
                ));
                continue;
            };
            let status = process.driver.core().status();
            lines.push(format!(
                "  node {}: {:?}, life {}, {:?} in term {}, leader {:?}, vote {:?}, log {}..={}, durable {}, commit {}, applied {}, hash {:02x?}, paused until {:?}, log jobs {}, state jobs {}, installing {}, membership {:?}, repair {:?}, next turn {:?}, its deadline {:?} by its clock {:?}, leaving {:?}, peers {:?}",
                node.id,
                node.damage,
                node.life,
                status.role,
                status.term,
                status.leader.map(|leader| leader.0),
                status.vote.map(|vote| vote.0),
                status.log_first,
                status.log_last,
                status.durable,
                status.commit,
                process.machine.applied(),
                &process.machine.state_hash()[..4],
                node.paused_until,
                process.log_jobs.len() + usize::from(process.log_work.is_some()),
                process.state_jobs.len() + usize::from(process.state_busy),
                status.installing_snapshot,
                status.membership,
                status.repair,
                process.turn,
                process.driver.next_deadline(),
                node.clock,
                process.leaving,
                process.view.peers,
            ));
        }
        lines.push(format!("  watchers: {}", self.describe_watchers()));
        lines.push(format!("  operations under way: {:?}", self.operations));
        lines.join("\n")
    }
}
