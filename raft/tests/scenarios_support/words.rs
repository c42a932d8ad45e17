//! The words for what nodes say, ask for and are. One form for each thing, short, and free of what may change from run to run.
//!
//! An entry is `index@term`, so `3@2` is entry 3, created in term 2, and `0@0` is the position before the first entry.

use raftkv_raft::{
    Actions, AppendOutcome, Body, ChangeError, Changed, DropReason, Entry, EntryKind, LogPosition, LogRange,
    Membership, Message, Node, NodeId, PeerProgress, ProposeError, Replication, Role, Status, TransferError,
};

/// Entries shown one by one in a message; more are shown as a range.
const ENTRIES_SHOWN_MAX: usize = 4;
/// Bytes of a payload that are shown as text.
const PAYLOAD_SHOWN_MAX: usize = 12;

pub fn position(position: LogPosition) -> String {
    format!("{}@{}", position.index, position.term)
}

pub fn entry(entry: &Entry) -> String {
    let what = match entry.kind {
        EntryKind::Noop => "empty".to_owned(),
        EntryKind::Membership => {
            Membership::decode(&entry.payload).map(|it| membership(&it)).expect("the core encoded it")
        }
        EntryKind::Command if entry.payload.len() > PAYLOAD_SHOWN_MAX => format!("{} bytes", entry.payload.len()),
        EntryKind::Command => String::from_utf8_lossy(&entry.payload).into_owned(),
    };
    format!("{} {what}", position(entry.position()))
}

pub fn entries(list: &[Entry]) -> String {
    match (list.first(), list.last()) {
        (Some(first), Some(last)) if list.len() > ENTRIES_SHOWN_MAX => {
            format!("{} to {}", position(first.position()), position(last.position()))
        }
        _ => list.iter().map(entry).collect::<Vec<_>>().join(", "),
    }
}

fn ids(list: &[NodeId]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// `voters 1 2 3`; during a change `voters 1 2 3 4 and 1 2 3`, which both decide.
pub fn membership(it: &Membership) -> String {
    let mut text = format!("voters {}", ids(it.voters()));
    if it.voters().is_empty() {
        text = "nobody".to_owned();
    }
    if it.is_joint() {
        text += &format!(" and {}", ids(it.voters_outgoing()));
    }
    if !it.learners().is_empty() {
        text += &format!(", learners {}", ids(it.learners()));
    }
    for repair in it.repairs() {
        text += &format!(", {} under repair", repair.node);
    }
    text
}

/// One message. `request` gives a read request its number in the script.
pub fn message(from: NodeId, to: NodeId, message: &Message, mut request: impl FnMut(u64) -> usize) -> String {
    let yes = |granted: bool| if granted { "granted" } else { "refused" };
    let what = match &message.body {
        Body::PreVote { last } => format!("pre-vote? my log ends at {}", position(*last)),
        Body::PreVoteReply { granted } => format!("pre-vote {}", yes(*granted)),
        Body::Vote { last, transfer } => {
            let order = if *transfer { ", the leader asked me to" } else { "" };
            format!("vote? my log ends at {}{order}", position(*last))
        }
        Body::VoteReply { granted } => format!("vote {}", yes(*granted)),
        Body::Append { previous, commit, read_round, entries: list } => {
            let round = if *read_round > 0 { format!(", round {read_round}") } else { String::new() };
            format!("append after {} [{}], commit {commit}{round}", position(*previous), entries(list))
        }
        Body::AppendReply { outcome, read_round, repair } => {
            let round = if *read_round > 0 { format!(", round {read_round}") } else { String::new() };
            let repair = if repair.is_some() { ", and I need repair" } else { "" };
            match outcome {
                AppendOutcome::Durable { match_index } => format!("durable up to {match_index}{round}{repair}"),
                AppendOutcome::Mismatch { previous, hint } => {
                    format!("mismatch at {previous}, try after {}{round}{repair}", position(*hint))
                }
            }
        }
        Body::SnapshotOffer { position: at } => format!("fetch a snapshot, {} or newer", position(*at)),
        Body::ReadIndex { request: number } => format!("read index? request {}", request(*number)),
        Body::ReadIndexReply { request: number, index: Some(index) } => {
            format!("read index of request {}: {index}", request(*number))
        }
        Body::ReadIndexReply { request: number, index: None } => {
            format!("no read index for request {}", request(*number))
        }
        Body::TimeoutNow => "campaign now".to_owned(),
    };
    format!("{from}->{to} term {}: {what}", message.term)
}

pub fn role(role: Role, leader: Option<NodeId>) -> String {
    match role {
        Role::Leader => "leader".to_owned(),
        Role::Candidate => "candidate".to_owned(),
        Role::PreCandidate => "pre-candidate".to_owned(),
        Role::Follower => format!("follower of {}", leader.map_or("nobody".to_owned(), |leader| leader.to_string())),
    }
}

pub fn changed(changed: Changed) -> String {
    format!("{}, term {}", role(changed.role, changed.leader), changed.term)
}

pub fn range(range: LogRange) -> String {
    if range.first == range.last { range.first.to_string() } else { format!("{} to {}", range.first, range.last) }
}

/// What a step asks of the disk and the state machine, and what it tells the caller; not the messages.
pub fn orders(actions: &Actions, node: &Node) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(result) = actions.proposal {
        lines.push(match result {
            Ok(at) => format!("takes it as {}", position(at)),
            Err(error) => format!("refuses: {}", propose_error(error)),
        });
    }
    if let Some(result) = actions.membership_proposal {
        lines.push(match result {
            Ok(at) => format!("takes it as {}", position(at)),
            Err(error) => format!("refuses: {}", change_error(error)),
        });
    }
    if let Some(result) = actions.transfer {
        lines.push(match result {
            Ok(target) => format!("hands over to {target}"),
            Err(error) => format!("refuses: {}", transfer_error(error)),
        });
    }
    if let Some(reason) = actions.dropped {
        lines.push(format!("drops it: {}", drop_reason(reason)));
    }
    if actions.membership_changed {
        lines.push(format!("members are {}", membership(node.status().membership)));
    }
    if let Some(write) = actions.persist {
        let hard_state = write.hard_state.map(|it| {
            let vote = it.vote.map_or("no vote".to_owned(), |vote| format!("vote for {vote}"));
            format!("term {} with {vote}", it.term)
        });
        let list: Vec<Entry> =
            node.log().entries(write.entries).expect("what is written is in memory").cloned().collect();
        let appended = (!list.is_empty()).then(|| entries(&list));
        lines.push(format!("writes {}", hard_state.into_iter().chain(appended).collect::<Vec<_>>().join("; ")));
    }
    if let Some(index) = actions.committed {
        lines.push(format!("commits up to {index}"));
    }
    if let Some(applied) = actions.apply {
        lines.push(format!("applies {}", range(applied)));
    }
    lines.extend(actions.reads.iter().map(|read| format!("read {} may be served at {}", read.token, read.index)));
    lines.extend(actions.reads_refused.iter().map(|token| format!("read {token} is refused")));
    for load in &actions.load {
        lines.push(format!("loads {} from disk for {}", range(load.entries), load.peer));
    }
    if let Some(fetch) = actions.fetch_snapshot {
        lines.push(format!("fetches a snapshot from {}, {} or newer", fetch.from, position(fetch.at_least)));
    }
    if let Some(install) = actions.install_snapshot {
        let rest = if install.keep_suffix { "keeps the log after it" } else { "drops its log" };
        lines.push(format!("installs the snapshot of {} and {rest}", position(install.position)));
    }
    if actions.repaired {
        lines.push("is repaired".to_owned());
    }
    lines
}

fn not_leader(leader: Option<NodeId>) -> String {
    leader
        .map_or("does not lead and knows nobody who does".to_owned(), |leader| format!("does not lead, {leader} does"))
}

fn propose_error(error: ProposeError) -> String {
    match error {
        ProposeError::NotLeader { leader } => not_leader(leader),
        ProposeError::Transferring { target } => format!("is handing over to {target}"),
        ProposeError::Overloaded => "too much is uncommitted".to_owned(),
    }
}

fn change_error(error: ChangeError) -> String {
    match error {
        ChangeError::NotLeader { leader } => not_leader(leader),
        ChangeError::Transferring { target } => format!("is handing over to {target}"),
        ChangeError::TooEarly => "has committed nothing in its term".to_owned(),
        ChangeError::Pending { index } => format!("the change at {index} is not done"),
        ChangeError::Invalid(reason) => reason.to_string(),
    }
}

fn transfer_error(error: TransferError) -> String {
    match error {
        TransferError::NotLeader { leader } => not_leader(leader),
        TransferError::LeadsAlready => "leads already".to_owned(),
        TransferError::NotAVoter { target } => format!("{target} does not vote"),
        TransferError::UnderRepair { target } => format!("{target} is under repair"),
        TransferError::Silent { target } => format!("{target} does not answer"),
        TransferError::NobodyElse => "there is nobody else".to_owned(),
    }
}

fn drop_reason(reason: DropReason) -> &'static str {
    match reason {
        DropReason::UnknownSender => "the sender is no member",
        DropReason::StaleTerm => "of an older term",
        DropReason::Unexpected => "never asked for",
        DropReason::Malformed => "breaks the protocol",
        DropReason::LostLog { .. } => "refuses what it had acknowledged",
    }
}

pub fn status(status: &Status<'_>) -> String {
    let vote = status.vote.map_or("no vote".to_owned(), |vote| format!("vote for {vote}"));
    let log = match status.log_first > status.log_last {
        true if status.log_last.0 == 0 => "empty".to_owned(),
        true => format!("empty after {}", status.log_last),
        false => format!("{} to {}", status.log_first, status.log_last),
    };
    let mut text = format!(
        "{}, term {}, {vote}, commit {}, applied {}, log {log}",
        role(status.role, status.leader),
        status.term,
        status.commit,
        status.applied
    );
    if status.durable != status.log_last {
        text += &format!(", durable up to {}", status.durable);
    }
    if status.reads_waiting > 0 {
        text += &format!(", {} reads wait", status.reads_waiting);
    }
    if status.installing_snapshot {
        text += ", installs a snapshot";
    }
    if status.repair.is_some() {
        text += ", needs repair";
    }
    text
}

pub fn progress(peer: &PeerProgress) -> String {
    let state = match peer.replication {
        Replication::Probe => "probe",
        Replication::Replicate => "replicate",
        Replication::Snapshot => "snapshot",
    };
    let mut text = format!("{}: {state}, matched {}, next {}", peer.id, peer.matched, peer.next);
    if peer.inflight_messages > 0 {
        text += &format!(", {} under way with {} bytes", peer.inflight_messages, peer.inflight_bytes);
    }
    if peer.lost {
        text += ", has lost its log";
    }
    if peer.repair.is_some() {
        text += ", needs repair";
    }
    text
}
