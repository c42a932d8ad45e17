//! Breadth first through all states: each machine state is kept once, each step of a machine is done once.

use super::machine::{Input, Machine};
use super::world::{Bounds, History, Seen, World, check, inputs};
use raftkv_raft::{Membership, Message, NodeId};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What was covered.
#[derive(Debug)]
pub(crate) struct Explored {
    pub(crate) states: u64,
    pub(crate) transitions: u64,
    /// The longest of the shortest ways to a state.
    pub(crate) depth: u32,
    /// Different states of one node with its disk.
    pub(crate) machines: usize,
    pub(crate) seen: Seen,
}

impl Explored {
    /// Panics unless all of these came about.
    pub(crate) fn requires(&self, what: &[&str]) {
        for what in what {
            assert!(self.seen.contains_key(what), "it never came about: {what}; {self:?}");
        }
    }
}

/// How a rule is broken: the shortest way.
#[derive(Debug)]
pub(crate) struct Counterexample {
    pub(crate) rule: String,
    pub(crate) steps: Vec<String>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.rule)?;
        self.steps.iter().enumerate().try_for_each(|(number, step)| writeln!(f, "{:>4}  {step}", number + 1))
    }
}

/// Machine states and messages by number, and what each step makes of a machine.
#[derive(Default)]
struct Tables {
    machines: Vec<Machine>,
    by_print: HashMap<u128, u32>,
    messages: Vec<Message>,
    by_message: HashMap<Message, u32>,
    inputs: Vec<Input>,
    by_input: HashMap<Input, u32>,
    /// The input that is a message (second) of a sender (first).
    deliveries: HashMap<(u8, u32), u32>,
    /// By machine and input: the machine's state afterwards, and what it sends: (to, message).
    steps: HashMap<(u32, u32), Step>,
}

/// What a step makes of a machine, and what it sends: (to, message).
type Step = (u32, Vec<(u8, u32)>);

impl Tables {
    fn machine(&mut self, machine: Machine) -> u32 {
        let print = fingerprint(&machine.print());
        *self.by_print.entry(print).or_insert_with(|| {
            self.machines.push(machine);
            u32::try_from(self.machines.len() - 1).unwrap()
        })
    }

    fn message(&mut self, message: Message) -> u32 {
        *self.by_message.entry(message.clone()).or_insert_with(|| {
            self.messages.push(message);
            u32::try_from(self.messages.len() - 1).unwrap()
        })
    }

    fn input(&mut self, input: Input) -> u32 {
        *self.by_input.entry(input.clone()).or_insert_with(|| {
            self.inputs.push(input);
            u32::try_from(self.inputs.len() - 1).unwrap()
        })
    }

    fn delivery(&mut self, from: u8, message: u32) -> u32 {
        if let Some(known) = self.deliveries.get(&(from, message)) {
            return *known;
        }
        let input = Input::Receive(NodeId(u64::from(from)), self.messages[message as usize].clone());
        let input = self.input(input);
        self.deliveries.insert((from, message), input);
        input
    }

    fn step(&mut self, machine: u32, input: u32, founders: &Membership, bounds: &Bounds) -> Step {
        let key = (machine, input);
        if let Some(known) = self.steps.get(&key) {
            return known.clone();
        }
        let before = &self.machines[machine as usize];
        let (next, sent) = before.after(&self.inputs[input as usize], founders, bounds.disk.behaviour());
        let sent: Vec<(u8, u32)> =
            sent.into_iter().map(|(to, message)| (u8::try_from(to.0).unwrap(), self.message(message))).collect();
        let next = self.machine(next);
        self.steps.insert(key, (next, sent.clone()));
        (next, sent)
    }
}

fn fingerprint(value: &impl Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// Goes through every state within the bounds.
pub(crate) fn explore(bounds: Bounds) -> Result<Explored, Counterexample> {
    let founders = Membership::new((1..=bounds.voters).map(NodeId));
    let mut tables = Tables::default();
    let machines = [1, 2, 3].map(|id| {
        let membership = if id <= bounds.voters { founders.clone() } else { Membership::default() };
        tables.machine(Machine::new(NodeId(id), membership))
    });
    let start = World {
        machines,
        mail: Vec::new(),
        timeouts: bounds.timeouts,
        heartbeats: bounds.heartbeats,
        proposals: bounds.proposals,
        crashes: bounds.crashes,
        duplicates: bounds.duplicates,
        changed: false,
        history: History::default(),
    };
    let mut explorer = Explorer {
        bounds,
        founders,
        tables,
        ways: HashMap::from([(fingerprint(&start), (0, 0, 0))]),
        frontier: VecDeque::from([(start, 0)]),
        explored: Explored { states: 1, transitions: 0, depth: 0, machines: 0, seen: Seen::new() },
    };
    while let Some((world, depth)) = explorer.frontier.pop_front() {
        explorer.go_on(&world, depth)?;
        if std::env::var_os("MODEL_PROGRESS").is_some() && explorer.explored.transitions % 1_000_000 < 10 {
            println!("  {} states, {} wait, depth {depth}", explorer.explored.states, explorer.frontier.len());
        }
    }
    explorer.explored.machines = explorer.tables.machines.len();
    Ok(explorer.explored)
}

struct Explorer {
    bounds: Bounds,
    founders: Membership,
    tables: Tables,
    /// How each state was reached first: from which, and by what input of which node.
    ways: HashMap<u128, (u128, u8, u32)>,
    frontier: VecDeque<(World, u32)>,
    explored: Explored,
}

impl Explorer {
    fn go_on(&mut self, world: &World, depth: u32) -> Result<(), Counterexample> {
        let from = fingerprint(world);
        for (place, (sender, receiver, message)) in world.mail.iter().copied().enumerate() {
            let input = self.tables.delivery(sender, message);
            let mut next = world.clone();
            next.mail.remove(place);
            self.happen(from, next, receiver, input, depth)?;
            if world.duplicates > 0 {
                let next = World { duplicates: world.duplicates - 1, ..world.clone() };
                self.happen(from, next, receiver, input, depth)?;
            }
        }
        for id in 1..=3 {
            let machine = &self.tables.machines[world.machines[id - 1] as usize];
            for input in inputs(world, machine, &self.bounds) {
                let mut next = world.clone();
                match &input {
                    Input::Timeout => next.timeouts -= 1,
                    Input::Heartbeat => next.heartbeats -= 1,
                    Input::Propose => next.proposals -= 1,
                    Input::Change(_) => next.changed = true,
                    Input::Crash(_) => next.crashes -= 1,
                    Input::Receive(..) | Input::Written => {}
                }
                let input = self.tables.input(input);
                self.happen(from, next, u8::try_from(id).unwrap(), input, depth)?;
            }
        }
        Ok(())
    }

    fn happen(&mut self, from: u128, mut next: World, id: u8, input: u32, depth: u32) -> Result<(), Counterexample> {
        self.explored.transitions += 1;
        let place = usize::from(id - 1);
        let before = next.machines[place];
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.tables.step(before, input, &self.founders, &self.bounds)
        }));
        let Ok((after, sent)) = stepped else {
            return Err(self.counterexample("an assertion of the core failed".to_owned(), from, id, input));
        };
        next.machines[place] = after;
        for (to, message) in &sent {
            next.send((id, *to, *message), self.bounds.link);
        }
        let seen = &mut self.explored.seen;
        let (was, machine) = (&self.tables.machines[before as usize], &self.tables.machines[after as usize]);
        if let Input::Crash(_) = self.tables.inputs[input as usize] {
            if was.node.status().vote.is_some() {
                *seen.entry("crashed after a vote").or_default() += 1;
            }
            if !was.storage.pending.is_empty() {
                *seen.entry("crashed with a write under way").or_default() += 1;
            }
        }
        let sent: Vec<(NodeId, Message)> = sent
            .iter()
            .map(|(to, message)| (NodeId(u64::from(*to)), self.tables.messages[*message as usize].clone()))
            .collect();
        let taken = next.history.take_in(was, machine, &sent, seen);
        let machines = next.machines.map(|machine| &self.tables.machines[machine as usize]);
        if let Err(rule) = taken.and_then(|()| check(machines, &next.history, seen)) {
            return Err(self.counterexample(rule, from, id, input));
        }
        let to = fingerprint(&next);
        if let Entry::Vacant(way) = self.ways.entry(to) {
            way.insert((from, id, input));
            self.explored.states += 1;
            self.explored.depth = self.explored.depth.max(depth + 1);
            self.frontier.push_back((next, depth + 1));
        }
        Ok(())
    }

    fn counterexample(&self, rule: String, from: u128, id: u8, input: u32) -> Counterexample {
        let told = |id: u8, input: u32| format!("node {id}: {}", describe(&self.tables.inputs[input as usize]));
        let mut steps = vec![told(id, input)];
        let mut at = from;
        while let Some((before, id, input)) = self.ways.get(&at).filter(|(_, id, _)| *id != 0) {
            steps.push(told(*id, *input));
            at = *before;
        }
        steps.reverse();
        Counterexample { rule, steps }
    }
}

fn describe(input: &Input) -> String {
    match input {
        Input::Receive(from, message) => format!("receives from {from}: {message:?}"),
        Input::Timeout => "its election timeout passes".to_owned(),
        Input::Heartbeat => "a heartbeat interval passes".to_owned(),
        Input::Propose => "is asked to propose".to_owned(),
        Input::Change(change) => format!("is asked to change the membership: {change:?}"),
        Input::Written => "a write is done".to_owned(),
        Input::Crash(kept) => format!("crashes; {kept} of the writes under way are on the disk; starts again"),
    }
}
