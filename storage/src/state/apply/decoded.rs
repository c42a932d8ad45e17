//! A run of entries, decoded before anything of it is applied.
//!
//! What this program does not know must stop it before the first entry of the run has left a trace, so all of them are decoded first. The
//! keys that the commands name come out of it as well, so that they are loaded in one go.

use super::super::error::StateError;
use crate::command::{BatchDecoder, BatchItem, Command, DecodeError, InvalidCommand};
use raft::{Entry, EntryKind, LogPosition, Membership, MembershipError};

/// One entry of a run, decoded.
pub(super) struct DecodedEntry<'a> {
    pub(super) position: LogPosition,
    /// The end of its commands in [`DecodedRun::commands`].
    pub(super) commands_end: usize,
    /// The membership it carries, encoded and decoded.
    pub(super) membership: Option<(&'a [u8], Membership)>,
    /// The cluster's time when it was proposed.
    pub(super) time_ms: Option<u64>,
}

/// The entries of a run, decoded.
pub(crate) struct DecodedRun<'a> {
    pub(super) entries: Vec<DecodedEntry<'a>>,
    pub(super) commands: Vec<Result<BatchItem<'a>, InvalidCommand>>,
    pub(super) payload_bytes: usize,
}

impl<'a> DecodedRun<'a> {
    /// Decodes all entries, or fails at what must not be applied, before anything is.
    pub(crate) fn decode(entries: &'a [Entry], format_max: u32) -> Result<DecodedRun<'a>, StateError> {
        let mut run = DecodedRun { entries: Vec::with_capacity(entries.len()), commands: Vec::new(), payload_bytes: 0 };
        for entry in entries {
            run.payload_bytes += entry.payload.len();
            let (mut membership, mut time_ms) = (None, None);
            match entry.kind {
                EntryKind::Noop => {}
                EntryKind::Membership => membership = Some((&entry.payload[..], decode_membership(entry)?)),
                EntryKind::Command => {
                    let decoder = BatchDecoder::new(&entry.payload);
                    time_ms = decoder.time_ms();
                    for command in decoder {
                        run.commands.push(match command {
                            Ok(BatchItem { command: Command::RaiseFormat { to }, .. }) if to > format_max => {
                                return Err(StateError::UnknownFormat { found: to, known: format_max });
                            }
                            Ok(command) => Ok(command),
                            Err(DecodeError::Invalid(invalid)) => Err(invalid),
                            Err(DecodeError::Unknown(feature)) => {
                                return Err(StateError::UnknownFeature { index: entry.index, feature });
                            }
                        });
                    }
                }
            }
            let (position, commands_end) = (entry.position(), run.commands.len());
            run.entries.push(DecodedEntry { position, commands_end, membership, time_ms });
        }
        Ok(run)
    }

    /// The keys that commands name as single ones, ascending and distinct.
    pub(super) fn keys(&self) -> Vec<&'a [u8]> {
        let mut keys = Vec::with_capacity(self.commands.len());
        for item in self.commands.iter().flatten() {
            match &item.command {
                Command::Put(put) => keys.push(put.key),
                Command::DeleteRange { range, .. } => keys.extend(range.single_key()),
                Command::Transaction { transaction, .. } => transaction.single_keys(&mut |key| keys.push(key)),
                Command::RaiseFormat { .. }
                | Command::GrantLease { .. }
                | Command::KeepLeaseAlive { .. }
                | Command::RevokeLease { .. }
                | Command::Expire { .. }
                | Command::Compact { .. }
                | Command::OpenSession { .. }
                | Command::CloseSession { .. } => {}
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Whether a transaction in it reads at a revision that it names.
    pub(super) fn reads_history(&self) -> bool {
        self.commands.iter().flatten().any(|item| match &item.command {
            Command::Transaction { transaction, .. } => transaction.reads_history(),
            Command::Put(_)
            | Command::DeleteRange { .. }
            | Command::RaiseFormat { .. }
            | Command::GrantLease { .. }
            | Command::KeepLeaseAlive { .. }
            | Command::RevokeLease { .. }
            | Command::Expire { .. }
            | Command::Compact { .. }
            | Command::OpenSession { .. }
            | Command::CloseSession { .. } => false,
        })
    }
}

/// The membership that an entry carries. Nobody proposes one without voters.
fn decode_membership(entry: &Entry) -> Result<Membership, StateError> {
    let decoded = Membership::decode(&entry.payload);
    let decoded = decoded.and_then(|it| if it.is_empty() { Err(MembershipError::Contradiction) } else { Ok(it) });
    decoded.map_err(|cause| StateError::MembershipChange { index: entry.index, cause })
}
