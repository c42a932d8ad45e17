//! Between the core's messages and their form on the wire.
//!
//! What arrives is checked for form: required parts are there, kinds are known, entries are consecutive after `previous`. Whether a message
//! makes sense in the receiver's state is the core's business. A message that fails here closes its connection: a member
//! does not send such, so either side has a fault worth seeing.

use crate::proto::peer as wire;
use bytes::Bytes;
use prost::Message as _;
use raft::{AppendOutcome, Body, Entry, EntryKind, LogIndex, LogPosition, Message, RepairId, RepairReport, Term};

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMessage {
    /// Not this protobuf.
    #[error("the body does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A part that must be there is not; or a variant that this version does not know.
    #[error("{what} is missing or of an unknown kind")]
    Missing {
        /// The part.
        what: &'static str,
    },
    /// An entry's kind is not one of ours.
    #[error("entry {index} is of unknown kind {kind}")]
    EntryKind {
        /// Which entry.
        index: u64,
        /// Its kind.
        kind: u32,
    },
    /// Entries are not consecutive.
    #[error("entry {found} stands where {expected} is due")]
    EntryIndex {
        /// The index found.
        found: u64,
        /// The index that should follow.
        expected: u64,
    },
}

/// A message as it travels in the body of a frame.
#[must_use]
pub fn encode_message(message: Message) -> Bytes {
    to_wire(message).encode_to_vec().into()
}

/// The message that travelled as `body`.
///
/// # Errors
/// When it is none.
pub fn decode_message(body: Bytes) -> Result<Message, MalformedMessage> {
    from_wire(wire::Message::decode(body)?)
}

pub(crate) fn to_wire(message: Message) -> wire::Message {
    use wire::message::Body as Wire;
    let body = match message.body {
        Body::PreVote { last } => Wire::PreVote(wire::PreVote { last: Some(position_to_wire(last)) }),
        Body::PreVoteReply { granted } => Wire::PreVoteReply(wire::PreVoteReply { granted }),
        Body::Vote { last, transfer } => Wire::Vote(wire::Vote { last: Some(position_to_wire(last)), transfer }),
        Body::VoteReply { granted } => Wire::VoteReply(wire::VoteReply { granted }),
        Body::Append { previous, commit, read_round, entries } => Wire::Append(wire::Append {
            previous: Some(position_to_wire(previous)),
            commit: commit.0,
            read_round,
            entries: entries.into_iter().map(entry_to_wire).collect(),
        }),
        Body::AppendReply { outcome, read_round, repair } => Wire::AppendReply(wire::AppendReply {
            outcome: Some(outcome_to_wire(outcome)),
            read_round,
            repair: repair.map(|report| report.id.0),
            repaired: repair.is_some_and(|report| report.done),
        }),
        Body::SnapshotOffer { position } => {
            Wire::SnapshotOffer(wire::SnapshotOffer { position: Some(position_to_wire(position)) })
        }
        Body::ReadIndex { request } => Wire::ReadIndex(wire::ReadIndex { request }),
        Body::ReadIndexReply { request, index } => {
            Wire::ReadIndexReply(wire::ReadIndexReply { request, index: index.map(|index| index.0) })
        }
        Body::TimeoutNow => Wire::TimeoutNow(wire::TimeoutNow {}),
    };
    wire::Message { term: message.term.0, body: Some(body) }
}

pub(crate) fn from_wire(message: wire::Message) -> Result<Message, MalformedMessage> {
    use wire::message::Body as Wire;
    let body = match message.body.ok_or(MalformedMessage::Missing { what: "body" })? {
        Wire::PreVote(body) => Body::PreVote { last: position(body.last, "last")? },
        Wire::PreVoteReply(body) => Body::PreVoteReply { granted: body.granted },
        Wire::Vote(body) => Body::Vote { last: position(body.last, "last")?, transfer: body.transfer },
        Wire::VoteReply(body) => Body::VoteReply { granted: body.granted },
        Wire::Append(body) => {
            let previous = position(body.previous, "previous")?;
            let entries = entries(previous.index, body.entries)?;
            Body::Append { previous, commit: LogIndex(body.commit), read_round: body.read_round, entries }
        }
        Wire::AppendReply(body) => Body::AppendReply {
            outcome: outcome(body.outcome)?,
            read_round: body.read_round,
            repair: body.repair.map(|id| RepairReport { id: RepairId(id), done: body.repaired }),
        },
        Wire::SnapshotOffer(body) => Body::SnapshotOffer { position: position(body.position, "position")? },
        Wire::ReadIndex(body) => Body::ReadIndex { request: body.request },
        Wire::ReadIndexReply(body) => Body::ReadIndexReply { request: body.request, index: body.index.map(LogIndex) },
        Wire::TimeoutNow(wire::TimeoutNow {}) => Body::TimeoutNow,
    };
    Ok(Message { term: Term(message.term), body })
}

pub(crate) fn position_to_wire(position: LogPosition) -> wire::Position {
    wire::Position { term: position.term.0, index: position.index.0 }
}

pub(crate) fn position(position: Option<wire::Position>, what: &'static str) -> Result<LogPosition, MalformedMessage> {
    let position = position.ok_or(MalformedMessage::Missing { what })?;
    Ok(LogPosition { term: Term(position.term), index: LogIndex(position.index) })
}

fn entry_to_wire(entry: Entry) -> wire::Entry {
    let kind = match entry.kind {
        EntryKind::Command => 0,
        EntryKind::Noop => 1,
        EntryKind::Membership => 2,
    };
    wire::Entry { term: entry.term.0, index: entry.index.0, kind, payload: entry.payload }
}

fn entries(previous: LogIndex, entries: Vec<wire::Entry>) -> Result<Vec<Entry>, MalformedMessage> {
    let mut expected = previous.0;
    entries
        .into_iter()
        .map(|entry| {
            expected = expected
                .checked_add(1)
                .ok_or(MalformedMessage::EntryIndex { found: entry.index, expected: u64::MAX })?;
            if entry.index != expected {
                return Err(MalformedMessage::EntryIndex { found: entry.index, expected });
            }
            let kind = match entry.kind {
                0 => EntryKind::Command,
                1 => EntryKind::Noop,
                2 => EntryKind::Membership,
                kind => return Err(MalformedMessage::EntryKind { index: entry.index, kind }),
            };
            Ok(Entry { term: Term(entry.term), index: LogIndex(entry.index), kind, payload: entry.payload })
        })
        .collect()
}

fn outcome_to_wire(outcome: AppendOutcome) -> wire::append_reply::Outcome {
    match outcome {
        AppendOutcome::Durable { match_index } => {
            wire::append_reply::Outcome::Durable(wire::Durable { match_index: match_index.0 })
        }
        AppendOutcome::Mismatch { previous, hint } => wire::append_reply::Outcome::Mismatch(wire::Mismatch {
            previous: previous.0,
            hint: Some(position_to_wire(hint)),
        }),
    }
}

fn outcome(outcome: Option<wire::append_reply::Outcome>) -> Result<AppendOutcome, MalformedMessage> {
    match outcome.ok_or(MalformedMessage::Missing { what: "outcome" })? {
        wire::append_reply::Outcome::Durable(durable) => {
            Ok(AppendOutcome::Durable { match_index: LogIndex(durable.match_index) })
        }
        wire::append_reply::Outcome::Mismatch(mismatch) => Ok(AppendOutcome::Mismatch {
            previous: LogIndex(mismatch.previous),
            hint: position(mismatch.hint, "hint")?,
        }),
    }
}

/// Roughly what a message takes in memory and on the wire: what queue limits in bytes count.
pub(crate) fn weight(message: &Message) -> usize {
    const FIXED_BYTES: usize = 64;
    const ENTRY_BYTES: usize = 32;
    if let Body::Append { entries, .. } = &message.body {
        FIXED_BYTES + entries.iter().map(|entry| ENTRY_BYTES + entry.payload.len()).sum::<usize>()
    } else {
        FIXED_BYTES
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use bytes::Bytes;

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition { term: Term(term), index: LogIndex(index) }
    }

    fn entry(index: u64, kind: EntryKind, payload: &'static [u8]) -> Entry {
        Entry { term: Term(3), index: LogIndex(index), kind, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn every_message_survives_the_wire() {
        let bodies = [
            Body::PreVote { last: at(1, 2) },
            Body::PreVoteReply { granted: true },
            Body::Vote { last: at(0, 0), transfer: true },
            Body::VoteReply { granted: false },
            Body::Append { previous: at(0, 0), commit: LogIndex(0), read_round: 0, entries: Vec::new() },
            Body::Append {
                previous: at(2, 9),
                commit: LogIndex(8),
                read_round: u64::MAX,
                entries: vec![
                    entry(10, EntryKind::Command, b"\0\xff"),
                    entry(11, EntryKind::Noop, b""),
                    entry(12, EntryKind::Membership, b"m"),
                ],
            },
            Body::AppendReply {
                outcome: AppendOutcome::Durable { match_index: LogIndex(5) },
                read_round: 4,
                repair: Some(RepairReport { id: RepairId(u64::MAX), done: true }),
            },
            Body::AppendReply {
                outcome: AppendOutcome::Mismatch { previous: LogIndex(5), hint: at(1, 3) },
                read_round: 4,
                repair: None,
            },
            Body::SnapshotOffer { position: at(7, 8) },
            Body::ReadIndex { request: 3 },
            Body::ReadIndexReply { request: 3, index: None },
            Body::ReadIndexReply { request: 3, index: Some(LogIndex(0)) },
            Body::TimeoutNow,
        ];
        for body in bodies {
            let message = Message { term: Term(4), body };
            let bytes = to_wire(message.clone()).encode_to_vec();
            let decoded = wire::Message::decode(bytes.as_slice()).unwrap();
            assert_eq!(from_wire(decoded).unwrap(), message);
        }
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        let append = |previous, entries| wire::Message {
            term: 1,
            body: Some(wire::message::Body::Append(wire::Append { previous, commit: 0, read_round: 0, entries })),
        };
        let wire_entry = |index, kind| wire::Entry { term: 1, index, kind, payload: Bytes::new() };
        let start = Some(wire::Position { term: 0, index: 0 });
        let end = Some(wire::Position { term: 1, index: u64::MAX });
        assert_eq!(from_wire(wire::Message::default()), Err(MalformedMessage::Missing { what: "body" }));
        assert_eq!(from_wire(append(None, vec![])), Err(MalformedMessage::Missing { what: "previous" }));
        assert_eq!(
            from_wire(append(start, vec![wire_entry(1, 0), wire_entry(3, 0)])),
            Err(MalformedMessage::EntryIndex { found: 3, expected: 2 })
        );
        assert_eq!(
            from_wire(append(start, vec![wire_entry(1, 7)])),
            Err(MalformedMessage::EntryKind { index: 1, kind: 7 })
        );
        assert!(from_wire(append(end, vec![wire_entry(0, 0)])).is_err());
    }
}
