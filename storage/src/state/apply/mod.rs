//! Applying a run of log entries: one batch for all of them, but for history that is too much for one (`rows`).
//!
//! Later commands must see what earlier ones of the same run wrote, but the engine shows a batch only once it is written. So a run
//! starts by loading what every single-key command of it will touch, in one go, into an *overlay*; commands on ranges add what they
//! find. From then on the overlay is the truth and the engine what the overlay does not know. Leases and sessions are in memory as a whole.
//!
//! | file | what it knows |
//! |---|---|
//! | `mod` | the way of a run, and which command is whose |
//! | `decoded` | a run before anything of it is applied |
//! | `overlay` | what a run knows of keys |
//! | `change` | changes of keys: staged, made, taken back |
//! | `rows` | rows, into the batch and into the hash |
//! | `data`, `transaction`, `range`, `leases`, `sessions` | the commands |
//!
//! What is neither data nor membership, the format in effect, the cluster's time and the oldest revision that can be read, is carried along in
//! [`Clockwork`] and written when it changes. A command's *now* is the cluster's time: the greatest that any batch has carried. So one that comes in a batch
//! without a time, which no leader proposes in format 4, comes at the same moment as what was before it.
//!
//! A membership entry replaces the row `membership` as a whole: memberships are complete, not differences.
//!
//! The hash is chained per entry, over the hash before it, the entry's position and the bytes of every mutation, the overwritten
//! values included. It does not depend on how entries are grouped into runs, and a node whose stored values differ finds out
//! when they are overwritten at the latest.
//!
//! Memory: what a run loads and what it moves to history is in memory up to [`RunBounds`], however much that is. What it takes beyond are its entries, what it learns of ranges, and
//! values that it returns or puts again: after so much of these it ends, with the entry under way. Who lays commands into one entry has to see to it that these are
//! few ([`values_held`](crate::command::Command::values_held)).

mod change;
mod data;
mod decoded;
mod leases;
mod overlay;
mod range;
mod rows;
mod sessions;
mod transaction;

pub(super) use decoded::DecodedRun;

use super::engine::{Batch, Engine, EngineError, Table};
use super::error::{CorruptRow, StateError};
use super::layout::RecordHeader;
use super::lease::Leases;
use super::meta::{self, Progress};
use super::outcome::CommandOutcome;
use super::session::Sessions;
use crate::command::{BatchItem, Command, InvalidCommand};
use change::{Change, Stop};
use decoded::DecodedEntry;
use overlay::{BytesAtHand, Overlay, Superseded};
use raft::{LogPosition, Membership};
use rows::Writer;
use std::borrow::Cow;

/// Keys that are loaded at a time: the engine gives all their values, which may be long, at once.
const LOADED_TOGETHER: usize = 16;

/// How much of what it finds a run has in memory. Nothing else depends on it: not the rows, not the outcomes, not the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunBounds {
    /// Bytes of records that are loaded once and held; others are read again where they are needed.
    pub held_bytes_max: usize,
    /// Bytes of history that are written at a time.
    pub history_bytes_max: usize,
    /// Bytes that a run returns, puts again or learns of ranges, after which it ends with the entry under way.
    pub kept_bytes_max: usize,
}

impl Default for RunBounds {
    /// 16 MiB held, 8 MiB of history, 8 MiB kept.
    fn default() -> RunBounds {
        RunBounds { held_bytes_max: 16 << 20, history_bytes_max: 8 << 20, kept_bytes_max: 8 << 20 }
    }
}

/// About what a command costs in the batch beyond its payload: keys written three times, headers, revisions.
const BATCH_BYTES_PER_COMMAND: usize = 192;

/// What every node agrees on beside data and membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clockwork {
    /// The format in effect.
    pub(crate) format: u32,
    /// The cluster's time in milliseconds since 1970: the greatest of any batch; zero before the first.
    pub(crate) time_ms: u64,
    /// The oldest revision that can be read; zero: all can.
    pub(crate) compacted: u64,
}

/// A run under way.
pub(crate) struct Run<'a, E: Engine> {
    engine: &'a E,
    progress: Progress,
    /// The newest revision before the run: what the engine shows.
    revision_before: u64,
    clockwork: Clockwork,
    overlay: Overlay<'a>,
    /// Only in a run that reads history.
    superseded: Option<Superseded<'a>>,
    /// What the command under way has changed.
    changes: Vec<Change<'a>>,
    /// Bytes that it returns or puts again.
    kept_bytes: usize,
    kept_bytes_max: usize,
    /// The last membership that it has applied.
    membership: Option<Membership>,
    leases: &'a mut Leases,
    sessions: &'a mut Sessions,
    writer: Writer<'a, E>,
}

impl<'a, E: Engine> Run<'a, E> {
    /// Loads what the commands will touch. Whoever gives up a run that has begun must not use leases and sessions any more.
    pub(crate) fn start(
        engine: &'a E,
        progress: Progress,
        clockwork: Clockwork,
        leases: &'a mut Leases,
        sessions: &'a mut Sessions,
        bounds: RunBounds,
        run: &DecodedRun<'a>,
    ) -> Result<Run<'a, E>, StateError> {
        let bytes_hint = run.payload_bytes + run.commands.len() * BATCH_BYTES_PER_COMMAND;
        let mut started = Run {
            engine,
            progress,
            revision_before: progress.revision,
            clockwork,
            overlay: Overlay::new(bounds.held_bytes_max),
            superseded: run.reads_history().then(Superseded::new),
            changes: Vec::new(),
            kept_bytes: 0,
            kept_bytes_max: bounds.kept_bytes_max,
            membership: None,
            leases,
            sessions,
            writer: Writer::new(engine, bytes_hint, bounds.history_bytes_max),
        };
        started.load(&run.keys(), |overlay, key, record| overlay.load(Cow::Borrowed(key), record))?;
        Ok(started)
    }

    /// Finds keys, ascending, distinct and not known, for the overlay to take in.
    fn load<'k>(
        &mut self,
        keys: &[&'k [u8]],
        mut take_in: impl FnMut(&mut Overlay<'a>, &'k [u8], Option<BytesAtHand<'_>>) -> Result<(), CorruptRow>,
    ) -> Result<(), StateError> {
        for keys in keys.chunks(LOADED_TOGETHER) {
            let records = match keys {
                [key] => vec![self.engine.load(Table::Current, key)?],
                _ => self.engine.load_many(Table::Current, keys)?,
            };
            assert_eq!(records.len(), keys.len(), "the engine answered for another number of keys than asked");
            for (key, record) in keys.iter().zip(records) {
                take_in(&mut self.overlay, key, record.map(BytesAtHand::Shared))?;
            }
        }
        Ok(())
    }

    /// Applies entry after entry, at least one and as many as fit, and hands out the outcomes of each.
    pub(crate) fn apply(
        &mut self,
        run: &DecodedRun<'a>,
        mut outcome: impl FnMut(LogPosition, Vec<CommandOutcome>),
    ) -> Result<(), StateError> {
        let (mut first, mut is_full) = (0, false);
        for DecodedEntry { position, commands_end, membership, time_ms } in &run.entries {
            if is_full {
                break;
            }
            self.writer.start_entry(&self.progress.state_hash, *position);
            if let Some(time_ms) = time_ms.filter(|time_ms| *time_ms > self.clockwork.time_ms) {
                self.clockwork.time_ms = time_ms;
                self.writer.meta(meta::TIME, &time_ms.to_be_bytes());
            }
            if let Some((encoded, membership)) = membership {
                self.writer.membership(encoded);
                self.membership = Some(membership.clone());
            }
            let commands = &run.commands[first..*commands_end];
            let mut results = Vec::with_capacity(commands.len());
            for command in commands {
                let outcome = self.item(command)?;
                self.kept_bytes += outcome.returned_bytes();
                results.push(outcome);
            }
            first = *commands_end;
            self.progress.applied = *position;
            self.progress.state_hash = self.writer.hash();
            is_full = self.kept_bytes + self.overlay.learned_bytes() >= self.kept_bytes_max;
            outcome(*position, results);
        }
        Ok(())
    }

    /// What is so after the run, beside data and membership.
    pub(crate) fn clockwork(&self) -> Clockwork {
        self.clockwork
    }

    /// Writes everything, together with how far it brings the state. The membership after it, if it has changed.
    pub(crate) fn finish(self) -> Result<(Progress, Option<Membership>), EngineError> {
        let Run { progress, membership, leases, sessions, mut writer, .. } = self;
        leases.write(&mut writer.batch);
        sessions.write(&mut writer.batch);
        writer.batch.put(Table::Meta, meta::PROGRESS, &progress.encode());
        writer.finish()?;
        Ok((progress, membership))
    }

    fn item(&mut self, item: &Result<BatchItem<'a>, InvalidCommand>) -> Result<CommandOutcome, StateError> {
        match item {
            Ok(BatchItem { session: Some(call), command }) => self.call(*call, command),
            Ok(BatchItem { session: None, command }) => self.carry_out(command),
            Err(reason) => Ok(CommandOutcome::Invalid { reason: *reason }),
        }
    }

    /// Carries a command out, as a whole or not at all.
    fn carry_out(&mut self, command: &Command<'a>) -> Result<CommandOutcome, StateError> {
        match self.stage_command(command) {
            Ok(outcome) => {
                self.commit()?;
                Ok(outcome)
            }
            Err(Stop::Refused(outcome)) => {
                self.roll_back();
                Ok(*outcome)
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn stage_command(&mut self, command: &Command<'a>) -> Result<CommandOutcome, Stop> {
        match command {
            Command::Put(put) => self.put(put),
            Command::DeleteRange { range, limits, previous } => self.delete(*range, *limits, *previous),
            Command::RaiseFormat { to } => Ok(self.raise_format(*to)),
            Command::Transaction { transaction, limits } => self.transaction(transaction, *limits),
            Command::GrantLease { id, ttl_ms, limits } => self.grant_lease(*id, *ttl_ms, *limits),
            Command::KeepLeaseAlive { id } => self.keep_lease_alive(*id),
            Command::RevokeLease { id } => self.revoke_lease(*id),
            Command::Expire { leases_max, sessions_max, keys_max } => {
                Ok(self.expire(*leases_max, *sessions_max, *keys_max)?)
            }
            Command::Compact { revision } => Ok(self.compact(*revision)),
            Command::OpenSession { ttl_ms, sessions_max, answers_max } => {
                self.open_session(*ttl_ms, *sessions_max, *answers_max)
            }
            Command::CloseSession { id } => Ok(self.close_session(*id)),
        }
    }

    fn raise_format(&mut self, to: u32) -> CommandOutcome {
        // One step at a time. A leader that did not know of an earlier raise may ask for it again.
        if to == self.clockwork.format + 1 {
            self.clockwork.format = to;
            self.writer.meta(meta::FORMAT, &to.to_be_bytes());
        }
        CommandOutcome::FormatRaised { format: self.clockwork.format }
    }
}
