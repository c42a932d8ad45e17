//! The in-memory twin of the peer links: same trait, same callbacks, no sockets, no tasks, no clock.
//!
//! A [`MemoryHub`] keeps one queue of messages in the order in which they were sent. Nothing arrives by itself: the owner calls
//! [`MemoryHub::deliver_next`] and decides what each link does. The same calls in the same order always give the same deliveries, so a
//! test or a simulator that seeds its choices repeats itself exactly.
//!
//! Every node reaches every other until it is told who the members are ([`PeerTransport::set_peers`]); from then on it reaches the members,
//! and whoever reaches it and is let in, as with real links.
//!
//! Messages travel as values. What the wire would do to them is the business of the tests of `convert`.

use crate::peer::{Inbound, InboundHandler, InboundPermit, PeerTransport, SendError};
use crate::roster::PeerSet;
use raft::{Message, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a link does with messages, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// Delivers them.
    #[default]
    Up,
    /// Takes them and loses them: the sender notices nothing.
    Lossy,
    /// Is cut: sending fails with [`SendError::NotConnected`], and what was under way is lost.
    Down,
    /// Keeps them until it is up again.
    Held,
}

/// A message under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Who sent it.
    pub from: NodeId,
    /// Who gets it.
    pub to: NodeId,
    /// What it says.
    pub message: Message,
}

/// The network between nodes of one process.
#[derive(Clone)]
pub struct MemoryHub {
    state: Arc<Mutex<State>>,
}

struct State {
    handlers: BTreeMap<NodeId, InboundHandler>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    /// Whom those know that have been told.
    peers: BTreeMap<NodeId, PeerSet>,
    queue: VecDeque<Pending>,
    queue_max: usize,
}

impl MemoryHub {
    /// A network without nodes. Each link takes up to `queue_max` messages; more are refused with [`SendError::Full`].
    #[must_use]
    pub fn new(queue_max: usize) -> MemoryHub {
        let state = State {
            handlers: BTreeMap::new(),
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            queue: VecDeque::new(),
            queue_max,
        };
        MemoryHub { state: Arc::new(Mutex::new(state)) }
    }

    /// Adds a node, or gives one that was there a new life. Everybody learns that it is there, as with real links.
    pub fn join(&self, id: NodeId, handler: InboundHandler) -> MemoryTransport {
        let others: Vec<(NodeId, InboundHandler)> = {
            let mut state = self.lock();
            state.handlers.insert(id, handler.clone());
            state.peers.remove(&id);
            state.handlers.iter().filter(|(other, _)| **other != id).map(|(other, h)| (*other, h.clone())).collect()
        };
        for (other, other_handler) in others {
            other_handler(Inbound::Connected(id));
            handler(Inbound::Connected(other));
        }
        MemoryTransport { id, hub: self.clone() }
    }

    /// Removes a node. What was under way from or to it is lost.
    pub fn leave(&self, id: NodeId) {
        let others: Vec<InboundHandler> = {
            let mut state = self.lock();
            state.handlers.remove(&id);
            state.queue.retain(|pending| pending.from != id && pending.to != id);
            state.handlers.values().cloned().collect()
        };
        for handler in others {
            handler(Inbound::Disconnected(id));
        }
    }

    /// Sets what the link from one node to another does.
    pub fn set_link(&self, from: NodeId, to: NodeId, link: Link) {
        let told = {
            let mut state = self.lock();
            let before = state.links.insert((from, to), link).unwrap_or_default();
            if link == Link::Down {
                state.queue.retain(|pending| (pending.from, pending.to) != (from, to));
            }
            let event = match (before == Link::Down, link == Link::Down) {
                (false, true) => Some(Inbound::Disconnected(to)),
                (true, false) => Some(Inbound::Connected(to)),
                _ => None,
            };
            event.and_then(|event| state.handlers.get(&from).cloned().map(|handler| (handler, event)))
        };
        if let Some((handler, event)) = told {
            handler(event);
        }
    }

    /// Cuts the network into groups: links inside a group are up, links between groups are down. A node in no group is alone.
    pub fn partition(&self, groups: &[&[NodeId]]) {
        let nodes: BTreeSet<NodeId> = self.lock().handlers.keys().copied().collect();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                let together = groups.iter().any(|group| group.contains(from) && group.contains(to));
                self.set_link(*from, *to, if together { Link::Up } else { Link::Down });
            }
        }
    }

    /// Brings every link up.
    pub fn heal(&self) {
        let nodes: Vec<NodeId> = self.lock().handlers.keys().copied().collect();
        self.partition(&[&nodes]);
    }

    /// Messages under way, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        self.lock().queue.iter().cloned().collect()
    }

    /// Delivers the oldest message whose link is not held. Returns whether there was one.
    pub fn deliver_next(&self) -> bool {
        let (handler, pending) = {
            let mut state = self.lock();
            let deliverable = state.queue.iter().position(|pending| state.link(pending.from, pending.to) != Link::Held);
            let Some(pending) = deliverable.and_then(|position| state.queue.remove(position)) else { return false };
            let admitted = state.admits(pending.to, pending.from);
            (state.handlers.get(&pending.to).filter(|_| admitted).cloned(), pending)
        };
        if let Some(handler) = handler {
            let permit = InboundPermit::unmetered();
            handler(Inbound::Message { from: pending.from, message: pending.message, permit });
        }
        true
    }

    /// Delivers until nothing is under way or `deliveries_max` is reached, answers included. Returns how many it was.
    pub fn deliver_all(&self, deliveries_max: usize) -> usize {
        (0..deliveries_max).take_while(|_| self.deliver_next()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn link(&self, from: NodeId, to: NodeId) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Whether `id` takes what `from` sends.
    fn admits(&self, id: NodeId, from: NodeId) -> bool {
        self.peers.get(&id).is_none_or(|peers| peers.admits(from))
    }

    fn has_as_member(&self, id: NodeId, other: NodeId) -> bool {
        self.peers.get(&id).is_none_or(|peers| peers.members.contains_key(&other))
    }

    /// Whether `from` has a link to `to`: to members, and to whoever is connected to it.
    fn has_link(&self, from: NodeId, to: NodeId) -> bool {
        let visits = self.has_as_member(to, from) && self.admits(from, to);
        self.handlers.contains_key(&to) && (self.has_as_member(from, to) || visits)
    }
}

/// One node's end of a [`MemoryHub`].
#[derive(Clone)]
pub struct MemoryTransport {
    id: NodeId,
    hub: MemoryHub,
}

impl PeerTransport for MemoryTransport {
    fn send(&self, to: NodeId, message: Message) -> Result<(), SendError> {
        let mut state = self.hub.lock();
        if !state.has_link(self.id, to) {
            return Err(SendError::UnknownPeer { to });
        }
        match state.link(self.id, to) {
            Link::Down => return Err(SendError::NotConnected { to }),
            Link::Lossy => return Ok(()),
            Link::Up | Link::Held => {}
        }
        let under_way = state.queue.iter().filter(|pending| (pending.from, pending.to) == (self.id, to)).count();
        if under_way >= state.queue_max {
            return Err(SendError::Full { to });
        }
        state.queue.push_back(Pending { from: self.id, to, message });
        Ok(())
    }

    fn set_peers(&self, peers: PeerSet) {
        self.hub.lock().peers.insert(self.id, peers);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use raft::{Body, Term};

    type Log = Arc<Mutex<Vec<String>>>;

    fn hub_of(nodes: u64, queue_max: usize) -> (MemoryHub, Vec<MemoryTransport>, Log) {
        let hub = MemoryHub::new(queue_max);
        let log: Log = Arc::default();
        let transports = (1..=nodes)
            .map(|id| {
                let log = log.clone();
                hub.join(
                    NodeId(id),
                    Arc::new(move |inbound| {
                        let line = match inbound {
                            Inbound::Message { from, message, .. } => format!("{from}>{id} t{}", message.term),
                            Inbound::Connected(peer) => format!("{id} up {peer}"),
                            Inbound::Format { peer, format_max } => format!("{id} hears {peer} f{format_max}"),
                            Inbound::Disconnected(peer) => format!("{id} down {peer}"),
                        };
                        log.lock().unwrap().push(line);
                    }),
                )
            })
            .collect();
        (hub, transports, log)
    }

    fn message(term: u64) -> Message {
        Message { term: Term(term), body: Body::TimeoutNow }
    }

    fn taken(log: &Log) -> Vec<String> {
        std::mem::take(&mut *log.lock().unwrap())
    }

    #[test]
    fn messages_arrive_in_the_order_sent_and_only_when_told() {
        let (hub, nodes, log) = hub_of(2, 10);
        assert_eq!(taken(&log), ["1 up 2", "2 up 1"]);
        nodes[0].send(NodeId(2), message(1)).unwrap();
        nodes[1].send(NodeId(1), message(2)).unwrap();
        nodes[0].send(NodeId(2), message(3)).unwrap();
        assert!(taken(&log).is_empty());
        assert_eq!(hub.deliver_all(100), 3);
        assert_eq!(taken(&log), ["1>2 t1", "2>1 t2", "1>2 t3"]);
    }

    #[test]
    fn a_partition_cuts_both_ways_and_heals() {
        let (hub, nodes, log) = hub_of(3, 10);
        nodes[0].send(NodeId(2), message(1)).unwrap();
        taken(&log);
        hub.partition(&[&[NodeId(1)], &[NodeId(2), NodeId(3)]]);
        assert_eq!(taken(&log), ["1 down 2", "1 down 3", "2 down 1", "3 down 1"]);
        assert_eq!(nodes[0].send(NodeId(2), message(2)), Err(SendError::NotConnected { to: NodeId(2) }));
        nodes[1].send(NodeId(3), message(3)).unwrap();
        hub.heal();
        taken(&log);
        hub.deliver_all(100);
        assert_eq!(taken(&log), ["2>3 t3"]);
    }

    #[test]
    fn one_direction_can_be_held_or_lossy() {
        let (hub, nodes, log) = hub_of(2, 10);
        taken(&log);
        hub.set_link(NodeId(1), NodeId(2), Link::Held);
        hub.set_link(NodeId(2), NodeId(1), Link::Lossy);
        nodes[0].send(NodeId(2), message(1)).unwrap();
        nodes[1].send(NodeId(1), message(2)).unwrap();
        assert_eq!(hub.deliver_all(100), 0);
        hub.set_link(NodeId(1), NodeId(2), Link::Up);
        assert_eq!(hub.deliver_all(100), 1);
        assert_eq!(taken(&log), ["1>2 t1"]);
    }

    #[test]
    fn links_follow_the_members() {
        let peers = |ids: &[u64]| PeerSet::new(ids.iter().map(|id| (NodeId(*id), String::new())));
        let (hub, nodes, log) = hub_of(4, 10);
        for node in &nodes[..2] {
            node.set_peers(peers(&[1, 2]));
        }
        // Joins, and knows nobody.
        nodes[2].set_peers(peers(&[]));
        taken(&log);
        assert_eq!(nodes[0].send(NodeId(3), message(1)), Err(SendError::UnknownPeer { to: NodeId(3) }));
        assert_eq!(nodes[2].send(NodeId(1), message(1)), Err(SendError::UnknownPeer { to: NodeId(1) }));
        nodes[0].set_peers(peers(&[1, 2, 3]));
        nodes[0].send(NodeId(3), message(2)).unwrap();
        nodes[2].send(NodeId(1), message(3)).expect("who is reached can answer");
        // 2 has not heard of 3 yet.
        nodes[2].set_peers(peers(&[1, 2, 3]));
        nodes[2].send(NodeId(2), message(4)).unwrap();
        nodes[1].send(NodeId(3), message(5)).unwrap();
        hub.deliver_all(100);
        assert_eq!(taken(&log), ["1>3 t2", "3>1 t3", "3>2 t4", "2>3 t5"]);
        // 2 is removed: it speaks to nobody who knows.
        nodes[0].set_peers(peers(&[1, 3]));
        nodes[1].send(NodeId(1), message(6)).unwrap();
        nodes[1].send(NodeId(3), message(7)).unwrap();
        hub.deliver_all(100);
        assert_eq!(taken(&log), ["2>3 t7"]);
        assert_eq!(nodes[0].send(NodeId(2), message(8)), Err(SendError::UnknownPeer { to: NodeId(2) }));
    }

    #[test]
    fn a_link_takes_so_many_and_no_more() {
        let (hub, nodes, _) = hub_of(2, 2);
        nodes[0].send(NodeId(2), message(1)).unwrap();
        nodes[0].send(NodeId(2), message(1)).unwrap();
        assert_eq!(nodes[0].send(NodeId(2), message(1)), Err(SendError::Full { to: NodeId(2) }));
        hub.deliver_next();
        nodes[0].send(NodeId(2), message(1)).unwrap();
        hub.leave(NodeId(2));
        assert_eq!(nodes[0].send(NodeId(2), message(1)), Err(SendError::UnknownPeer { to: NodeId(2) }));
        assert!(hub.pending().is_empty());
    }
}
