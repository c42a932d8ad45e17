//! Three nodes, their messages, and disks on which everything is durable at once.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;
use raft::{Actions, Body, Config, Entry, EntryKind, Event, Instant, LogRange, Membership, Message, Node, NodeId};
use raft::{Restored, Role};

struct Machine {
    node: Node,
    applied: Vec<Entry>,
}

/// See the module.
pub struct Cluster {
    machines: Vec<Machine>,
    mail: VecDeque<(NodeId, NodeId, Message)>,
    now: Instant,
    actions: Box<Actions>,
    /// This node gets no messages.
    deaf: Option<NodeId>,
}

impl Cluster {
    pub fn new(deaf: Option<NodeId>) -> Cluster {
        let ids = [1, 2, 3].map(NodeId);
        let machine = |id: NodeId| Machine {
            node: Node::new(Config::new(id), Restored::new(Membership::new(ids)), Instant::ORIGIN, id.0),
            applied: Vec::new(),
        };
        let machines = ids.map(machine).into_iter().collect();
        Cluster { machines, mail: VecDeque::new(), now: Instant::ORIGIN, actions: Box::default(), deaf }
    }

    /// Lets time pass until somebody leads. Says who, and in which term.
    pub fn elect(&mut self) -> Option<(NodeId, u64)> {
        for _ in 0..1000 {
            self.pass(Duration::from_millis(10));
            for machine in &self.machines {
                let status = machine.node.status();
                if status.role == Role::Leader {
                    return Some((status.id, status.term.0));
                }
            }
        }
        None
    }

    /// Whether the leader took it.
    pub fn propose(&mut self, leader: NodeId, payload: &'static [u8]) -> bool {
        let taken = self.step(leader, Event::Propose { payload: Bytes::from_static(payload) });
        self.deliver();
        taken
    }

    pub fn pass_half_a_second(&mut self) {
        for _ in 0..50 {
            self.pass(Duration::from_millis(10));
        }
    }

    /// The commands that a node has applied.
    pub fn applied(&self, id: NodeId) -> Vec<&[u8]> {
        let entries = self.machine(id).applied.iter();
        entries.filter(|entry| entry.kind == EntryKind::Command).map(|entry| &entry.payload[..]).collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for id in [1, 2, 3].map(NodeId) {
            if self.machine(id).node.next_deadline().is_some_and(|deadline| deadline <= self.now) {
                self.step(id, Event::Wake);
            }
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.mail.pop_front() {
            if self.deaf != Some(to) {
                self.step(to, Event::Receive { from, message });
            }
        }
    }

    /// One step, and what the node asks for. Says whether a proposal was taken.
    fn step(&mut self, id: NodeId, event: Event) -> bool {
        let place = place(id);
        let mut taken = false;
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let machine = &mut self.machines[place];
            machine.node.step(self.now, event, &mut self.actions);
            taken |= matches!(self.actions.proposal.take(), Some(Ok(_)));
            for mut send in self.actions.send.drain(..) {
                if let Body::Append { entries, .. } = &mut send.message.body
                    && !send.entries.is_empty()
                {
                    *entries = copy(&machine.node, send.entries);
                }
                self.mail.push_back((id, send.to, send.message));
            }
            if let Some(range) = self.actions.apply.take() {
                machine.applied.extend(copy(&machine.node, range));
                next = Some(Event::Applied { index: range.last });
            }
            if let Some(persist) = self.actions.persist.take() {
                assert!(next.is_none(), "what is written in this step is not applied in it");
                let (mark, hard_state_sequence) = (persist.mark, persist.hard_state_sequence);
                next = Some(Event::Durable { mark, hard_state_sequence });
            }
        }
        taken
    }

    fn machine(&self, id: NodeId) -> &Machine {
        &self.machines[place(id)]
    }
}

fn copy(node: &Node, range: LogRange) -> Vec<Entry> {
    node.log().entries(range).expect("what the core names is in memory").cloned().collect()
}

fn place(id: NodeId) -> usize {
    usize::try_from(id.0 - 1).expect("three nodes")
}
