//! Who votes, and how that changes.
//!
//! A membership is a set of voters, during a change also the set it comes from (joint consensus, Raft §6, thesis §4.3), and
//! learners, which receive the log and do not vote. A decision needs a majority of each set of voters that is not empty.
//!
//! A change of voters goes through a *joint* membership, in which old and new voters both decide; the leader leaves it by itself
//! as soon as it is committed. A change of learners alone touches no majority and is one step. A voter that becomes a learner is
//! among the outgoing voters and among the learners until the change is done.
//!
//! A *repair* notes that a member has lost what it had promised: its log, its vote, or its whole disk. It is a learner
//! until it has been repaired, because no promise of a learner counts. Its repair carries a number that the node chose when it noticed
//! the loss, so that a node that finds its own number in a committed membership knows that nobody counts on its former promises
//! any more. See `repair.rs`.
//!
//! What the members are called and where they are reached is not the core's business: a membership carries it as an opaque
//! *context*, from the proposal of a change into the log and the snapshots.

use crate::NodeId;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};
use core::fmt;

/// Members in one membership, at most. Decisions are linear in it.
pub const MEMBERS_MAX: usize = 64;

/// Bytes of [`Membership::context`], at most.
pub const CONTEXT_BYTES_MAX: usize = 256 << 10;

/// The version of the encoding.
const FORMAT: u8 = 1;

/// The number of one loss of one node: random, chosen by the node when it notices the loss, kept until it is repaired. The papers have no such thing: they
/// take a disk that was written for kept (thesis §3.8; scenario 35).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepairId(pub u64);

/// What a member that has lost what it had promised (thesis §3.8) says of that loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RepairReport {
    /// The number of the loss.
    pub id: RepairId,
    /// It is repaired, and knows the committed membership that says so: what it says counts again.
    pub done: bool,
}

/// A member that is being repaired. Raft has no such state: there, a server that lost its
/// persistent state does not come back under its old identity (thesis §3.8). See decision 0007.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Repair {
    /// The member.
    pub node: NodeId,
    /// Which of its losses.
    pub id: RepairId,
    /// It was a voter, and becomes one again once it has the log.
    pub promote: bool,
}

/// What a member is to be (voters: Raft §6; learners: thesis §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberRole {
    /// It votes.
    Voter,
    /// It receives the log and does not vote.
    Learner,
    /// It is no member.
    Removed,
}

/// One change of the membership, carried out as a whole (thesis §4.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MembershipChange {
    /// What becomes of whom. Who is not named stays what it is.
    pub roles: Vec<(NodeId, MemberRole)>,
    /// The context from here on. `None`: it stays.
    pub context: Option<Bytes>,
}

/// Why a change makes no sense (Raft §6). Nothing entered the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeInvalid {
    /// It would leave nobody who votes.
    NoVoters,
    /// Everything is as the change wants it already.
    NothingChanges,
    /// It names a node twice.
    NamedTwice(NodeId),
    /// It removes a node that is no member.
    NotAMember(NodeId),
    /// More than [`MEMBERS_MAX`] members, or more than [`CONTEXT_BYTES_MAX`] bytes of context.
    TooLarge,
    /// The node has lost its log or its disk and is being repaired: it cannot vote before that is done.
    UnderRepair(NodeId),
}

/// Why bytes are no membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipError {
    /// They end too early, or go on too long.
    Length,
    /// They are of a version that this program does not know.
    Version(u8),
    /// The lists contradict each other, are out of order or too long.
    Contradiction,
}

impl fmt::Display for ChangeInvalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeInvalid::NoVoters => f.write_str("it would leave no voter"),
            ChangeInvalid::NothingChanges => f.write_str("everything is like that already"),
            ChangeInvalid::NamedTwice(node) => write!(f, "it names node {node} twice"),
            ChangeInvalid::NotAMember(node) => write!(f, "node {node} is not a member"),
            ChangeInvalid::TooLarge => write!(f, "it would make more than {MEMBERS_MAX} members"),
            ChangeInvalid::UnderRepair(node) => {
                write!(f, "node {node} has lost its log and cannot vote before it is repaired")
            }
        }
    }
}

impl fmt::Display for MembershipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MembershipError::Length => f.write_str("the membership is cut off or too long"),
            MembershipError::Version(version) => write!(f, "the membership is of the unknown version {version}"),
            MembershipError::Contradiction => f.write_str("the membership contradicts itself"),
        }
    }
}

impl core::error::Error for ChangeInvalid {}
impl core::error::Error for MembershipError {}

/// Voters and learners (thesis §4.2.1), each list ascending and without duplicates; with two sets of voters while it is joint (Raft §6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Membership {
    voters: Vec<NodeId>,
    voters_outgoing: Vec<NodeId>,
    learners: Vec<NodeId>,
    /// Ascending by node; each is a learner.
    repairs: Vec<Repair>,
    context: Bytes,
}

impl Membership {
    /// A membership of voters only, in any order. Duplicates count once.
    #[must_use]
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        let mut voters: Vec<NodeId> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        Membership { voters, ..Membership::default() }
    }

    /// The voters; during a change, those it leads to (`C_new` of Raft §6).
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// During a change, the voters it comes from (`C_old` of Raft §6); otherwise empty.
    #[must_use]
    pub fn voters_outgoing(&self) -> &[NodeId] {
        &self.voters_outgoing
    }

    /// Members that receive the log and do not vote (thesis §4.2.1); during a change, also voters that become learners.
    #[must_use]
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    /// Learners that have lost what they had promised, ascending by node.
    #[must_use]
    pub fn repairs(&self) -> &[Repair] {
        &self.repairs
    }

    /// What the caller keeps with it.
    #[must_use]
    pub fn context(&self) -> &Bytes {
        &self.context
    }

    /// The same members with another context.
    #[must_use]
    pub fn with_context(mut self, context: Bytes) -> Membership {
        self.context = context;
        self
    }

    /// Whether nobody is in it: what a node knows that has not joined yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// Whether it is a change under way (thesis §4.3).
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether `id` votes, in either set of voters.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.binary_search(&id).is_ok() || self.voters_outgoing.binary_search(&id).is_ok()
    }

    /// Whether `id` is a learner, or becomes one by the change under way.
    #[must_use]
    pub fn is_learner(&self, id: NodeId) -> bool {
        self.learners.binary_search(&id).is_ok()
    }

    /// The repair of `id`, if it is under repair.
    #[must_use]
    pub fn repair_of(&self, id: NodeId) -> Option<Repair> {
        self.repairs.iter().copied().find(|repair| repair.node == id)
    }

    /// Whether `id` is in it at all.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.is_learner(id)
    }

    /// Everybody in it, each once, in no promised order.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        let outgoing = self.voters_outgoing.iter().filter(|id| self.voters.binary_search(id).is_err());
        let learners = self.learners.iter().filter(|id| !self.is_voter(**id));
        self.voters.iter().chain(outgoing).chain(learners).copied()
    }

    /// Whether those that `agrees` says yes to are a majority of every set of voters (Raft §6). Nobody is no majority.
    #[must_use]
    pub fn has_quorum(&self, mut agrees: impl FnMut(NodeId) -> bool) -> bool {
        let mut majority = |voters: &[NodeId]| {
            let yes = voters.iter().filter(|id| agrees(**id)).count();
            yes > voters.len() / 2
        };
        majority(&self.voters) && (self.voters_outgoing.is_empty() || majority(&self.voters_outgoing))
    }

    /// The membership that `change` makes of this one: a joint one if voters change (Raft §6, thesis §4.3), otherwise the final one.
    ///
    /// # Errors
    ///
    /// The change makes no sense: see [`ChangeInvalid`].
    ///
    /// # Panics
    ///
    /// In a joint membership: one change at a time.
    pub fn changed(&self, change: &MembershipChange) -> Result<Membership, ChangeInvalid> {
        assert!(!self.is_joint(), "a change of a membership that is being changed: {self:?}");
        let mut next = self.clone();
        for (position, (node, role)) in change.roles.iter().enumerate() {
            if change.roles[..position].iter().any(|(other, _)| other == node) {
                return Err(ChangeInvalid::NamedTwice(*node));
            }
            if *role == MemberRole::Removed && !self.contains(*node) {
                return Err(ChangeInvalid::NotAMember(*node));
            }
            next.take_out(*node);
            match role {
                MemberRole::Voter => insert(&mut next.voters, *node),
                MemberRole::Learner => {
                    insert(&mut next.learners, *node);
                    next.repairs.extend(self.repair_of(*node));
                    next.repairs.sort_unstable_by_key(|repair| repair.node);
                }
                MemberRole::Removed => {}
            }
        }
        if let Some(context) = &change.context {
            next.context = context.clone();
        }
        next.enter_from(self)
    }

    /// The membership in which `node` is under repair: a learner whose promises count for nothing.
    ///
    /// # Errors
    ///
    /// [`ChangeInvalid::NotAMember`]; [`ChangeInvalid::NoVoters`] if it is the only voter; [`ChangeInvalid::NothingChanges`].
    pub fn with_repair(&self, node: NodeId, id: RepairId) -> Result<Membership, ChangeInvalid> {
        assert!(!self.is_joint(), "a change of a membership that is being changed: {self:?}");
        if !self.contains(node) {
            return Err(ChangeInvalid::NotAMember(node));
        }
        let promote = self.is_voter(node) || self.repair_of(node).is_some_and(|repair| repair.promote);
        let mut next = self.clone();
        next.take_out(node);
        insert(&mut next.learners, node);
        next.repairs.push(Repair { node, id, promote });
        next.repairs.sort_unstable_by_key(|repair| repair.node);
        next.enter_from(self)
    }

    /// The membership in which `node` is repaired: a voter again if it was one.
    ///
    /// # Errors
    ///
    /// [`ChangeInvalid::NothingChanges`] if it is not under repair.
    pub fn with_repair_done(&self, node: NodeId) -> Result<Membership, ChangeInvalid> {
        assert!(!self.is_joint(), "a change of a membership that is being changed: {self:?}");
        let Some(repair) = self.repair_of(node) else { return Err(ChangeInvalid::NothingChanges) };
        let mut next = self.clone();
        next.take_out(node);
        insert(if repair.promote { &mut next.voters } else { &mut next.learners }, node);
        next.enter_from(self)
    }

    /// Checks the target and makes it joint if the voters differ from those of `from`.
    fn enter_from(mut self, from: &Membership) -> Result<Membership, ChangeInvalid> {
        if self.voters.is_empty() {
            return Err(ChangeInvalid::NoVoters);
        }
        if self == *from {
            return Err(ChangeInvalid::NothingChanges);
        }
        if self.voters != from.voters {
            self.voters_outgoing = from.voters.clone();
        }
        if self.members().count() > MEMBERS_MAX || self.context.len() > CONTEXT_BYTES_MAX {
            return Err(ChangeInvalid::TooLarge);
        }
        Ok(self)
    }

    /// What a joint membership leads to (`C_new` of Raft §6).
    #[must_use]
    pub fn left(&self) -> Membership {
        Membership { voters_outgoing: Vec::new(), ..self.clone() }
    }

    fn take_out(&mut self, node: NodeId) {
        self.voters.retain(|id| *id != node);
        self.learners.retain(|id| *id != node);
        self.repairs.retain(|repair| repair.node != node);
    }

    /// The payload of an [`EntryKind::Membership`](crate::EntryKind::Membership) entry: a version, three lists of ids, the
    /// repairs, the context; numbers big-endian.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(FORMAT);
        for list in [&self.voters, &self.voters_outgoing, &self.learners] {
            bytes.put_u32(length(list.len()));
            for id in list {
                bytes.put_u64(id.0);
            }
        }
        bytes.put_u32(length(self.repairs.len()));
        for repair in &self.repairs {
            bytes.put_u64(repair.node.0);
            bytes.put_u64(repair.id.0);
            bytes.put_u8(u8::from(repair.promote));
        }
        bytes.put_u32(length(self.context.len()));
        bytes.put_slice(&self.context);
        bytes.freeze()
    }

    /// The reverse of [`Membership::encode`].
    ///
    /// # Errors
    ///
    /// The bytes are no membership of a version this program knows.
    pub fn decode(bytes: &Bytes) -> Result<Membership, MembershipError> {
        let mut rest = Decoder { bytes };
        let version = rest.u8()?;
        if version != FORMAT {
            return Err(MembershipError::Version(version));
        }
        let (voters, voters_outgoing, learners) = (rest.ids()?, rest.ids()?, rest.ids()?);
        let mut repairs = Vec::new();
        for _ in 0..rest.count(MEMBERS_MAX)? {
            let (node, id, promote) = (NodeId(rest.u64()?), RepairId(rest.u64()?), rest.u8()?);
            if promote > 1 {
                return Err(MembershipError::Contradiction);
            }
            repairs.push(Repair { node, id, promote: promote == 1 });
        }
        let context = rest.count(CONTEXT_BYTES_MAX)?;
        let at = bytes.len() - rest.bytes.len();
        if rest.bytes.len() != context {
            return Err(MembershipError::Length);
        }
        let membership = Membership { voters, voters_outgoing, learners, repairs, context: bytes.slice(at..) };
        if membership.is_consistent() { Ok(membership) } else { Err(MembershipError::Contradiction) }
    }

    fn is_consistent(&self) -> bool {
        let ascend = |ids: &[NodeId]| ids.windows(2).all(|pair| pair[0] < pair[1]);
        ascend(&self.voters)
            && ascend(&self.voters_outgoing)
            && ascend(&self.learners)
            && self.repairs.windows(2).all(|pair| pair[0].node < pair[1].node)
            && self.repairs.iter().all(|repair| self.is_learner(repair.node))
            && self.learners.iter().all(|id| self.voters.binary_search(id).is_err())
            && (!self.voters.is_empty() || (self.voters_outgoing.is_empty() && self.learners.is_empty()))
            && self.members().count() <= MEMBERS_MAX
    }
}

fn insert(list: &mut Vec<NodeId>, id: NodeId) {
    if let Err(position) = list.binary_search(&id) {
        list.insert(position, id);
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("lists and context of a membership are limited")
}

/// Takes numbers from the front.
struct Decoder<'a> {
    bytes: &'a [u8],
}

impl Decoder<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MembershipError> {
        let (front, rest) = self.bytes.split_first_chunk::<N>().ok_or(MembershipError::Length)?;
        self.bytes = rest;
        Ok(*front)
    }

    fn u8(&mut self) -> Result<u8, MembershipError> {
        Ok(self.take::<1>()?[0])
    }

    fn u64(&mut self) -> Result<u64, MembershipError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn count(&mut self, max: usize) -> Result<usize, MembershipError> {
        let count = u32::from_be_bytes(self.take()?);
        usize::try_from(count).ok().filter(|count| *count <= max).ok_or(MembershipError::Contradiction)
    }

    fn ids(&mut self) -> Result<Vec<NodeId>, MembershipError> {
        let count = self.count(MEMBERS_MAX)?;
        (0..count).map(|_| Ok(NodeId(self.u64()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u64]) -> Vec<NodeId> {
        numbers.iter().map(|number| NodeId(*number)).collect()
    }

    fn change(roles: &[(u64, MemberRole)]) -> MembershipChange {
        MembershipChange { roles: roles.iter().map(|(id, role)| (NodeId(*id), *role)).collect(), context: None }
    }

    #[test]
    fn majority_is_more_than_half() {
        for (voters, yes, expected) in
            [(1, 1, true), (1, 0, false), (2, 1, false), (3, 2, true), (4, 2, false), (5, 3, true)]
        {
            let membership = Membership::new((1..=voters).map(NodeId));
            assert_eq!(membership.has_quorum(|id| id.0 <= yes), expected, "{yes} of {voters}");
        }
    }

    #[test]
    fn nobody_is_no_quorum() {
        assert!(!Membership::default().has_quorum(|_| true));
    }

    #[test]
    fn joint_decision_needs_both_majorities() {
        let membership = Membership {
            voters: ids(&[1, 2, 3]),
            voters_outgoing: ids(&[3, 4, 5]),
            learners: ids(&[5, 6]),
            ..Membership::default()
        };
        assert!(!membership.has_quorum(|id| ids(&[1, 2, 3]).contains(&id)));
        assert!(!membership.has_quorum(|id| ids(&[3, 4, 5]).contains(&id)));
        assert!(membership.has_quorum(|id| ids(&[1, 3, 4]).contains(&id)));
        assert_eq!(membership.members().count(), 6);
        assert!(membership.is_voter(NodeId(5)) && !membership.is_voter(NodeId(6)) && membership.contains(NodeId(6)));
    }

    #[test]
    fn order_and_duplicates_do_not_matter() {
        assert_eq!(Membership::new(ids(&[3, 1, 2, 1])), Membership::new(ids(&[1, 2, 3])));
    }

    #[test]
    fn learners_change_in_one_step_and_voters_in_two() {
        let three = Membership::new(ids(&[1, 2, 3]));
        let with_learner = three.changed(&change(&[(4, MemberRole::Learner)])).expect("a learner may be added");
        assert!(!with_learner.is_joint() && with_learner.is_learner(NodeId(4)));
        let joint = with_learner.changed(&change(&[(4, MemberRole::Voter), (1, MemberRole::Removed)])).expect("voters");
        assert_eq!((joint.voters(), joint.voters_outgoing()), (&ids(&[2, 3, 4])[..], &ids(&[1, 2, 3])[..]));
        assert_eq!(joint.left(), Membership::new(ids(&[2, 3, 4])));
    }

    #[test]
    fn voter_that_becomes_a_learner_votes_until_the_change_is_done() {
        let joint = Membership::new(ids(&[1, 2, 3])).changed(&change(&[(3, MemberRole::Learner)])).expect("valid");
        assert!(joint.is_voter(NodeId(3)) && joint.is_learner(NodeId(3)));
        assert_eq!(joint.members().count(), 3);
        assert!(!joint.left().is_voter(NodeId(3)) && joint.left().is_learner(NodeId(3)));
    }

    #[test]
    fn senseless_changes_are_refused() {
        let one = Membership::new(ids(&[1]));
        for (roles, expected) in [
            (&[(1, MemberRole::Removed)][..], ChangeInvalid::NoVoters),
            (&[(1, MemberRole::Learner)], ChangeInvalid::NoVoters),
            (&[(1, MemberRole::Voter)], ChangeInvalid::NothingChanges),
            (&[], ChangeInvalid::NothingChanges),
            (&[(2, MemberRole::Removed)], ChangeInvalid::NotAMember(NodeId(2))),
            (&[(2, MemberRole::Learner), (2, MemberRole::Voter)], ChangeInvalid::NamedTwice(NodeId(2))),
        ] {
            assert_eq!(one.changed(&change(roles)), Err(expected), "{roles:?}");
        }
        let many: Vec<(u64, MemberRole)> = (2..=MEMBERS_MAX as u64 + 1).map(|id| (id, MemberRole::Learner)).collect();
        assert_eq!(one.changed(&change(&many)), Err(ChangeInvalid::TooLarge));
    }

    #[test]
    fn node_under_repair_is_a_learner_until_it_is_promoted() {
        let three = Membership::new(ids(&[1, 2, 3]));
        let joint = three.with_repair(NodeId(2), RepairId(7)).expect("two voters are left");
        let repairing = joint.left();
        assert_eq!(repairing.repair_of(NodeId(2)), Some(Repair { node: NodeId(2), id: RepairId(7), promote: true }));
        assert!(!repairing.is_voter(NodeId(2)));
        assert_eq!(repairing.with_repair(NodeId(2), RepairId(7)), Err(ChangeInvalid::NothingChanges));
        let again = repairing.with_repair(NodeId(2), RepairId(8)).expect("another loss");
        assert!(!again.is_joint() && again.repair_of(NodeId(2)).is_some_and(|repair| repair.promote));
        let back = again.changed(&change(&[(2, MemberRole::Voter)])).expect("it may vote again").left();
        assert_eq!(back, three);
        assert_eq!(again.with_repair_done(NodeId(2)).map(|joint| joint.left()), Ok(three));
        assert_eq!(Membership::new(ids(&[1])).with_repair(NodeId(1), RepairId(1)), Err(ChangeInvalid::NoVoters));
    }

    #[test]
    fn learner_that_was_no_voter_stays_one_after_its_repair() {
        let learner = Membership::new(ids(&[1])).changed(&change(&[(2, MemberRole::Learner)])).expect("valid");
        let repairing = learner.with_repair(NodeId(2), RepairId(3)).expect("valid");
        assert_eq!(repairing.repair_of(NodeId(2)).map(|repair| repair.promote), Some(false));
        assert_eq!(repairing.with_repair_done(NodeId(2)), Ok(learner.clone()));
        assert_eq!(learner.with_repair_done(NodeId(2)), Err(ChangeInvalid::NothingChanges));
    }

    #[test]
    fn encoding_comes_back() {
        let joint = Membership::new(ids(&[1, 2, 3]))
            .with_context(Bytes::from_static(b"names and addresses"))
            .with_repair(NodeId(3), RepairId(u64::MAX))
            .expect("valid");
        for membership in [joint.clone(), joint.left(), Membership::default(), Membership::new(ids(&[9]))] {
            assert_eq!(Membership::decode(&membership.encode()), Ok(membership));
        }
    }

    #[test]
    fn damaged_encodings_are_refused() {
        let good = Membership::new(ids(&[1, 2])).encode();
        for end in 0..good.len() {
            assert!(Membership::decode(&good.slice(..end)).is_err(), "the first {end} bytes");
        }
        let mut longer = good.to_vec();
        longer.push(0);
        assert_eq!(Membership::decode(&longer.into()), Err(MembershipError::Length));
        let mut unknown = good.to_vec();
        unknown[0] = 9;
        assert_eq!(Membership::decode(&unknown.into()), Err(MembershipError::Version(9)));
        let unordered = Membership { voters: ids(&[2, 1]), ..Membership::default() };
        assert_eq!(Membership::decode(&unordered.encode()), Err(MembershipError::Contradiction));
        let twice = Membership { voters: ids(&[1]), learners: ids(&[1]), ..Membership::default() };
        assert_eq!(Membership::decode(&twice.encode()), Err(MembershipError::Contradiction));
    }
}
