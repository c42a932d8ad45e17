//! Whom a node has links with at this moment, and who may come in.
//!
//! Links follow the membership while the node runs ([`Roster::set_peers`]): a member that comes gets a link, one that goes loses it,
//! one that moves is dialled at its new address.
//!
//! **Who is let in** is more than the members. A voter that was away for a while may be asked for its vote, or sent entries, by a member that
//! came meanwhile, and a node that joins is first spoken to by a leader that it has never heard of. Both must answer, or the group
//! may be left without a leader (thesis §4.2.2). So a node with a number higher than any this node has heard of is let in on its certificate
//! alone: the cluster's authority vouches for it, and what its messages are worth is for the core to say. Numbers are never given
//! out twice, so one that is not higher and no member's belongs to a node that was removed: it is refused.
//!
//! **Answering** such a *visitor* needs a link to it. It says in its Hello where it is dialled, and for as long as its connection
//! stands, it has a link like a member's.
//!
//! A link that is no longer wanted, and a connection that is no longer allowed, stay for [`LINGER`]: the last words to and from a node
//! that is being removed are those that tell it so, and those with which it hands leadership over.

use crate::error::{Refusal, RefusalCode};
use crate::peer::Shared;
use crate::peer_outgoing::{self, Outgoing};
use quinn::Endpoint;
use raft::NodeId;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tracing::info;

/// How long what is no longer wanted stays.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// Nodes beyond the members that are connected at a time.
const VISITORS_MAX: usize = 16;

/// The members as one node knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSet {
    /// The members, each with its `host:port`. Names are resolved at every dial. The node's own entry is ignored.
    pub members: BTreeMap<NodeId, String>,
    /// The highest number ever given to a member, as far as the node knows. Who has a higher one may be a member that the node has not
    /// heard of yet; who has not and is no member was removed.
    pub id_max: NodeId,
}

impl PeerSet {
    /// These members, whose numbers are the only ones ever given out.
    pub fn new(members: impl IntoIterator<Item = (NodeId, String)>) -> PeerSet {
        let members: BTreeMap<NodeId, String> = members.into_iter().collect();
        let id_max = members.keys().next_back().copied().unwrap_or(NodeId(0));
        PeerSet { members, id_max }
    }

    /// Whether `id` may connect.
    #[must_use]
    pub fn admits(&self, id: NodeId) -> bool {
        self.members.contains_key(&id) || id > self.id_max
    }
}

/// A node that is connected to us.
struct Visit {
    connections: usize,
    /// Where it is dialled, by its own word.
    address: String,
}

struct State {
    peers: PeerSet,
    /// By whom we are connected to, members too: one that is taken back out of the membership goes on as a visitor.
    visits: BTreeMap<NodeId, Visit>,
    links: BTreeMap<NodeId, Arc<Outgoing>>,
    /// Room for messages, per peer however many connections it has.
    rooms: BTreeMap<NodeId, Arc<Semaphore>>,
    closed: bool,
}

/// See the module.
pub(crate) struct Roster {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    dial: quinn::ClientConfig,
    runtime: Handle,
    state: RwLock<State>,
    changes: watch::Sender<()>,
}

impl Roster {
    /// A roster without anybody. Links run on the runtime that this is called in.
    pub(crate) fn new(shared: Arc<Shared>, endpoint: Endpoint, dial: quinn::ClientConfig) -> Roster {
        let state = State {
            peers: PeerSet::new([]),
            visits: BTreeMap::new(),
            links: BTreeMap::new(),
            rooms: BTreeMap::new(),
            closed: false,
        };
        let (changes, _) = watch::channel(());
        Roster { shared, endpoint, dial, runtime: Handle::current(), state: RwLock::new(state), changes }
    }

    /// From here on these are the members.
    pub(crate) fn set_peers(&self, peers: PeerSet) {
        {
            let mut state = self.write();
            if state.peers == peers {
                return;
            }
            state.peers = peers;
            state.rooms.retain(|_, room| Arc::strong_count(room) > 1);
            self.follow(&mut state);
        }
        self.changes.send_replace(());
    }

    /// The link to `peer`.
    pub(crate) fn link(&self, peer: NodeId) -> Option<Arc<Outgoing>> {
        self.read().links.get(&peer).cloned()
    }

    /// Why `peer` may not be connected, if so.
    pub(crate) fn objection(&self, peer: NodeId) -> Option<Refusal> {
        let own = self.shared.id;
        let reason = if peer == own {
            format!("node {peer} has the number of the node it dialled")
        } else if self.read().peers.admits(peer) {
            return None;
        } else {
            format!("node {peer} is not a member as node {own} knows them: it was removed, or never added")
        };
        Some(Refusal::new(RefusalCode::WrongNode, reason))
    }

    /// A connection of `peer` begins. Returns the room for its messages.
    pub(crate) fn enter(&self, peer: NodeId, address: &str) -> Result<Arc<Semaphore>, Refusal> {
        let mut state = self.write();
        let state = &mut *state;
        let is_member = |id: &NodeId| state.peers.members.contains_key(id);
        let others = state.visits.keys().filter(|id| !is_member(id) && **id != peer).count();
        if !is_member(&peer) && others >= VISITORS_MAX {
            let reason = format!("{others} nodes that are no members are connected already");
            return Err(Refusal::new(RefusalCode::WrongNode, reason));
        }
        let visit = state.visits.entry(peer).or_insert(Visit { connections: 0, address: String::new() });
        visit.connections += 1;
        // A connection for a snapshot says nothing.
        if !address.is_empty() {
            address.clone_into(&mut visit.address);
        }
        let room = state.rooms.entry(peer);
        let room = room.or_insert_with(|| Arc::new(Semaphore::new(self.shared.limits.inbound_bytes_max))).clone();
        self.follow(state);
        Ok(room)
    }

    /// A connection of `peer` is over.
    pub(crate) fn leave(&self, peer: NodeId) {
        let mut state = self.write();
        if let Some(visit) = state.visits.get_mut(&peer) {
            visit.connections -= 1;
            if visit.connections == 0 {
                state.visits.remove(&peer);
            }
        }
        self.follow(&mut state);
    }

    /// Returns once `peer` has not been allowed for [`LINGER`], and why it is not.
    pub(crate) async fn dismissed(&self, peer: NodeId) -> Refusal {
        let mut changes = self.changes.subscribe();
        loop {
            if self.objection(peer).is_some() {
                tokio::time::sleep(LINGER).await;
                if let Some(refusal) = self.objection(peer) {
                    return refusal;
                }
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops every link, for good.
    pub(crate) fn close(&self) {
        let mut state = self.write();
        state.closed = true;
        for link in std::mem::take(&mut state.links).into_values() {
            link.stop();
        }
    }

    /// Brings the links in line with members and visitors.
    fn follow(&self, state: &mut State) {
        if state.closed {
            return;
        }
        let own = self.shared.id;
        let State { peers, visits, links, .. } = state;
        let visitors = visits.iter().filter(|(id, visit)| peers.admits(**id) && !visit.address.is_empty());
        let mut wanted: BTreeMap<NodeId, &str> = visitors.map(|(id, visit)| (*id, visit.address.as_str())).collect();
        wanted.extend(peers.members.iter().map(|(id, address)| (*id, address.as_str())));
        wanted.remove(&own);
        links.retain(|id, link| {
            let stays = wanted.get(id).is_some_and(|address| *address == link.address());
            if !stays {
                info!(node = %own, peer = %id, address = link.address(), "the link to a peer is given up");
                let link = link.clone();
                self.runtime.spawn(async move {
                    tokio::time::sleep(LINGER).await;
                    link.stop();
                });
            }
            stays
        });
        for (id, address) in wanted {
            links.entry(id).or_insert_with(|| {
                let link = Arc::new(Outgoing::new(id, address.to_owned()));
                let (shared, endpoint, dial) = (self.shared.clone(), self.endpoint.clone(), self.dial.clone());
                self.runtime.spawn(peer_outgoing::run(link.clone(), shared, endpoint, dial));
                link
            });
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_newcomers_are_admitted_and_the_removed_are_not() {
        let peers = PeerSet { id_max: NodeId(5), ..PeerSet::new([1, 2, 4].map(|id| (NodeId(id), String::new()))) };
        let admitted: Vec<u64> = (1..=7).filter(|id| peers.admits(NodeId(*id))).collect();
        assert_eq!(admitted, [1, 2, 4, 6, 7]);
        assert!(PeerSet::new([]).admits(NodeId(1)), "who knows nobody turns nobody away");
    }
}
