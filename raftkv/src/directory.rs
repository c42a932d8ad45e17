//! The member directory: what the members are called and where they are reached.
//!
//! It travels as the context of the membership ([`Membership::context`]), so it changes with it, in one log entry, and snapshots carry it. The
//! core does not look into it. While the context is empty, before the first change, the directory is what the configurations of the founding
//! nodes say, which all say the same.
//!
//! **Numbers are never given out twice** (scenario 34): a message, a vote or a data directory of a node that was removed must not pass for
//! one of a later node. So the directory keeps the highest number ever given out, also when the member that had it is gone.
//!
//! A voter that is removed has its entry until the change after that one: it decides until the joint membership is left, and must be
//! reached until then.
//!
//! The bytes are protobuf, fields only ever added: `docs/formats.md`.

use crate::config::Config;
use bytes::Bytes;
use prost::Message as _;
use raft::{Membership, NodeId};

/// See the module.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MemberDirectory {
    /// The highest number ever given to a member.
    #[prost(uint64, tag = "1")]
    pub id_max: u64,
    /// The members, ascending by number.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<DirectoryMember>,
}

/// One member.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DirectoryMember {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name, for people.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where its peers reach it: `HOST:PORT`, UDP.
    #[prost(string, tag = "3")]
    pub peer_address: String,
    /// Where clients reach it: `HOST:PORT`, UDP.
    #[prost(string, tag = "4")]
    pub client_address: String,
    /// Where its status page is, if it was told.
    #[prost(string, optional, tag = "5")]
    pub http_address: Option<String>,
}

impl MemberDirectory {
    /// What the configuration says: the directory of the founding members. On a node that joins, what it was told about the members, which
    /// counts for nothing once it hears from one of them.
    #[must_use]
    pub fn founding(config: &Config) -> MemberDirectory {
        let member = |member: &crate::config::MemberConfig| DirectoryMember {
            id: member.id,
            name: member.name.clone(),
            peer_address: member.peer.clone(),
            client_address: member.client.clone(),
            http_address: None,
        };
        let mut members: Vec<DirectoryMember> = config.cluster.members.iter().map(member).collect();
        members.sort_by_key(|member| member.id);
        // Who joins knows nothing about the numbers that were given out.
        let id_max = if config.cluster.joining { 0 } else { members.last().map_or(0, |member| member.id) };
        MemberDirectory { id_max, members }
    }

    /// The directory that `membership` carries; `founding` if it carries none.
    #[must_use]
    pub fn of(membership: &Membership, founding: &MemberDirectory) -> MemberDirectory {
        if membership.context().is_empty() {
            return founding.clone();
        }
        MemberDirectory::decode(membership.context().clone()).unwrap_or_else(|error| {
            // Fields are only ever added, so every version reads every other's. What is left is a bug in whoever proposed it; the
            // members themselves are not in here, so the group goes on.
            tracing::error!(%error, "the member directory cannot be read; names and addresses are those of the configuration");
            founding.clone()
        })
    }

    /// In the form of [`Membership::context`].
    #[must_use]
    pub fn to_context(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }

    /// The entry of `id`.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&DirectoryMember> {
        self.members.iter().find(|member| member.id == id.0)
    }

    /// Whether `id` was a member of `membership`'s group and is none any more, for ever.
    #[must_use]
    pub fn is_removed(&self, id: NodeId, membership: &Membership) -> bool {
        id.0 <= self.id_max && !membership.is_empty() && !membership.contains(id)
    }

    /// Adds a member whose number is higher than all before.
    pub(crate) fn add(&mut self, member: DirectoryMember) {
        assert!(member.id > self.id_max, "number {} was given out before: the highest is {}", member.id, self.id_max);
        self.id_max = member.id;
        self.members.push(member);
    }

    /// Forgets those who are no members of `membership` any more. Their numbers stay taken.
    pub(crate) fn keep_members_of(&mut self, membership: &Membership) {
        self.members.retain(|member| membership.contains(NodeId(member.id)));
    }

    /// Takes a member out. Its number stays taken.
    pub(crate) fn remove(&mut self, id: NodeId) {
        self.members.retain(|member| member.id != id.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(ids: &[u64]) -> MemberDirectory {
        let mut directory = MemberDirectory::default();
        for id in ids {
            directory.add(DirectoryMember { id: *id, name: format!("n{id}"), ..DirectoryMember::default() });
        }
        directory
    }

    #[test]
    fn directory_travels_with_the_membership_and_the_founding_one_stands_in() {
        let (founding, changed) = (directory(&[1, 2]), directory(&[1, 2, 5]));
        let members = Membership::new([1, 2].map(NodeId));
        assert_eq!(MemberDirectory::of(&members, &founding), founding);
        let members = members.with_context(changed.to_context());
        assert_eq!(MemberDirectory::of(&members, &founding), changed);
        let members = members.with_context(Bytes::from_static(b"\xff"));
        assert_eq!(MemberDirectory::of(&members, &founding), founding);
    }

    #[test]
    fn a_number_stays_taken_and_tells_the_removed_from_the_coming() {
        let mut directory = directory(&[1, 2, 5]);
        directory.remove(NodeId(5));
        assert_eq!((directory.id_max, directory.members.len()), (5, 2));
        let members = Membership::new([1, 2].map(NodeId));
        let removed: Vec<u64> = (1..8).filter(|id| directory.is_removed(NodeId(*id), &members)).collect();
        assert_eq!(removed, [3, 4, 5]);
        assert!(!directory.is_removed(NodeId(5), &Membership::default()), "who knows nobody is not removed");
    }
}
