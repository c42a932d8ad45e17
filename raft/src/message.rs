//! What nodes say to each other. Every variant is documented here, once.

use crate::{Entry, LogIndex, LogPosition, RepairReport, Term};
use alloc::vec::Vec;

/// One message between two members: a request or an answer (Raft §5.1). Sender and receiver travel beside it: the transport knows both
/// from the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender's term, except in [`Body::PreVote`] and a granting [`Body::PreVoteReply`], where it is the term the
    /// candidate would campaign in.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// The kinds of message: the RPCs of Raft (Figure 2, §7) as messages, with pre-votes (thesis §9.6), reads (thesis §6.4)
/// and transfers (thesis §3.10).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// "Would you vote for me in `term`?" Changes nobody's term (thesis §9.6).
    PreVote {
        /// The end of the candidate's log.
        last: LogPosition,
    },
    /// The answer to a pre-vote. A refusal carries the voter's own term.
    PreVoteReply {
        /// Whether the voter would grant its vote.
        granted: bool,
    },
    /// RequestVote (Raft §5.2, §5.4.1).
    Vote {
        /// The end of the candidate's log.
        last: LogPosition,
        /// The leader asked for this election (thesis §3.10): voters do not hold it up to protect that leader.
        transfer: bool,
    },
    /// The answer to a vote. Leaves the voter only after its vote is durable.
    VoteReply {
        /// Whether the vote was granted.
        granted: bool,
    },
    /// AppendEntries (Raft §5.3). Without entries it is the heartbeat and the probe.
    Append {
        /// The position just before the first entry.
        previous: LogPosition,
        /// The leader's commit index (Raft Figure 2: leaderCommit). It may lie beyond what the receiver will have after this message;
        /// the receiver takes no more of it than the message covers.
        commit: LogIndex,
        /// The newest read round of the leader (thesis §6.4); zero before the first one in a term.
        read_round: u64,
        /// Consecutive entries after `previous`. Empty in the messages the core hands out when the range travels in
        /// [`Send::entries`](crate::Send::entries) and the driver fills this in from the log; there already if they were
        /// loaded from disk.
        entries: Vec<Entry>,
    },
    /// The answer to an append.
    AppendReply {
        /// What became of it.
        outcome: AppendOutcome,
        /// Echo of the append's `read_round`: the sender still takes the receiver for its leader.
        read_round: u64,
        /// The sender has lost what it had promised. Until it is repaired, nothing that it says counts towards a majority, and the leader
        /// takes its vote away; its log may be shorter than it once said. Afterwards it says so until it has its vote back.
        repair: Option<RepairReport>,
    },
    /// The entries the receiver needs are compacted away: it should fetch a snapshot from the sender.
    SnapshotOffer {
        /// What the sender's log starts after. The snapshot fetched will be at least as new.
        position: LogPosition,
    },
    /// A follower asks the leader for a read index (thesis §6.4).
    ReadIndex {
        /// Chosen by the asking core, monotone within one life of the node.
        request: u64,
    },
    /// The leader has confirmed its leadership since the request came in.
    ReadIndexReply {
        /// The request answered.
        request: u64,
        /// Reads are linearizable once this index is applied; `None`: the receiver is not a leader that can serve it.
        index: Option<LogIndex>,
    },
    /// The leader hands over: campaign now, without waiting for a timeout or a pre-vote (thesis §3.10).
    TimeoutNow,
}

/// What became of an append (Raft §5.3; Figure 2, AppendEntries).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppendOutcome {
    /// The receiver's log equals the leader's up to and including `match_index`, and is durable up to there.
    Durable {
        /// Highest index that both matches and is durable.
        match_index: LogIndex,
    },
    /// The receiver has no entry at `previous`, or one of another term.
    Mismatch {
        /// The index of the refused `previous`: tells a stale refusal from a current one.
        previous: LogIndex,
        /// The newest position of the receiver's log that could still match: the last entry at or before `previous` whose
        /// term is not above `previous`' term. The leader skips whole terms with it.
        hint: LogPosition,
    },
}
