//! What holds after every step, checked in release builds too. A violation is a bug of this node or a broken disk, and
//! going on would spread it, so it panics.

use crate::node::{Node, RoleState};
use crate::state::Core;
use crate::{EntryKind, HardState, LogIndex, LogRange, NodeId, Role};

/// What a step must not take back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    pub(crate) hard_state: HardState,
    pub(crate) role: Role,
    pub(crate) leader: Option<NodeId>,
    pub(crate) commit: LogIndex,
    pub(crate) membership_version: u64,
    applied: LogIndex,
    handed_out: LogIndex,
    last: LogIndex,
}

impl Before {
    pub(crate) fn of(node: &Node) -> Before {
        let core = node.core();
        Before {
            hard_state: core.hard_state,
            role: node.role(),
            leader: core.leader,
            commit: core.commit,
            membership_version: core.configurations.version(),
            applied: core.applied,
            handed_out: core.handed_out,
            last: core.log.last_index(),
        }
    }
}

/// Panics unless `node` is consistent and took nothing back that it must keep.
pub(crate) fn check(before: &Before, node: &Node) {
    let core = node.core();
    check_votes(before, core);
    check_log(before, core);
    match node.role_state() {
        RoleState::Leader(leader) => {
            let term = core.term();
            assert_eq!(core.leader, Some(core.id()), "the leader of term {term} follows another");
            assert_eq!(core.hard_state.vote, Some(core.id()), "the leader of term {term} did not vote for itself");
            assert!(
                core.membership().is_voter(core.id()) || core.configurations.is_pending() || !core.knows_commit(),
                "the leader of term {term} has no vote in the committed membership {:?}",
                core.membership()
            );
            assert!(!core.is_amnesiac(), "the leader of term {term} has lost what it had promised");
            for peer in &leader.peers {
                peer.progress.check(core.log.last_index(), &core.config);
            }
            // A leader never overwrites or deletes entries of its own log (Raft §5.3, Leader Append-Only).
            if before.role == Role::Leader && before.hard_state.term == term {
                assert!(
                    core.log.last_index() >= before.last,
                    "the leader's log shrank from {} to {}",
                    before.last,
                    core.log.last_index()
                );
            }
        }
        RoleState::Candidate(candidate) => {
            assert_eq!(core.leader, None, "a candidate of term {} knows a leader", core.term());
            if !candidate.is_pre {
                assert_eq!(core.hard_state.vote, Some(core.id()), "a candidate did not vote for itself");
            }
        }
        RoleState::Follower(follower) => {
            assert_ne!(core.leader, Some(core.id()), "a follower of term {} follows itself", core.term());
            if !core.snapshot.is_installing() {
                assert!(
                    follower.matched <= core.log.last_index(),
                    "matched {} is after the log's end {}",
                    follower.matched,
                    core.log.last()
                );
            }
        }
    }
}

fn check_votes(before: &Before, core: &Core) {
    let (old, new) = (before.hard_state, core.hard_state);
    assert!(new.term >= old.term, "term went back from {} to {}", old.term, new.term);
    if new.term == old.term {
        assert!(
            old.vote.is_none() || new.vote == old.vote,
            "vote in term {} changed from {:?} to {:?}",
            new.term,
            old.vote,
            new.vote
        );
        assert!(
            before.leader.is_none() || core.leader.is_none() || before.leader == core.leader,
            "two leaders in term {}: {:?} and {:?}",
            new.term,
            before.leader,
            core.leader
        );
    }
}

fn check_log(before: &Before, core: &Core) {
    let (start, last) = (core.log.start().index, core.log.last_index());
    let durable = core.writes.durable_index();
    assert!(core.commit >= before.commit, "commit went back from {} to {}", before.commit, core.commit);
    assert!(core.applied >= before.applied, "applied went back from {} to {}", before.applied, core.applied);
    assert!(core.handed_out >= before.handed_out, "handed out {} after {}", core.handed_out, before.handed_out);
    assert!(core.applied <= core.handed_out, "applied {} of {} handed out", core.applied, core.handed_out);
    assert!(core.handed_out <= core.commit, "handed out {} beyond commit {}", core.handed_out, core.commit);
    assert!(core.handed_out <= durable, "handed out {} beyond durable {durable}", core.handed_out);
    assert!(core.commit <= last, "commit {} is after the log's end {last}", core.commit);
    assert!(durable <= last, "durable {durable} is after the log's end {last}");
    assert!(start <= core.applied, "the log starts at {start}, applied is {}", core.applied);
    let last_term = core.log.last().term;
    assert!(last_term <= core.term(), "the log ends in term {last_term}, after the present term {}", core.term());
    let membership_at = core.configurations.effective_index();
    assert!(membership_at <= last, "the membership in effect stands at {membership_at}, after the log's end {last}");
    assert!(
        !core.configurations.is_pending() || membership_at > core.commit,
        "the membership at {membership_at} is taken for uncommitted, the commit index is {}",
        core.commit
    );
    if core.configurations.version() != before.membership_version {
        check_membership(core);
    }
    core.log.check();
}

/// The membership in effect is the newest in the log, or that of the snapshot before the log (Raft §6). Between the committed one and
/// the one in effect stands none. Looks at what of the log is in memory, and only after a change: it costs time linear in that.
fn check_membership(core: &Core) {
    let (committed_at, effective_at) = (core.configurations.committed_index(), core.configurations.effective_index());
    let range = LogRange { first: core.log.cache_first().max(committed_at.next()), last: core.log.last_index() };
    let entries = core.log.entries(range).expect("what begins with the first entry in memory is in memory");
    for entry in entries.filter(|entry| entry.kind == EntryKind::Membership) {
        assert!(
            core.configurations.is_pending() && entry.index == effective_at,
            "the membership in the log at {} does not count: committed is the one at {committed_at}, in effect the one at \
             {effective_at}",
            entry.index
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Entry, Instant, Membership, Restored, Term};

    fn node() -> Node {
        let restored = Restored {
            hard_state: HardState { term: Term(3), vote: Some(NodeId(2)) },
            ..Restored::new(Membership::new((1..=3).map(NodeId)))
        };
        Node::new(Config::new(NodeId(1)), restored, Instant::ORIGIN, 1)
    }

    #[test]
    #[should_panic(expected = "term went back from 4 to 3")]
    fn term_that_goes_back_is_found() {
        let node = node();
        let mut before = Before::of(&node);
        before.hard_state.term = Term(4);
        check(&before, &node);
    }

    #[test]
    #[should_panic(expected = "vote in term 3 changed")]
    fn second_vote_in_a_term_is_found() {
        let node = node();
        let mut before = Before::of(&node);
        before.hard_state.vote = Some(NodeId(3));
        check(&before, &node);
    }

    #[test]
    #[should_panic(expected = "the membership in the log at 1 does not count")]
    fn membership_that_is_in_the_log_and_not_in_effect_is_found() {
        let mut node = node();
        let mut before = Before::of(&node);
        before.membership_version += 1;
        let payload = Membership::new([NodeId(1)]).encode();
        node.core_mut().log.append(Entry { term: Term(1), index: LogIndex(1), kind: EntryKind::Membership, payload });
        check(&before, &node);
    }

    #[test]
    #[should_panic(expected = "commit went back from 7 to 0")]
    fn commit_that_goes_back_is_found() {
        let node = node();
        let mut before = Before::of(&node);
        before.commit = LogIndex(7);
        check(&before, &node);
    }
}
