//! Everything a node can ask for. With [`Event`](crate::Event), this is the table of contents of the core.

use crate::{ChangeInvalid, HardState, LogIndex, LogMark, LogPosition, LogRange, Message, NodeId, Role, Term};
use alloc::vec::Vec;

/// What one [`step`](crate::Node::step) asks the caller to do. One buffer is reused for ever: `step` clears it first, so the
/// caller carries out everything before the next step. Together these are what Raft, Figure 2, has servers do.
///
/// `persist` and `send` are independent: the caller starts both at once, in any order. Whatever must not leave before a write
/// is durable is not in `send` yet: the core holds it back until [`Event::Durable`](crate::Event::Durable).
#[derive(Debug, Default)]
pub struct Actions {
    /// Write this to the log and make it durable, then report [`Event::Durable`](crate::Event::Durable). Writes are
    /// carried out in the order asked
    /// for; several may be made durable together and reported once.
    pub persist: Option<Persist>,
    /// Messages to send. Losing some is allowed; so is delivering them late, twice or out of order.
    pub send: Vec<Send>,
    /// Committed entries to apply, in order, after everything asked for earlier. They are durable in this node's log, and may
    /// be out of memory: then they are read from disk. Report with [`Event::Applied`](crate::Event::Applied).
    pub apply: Option<LogRange>,
    /// The answer to [`Event::Propose`](crate::Event::Propose).
    pub proposal: Option<Result<LogPosition, ProposeError>>,
    /// The answer to [`Event::ChangeMembership`](crate::Event::ChangeMembership): where the change stands in the log. It takes effect
    /// there at once (thesis §4.1) and is done when an entry after it has brought a membership that is not joint and is committed.
    pub membership_proposal: Option<Result<LogPosition, ChangeError>>,
    /// The answer to [`Event::TransferLeadership`](crate::Event::TransferLeadership): to whom the leader tries to hand
    /// over. It is given up after
    /// an election timeout.
    pub transfer: Option<Result<NodeId, TransferError>>,
    /// The membership in effect changed, by an entry appended or taken back or by a snapshot:
    /// [`Status::membership`](crate::Status::membership) has it. Links to peers follow it.
    pub membership_changed: bool,
    /// Note durably that this node is repaired: its number of [`Restored::repair`](crate::Restored::repair) is void. Then report
    /// [`Event::Repaired`](crate::Event::Repaired).
    pub repaired: bool,
    /// Reads that have their index.
    pub reads: Vec<ReadReady>,
    /// Reads that will not get one from this node's leadership: ask again, or another node.
    pub reads_refused: Vec<u64>,
    /// Read entries from disk for a follower that is behind the cache, then report [`Event::Loaded`](crate::Event::Loaded).
    pub load: Vec<Load>,
    /// Fetch a snapshot from this node, and report [`Event::SnapshotFetched`](crate::Event::SnapshotFetched) or
    /// [`Event::SnapshotFailed`](crate::Event::SnapshotFailed).
    pub fetch_snapshot: Option<FetchSnapshot>,
    /// Switch to the fetched snapshot, reset the log to start after it, and report
    /// [`Event::SnapshotInstalled`](crate::Event::SnapshotInstalled). Comes after every write asked for earlier, and applies asked
    /// for earlier and not carried out yet are void. Until it is reported, only hard state is asked to be written and
    /// nothing is asked to be applied.
    pub install_snapshot: Option<InstallSnapshot>,
    /// Role, term or leader changed: the values after the step.
    pub changed: Option<Changed>,
    /// The commit index moved: its value after the step.
    pub committed: Option<LogIndex>,
    /// A peer's message was dropped because it made no sense in this state; counted, never acted on.
    pub dropped: Option<DropReason>,
}

impl Actions {
    /// Makes it empty and keeps its memory.
    pub fn clear(&mut self) {
        let Actions {
            persist,
            send,
            apply,
            proposal,
            membership_proposal,
            transfer,
            membership_changed,
            repaired,
            reads,
            reads_refused,
            load,
            fetch_snapshot,
            install_snapshot,
            changed,
            committed,
            dropped,
        } = self;
        *persist = None;
        send.clear();
        *apply = None;
        *proposal = None;
        *membership_proposal = None;
        *transfer = None;
        *membership_changed = false;
        *repaired = false;
        reads.clear();
        reads_refused.clear();
        load.clear();
        *fetch_snapshot = None;
        *install_snapshot = None;
        *changed = None;
        *committed = None;
        *dropped = None;
    }
}

/// One write to the log: hard state, entries or both, durable together (the persistent state of Raft, Figure 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persist {
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// The number of the newest hard state asked for so far: reported back in [`Event::Durable`](crate::Event::Durable).
    pub hard_state_sequence: u64,
    /// Entries to append, to be read from [`Node::log`](crate::Node::log) before the next step. If `entries.first` is not after the
    /// log's last index, everything from there on is replaced (Raft §5.3). Empty if only hard state is written.
    pub entries: LogRange,
    /// The name of the append: reported back in [`Event::Durable`](crate::Event::Durable). `None` if only hard state is written.
    pub mark: Option<LogMark>,
}

/// One message to send (Raft §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The receiver.
    pub to: NodeId,
    /// The message, its entries left out if `entries` names them.
    pub message: Message,
    /// Entries to attach to an append, to be read from [`Node::log`](crate::Node::log) before the next step: they are in memory.
    /// Empty: the message goes as it is, with or without entries.
    pub entries: LogRange,
}

/// Entries to read from disk, because a peer is further behind than what is in memory (Raft §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// The peer they are for.
    pub peer: NodeId,
    /// Which entries.
    pub entries: LogRange,
    /// Stop after this many payload bytes, but load at least one entry.
    pub bytes_max: usize,
}

/// A read that has its index (thesis §6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadReady {
    /// The token of [`Event::Read`](crate::Event::Read).
    pub token: u64,
    /// Once this is applied, the read may be served.
    pub index: LogIndex,
}

/// A snapshot to fetch from the leader that offers it (Raft §7; the follower fetches, the leader does not push).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchSnapshot {
    /// The leader that offers it.
    pub from: NodeId,
    /// It must be at least this new.
    pub at_least: LogPosition,
}

/// A snapshot to switch to (Raft §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// The last entry it holds.
    pub position: LogPosition,
    /// The log already holds this very entry, so what follows it stays. Otherwise the whole log goes.
    pub keep_suffix: bool,
}

/// A change of role, term or leader (Raft §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The role now.
    pub role: Role,
    /// The term now.
    pub term: Term,
    /// The leader of that term, as far as known.
    pub leader: Option<NodeId>,
}

/// Why a proposal was refused (Raft §5.3, §8). Nothing entered the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposeError {
    /// Another node leads, or none does.
    NotLeader {
        /// The leader, as far as known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over.
    Transferring {
        /// To whom.
        target: NodeId,
    },
    /// Too many bytes wait to be committed ([`Config::uncommitted_bytes_max`](crate::Config::uncommitted_bytes_max)).
    Overloaded,
}

/// Why a change of the membership was refused (Raft §6, thesis §4). Nothing entered the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeError {
    /// Another node leads, or none does.
    NotLeader {
        /// The leader, as far as known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over.
    Transferring {
        /// To whom.
        target: NodeId,
    },
    /// The leader has committed nothing in its term yet, so a change of its predecessor's could still be under way
    /// (thesis §4.1 and its erratum of 2015). Soon over.
    TooEarly,
    /// Another change is under way: one at a time.
    Pending {
        /// Where it stands in the log.
        index: LogIndex,
    },
    /// The change makes no sense.
    Invalid(ChangeInvalid),
}

/// Why leadership is not handed over (thesis §3.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferError {
    /// Another node leads, or none does.
    NotLeader {
        /// The leader, as far as known.
        leader: Option<NodeId>,
    },
    /// The target is this node, which leads.
    LeadsAlready,
    /// The target does not vote, or not any longer.
    NotAVoter {
        /// The target.
        target: NodeId,
    },
    /// The target has lost its log and cannot lead before it is repaired.
    UnderRepair {
        /// The target.
        target: NodeId,
    },
    /// The target was not heard for an election timeout: waiting for it would only stop writes.
    Silent {
        /// The target.
        target: NodeId,
    },
    /// There is no other voter.
    NobodyElse,
}

/// Why a peer's message was dropped (Raft §5.1 for those of older terms). No rule needs a message to arrive (Raft §5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The sender is not a member.
    UnknownSender,
    /// Of an older term, and of a kind that wants no answer.
    StaleTerm,
    /// Not for this role: a reply to something never asked in this term.
    Unexpected,
    /// It breaks a rule of the protocol, such as entries out of order or two leaders in one term.
    Malformed,
    /// The sender refuses what it had acknowledged to this leader, and says nothing of a loss: its log is gone, and it does not know. Said once for
    /// each time that this is found out. The peer should be started anew, so that it notices.
    LostLog {
        /// The sender.
        peer: NodeId,
    },
}
