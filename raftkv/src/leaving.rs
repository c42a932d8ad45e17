//! Whom to have links with: the members, and for a while those who were removed, so that they learn of it.
//!
//! The core tells a removed member of its removal for an election timeout; for that its link must last. Each removed member keeps its link
//! for the same time, whoever else is removed meanwhile.

use raft::NodeId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use transport::PeerSet;

/// How long a removed member is still linked to.
pub(crate) const LEAVE_LINKED: Duration = Duration::from_secs(5);

/// Links to members, and to those who were.
#[derive(Debug)]
pub(crate) struct LinkedMembers {
    members: PeerSet,
    /// Members that were removed, with their addresses, and until when they are linked to.
    leaving: BTreeMap<NodeId, (String, Instant)>,
}

impl LinkedMembers {
    /// These are the members, and nobody has left.
    pub(crate) fn new(members: PeerSet) -> LinkedMembers {
        LinkedMembers { members, leaving: BTreeMap::new() }
    }

    /// These are the members from here on. Says whether somebody has left: then [`LinkedMembers::links`] says less [`LEAVE_LINKED`] later.
    pub(crate) fn follow(&mut self, members: PeerSet, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.members, members).members;
        let gone: Vec<(NodeId, String)> =
            before.into_iter().filter(|(id, _)| !self.members.members.contains_key(id)).collect();
        let somebody_left = !gone.is_empty();
        self.leaving.extend(gone.into_iter().map(|(id, address)| (id, (address, now + LEAVE_LINKED))));
        somebody_left
    }

    /// Whom to have links with at this moment.
    pub(crate) fn links(&mut self, now: Instant) -> PeerSet {
        let members = &self.members.members;
        self.leaving.retain(|id, (_, until)| *until > now && !members.contains_key(id));
        let mut links = self.members.clone();
        links.members.extend(self.leaving.iter().map(|(id, (address, _))| (*id, address.clone())));
        links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u64]) -> PeerSet {
        PeerSet::new(ids.iter().map(|id| (NodeId(*id), format!("host{id}:1"))))
    }

    fn linked(links: &mut LinkedMembers, now: Instant) -> Vec<u64> {
        links.links(now).members.keys().map(|id| id.0).collect()
    }

    #[test]
    fn each_removed_member_keeps_its_link_for_the_same_time() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut links = LinkedMembers::new(members(&[1, 2, 3, 4]));
        assert!(links.follow(members(&[1, 2, 3]), begun));
        assert!(links.follow(members(&[1, 2]), begun + 3 * second));
        assert!(!links.follow(members(&[1, 2]), begun + 4 * second));
        assert_eq!(linked(&mut links, begun + 4 * second), [1, 2, 3, 4]);
        // What is due for the first that left does not cut the time of the second short.
        assert_eq!(linked(&mut links, begun + LEAVE_LINKED), [1, 2, 3]);
        assert_eq!(linked(&mut links, begun + 3 * second + LEAVE_LINKED), [1, 2]);
    }

    #[test]
    fn a_membership_that_is_taken_back_leaves_nobody_behind() {
        let now = Instant::now();
        let mut links = LinkedMembers::new(members(&[1, 2, 3]));
        assert!(links.follow(members(&[1, 2]), now));
        assert!(!links.follow(members(&[1, 2, 3]), now));
        assert_eq!(linked(&mut links, now + LEAVE_LINKED), [1, 2, 3]);
    }
}
