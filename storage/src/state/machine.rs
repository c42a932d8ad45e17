//! The state machine: what the committed log means.
//!
//! Applying is deterministic: the same entries give the same rows, revisions, outcomes and hash on every node, however they are
//! grouped into runs. No clock, no randomness and no limit of this node's configuration takes part; limits are enforced before
//! a command enters the log, or lie in the log with it.
//!
//! Revisions count as in etcd: an empty state is at revision 1, every command that changes something takes the next one, and a
//! command that changes nothing (its condition does not hold, there is nothing or too much to delete, it makes no sense) takes none.
//!
//! After an error from [`apply`](StateMachine::apply), nothing more is applied: part of the batch may or may not be written, and
//! only a restart finds out.
//!
//! The membership is part of the state: what a committed membership entry carries is kept as it came, so that snapshots bring it along
//! and a node that starts knows who it works with before it has heard anybody.
//!
//! Leases and sessions are kept in memory as well as in rows (`lease.rs`, `session.rs`), and read from the rows when a state is opened, a received
//! snapshot like any other. They end by commands in the log, never by themselves: [`next_expiry_ms`](StateMachine::next_expiry_ms) tells
//! whoever leads when it is time for one.

use super::apply::{Clockwork, DecodedRun, Run, RunBounds};
use super::engine::{Batch, Cursor, Engine, EngineError, Snapshot, Table};
use super::error::{CorruptRow, StateError};
use super::format::{STATE_FORMAT, STATE_FORMAT_OLDEST};
use super::layout::LayoutError;
use super::lease::Leases;
use super::meta::{self, Progress};
use super::outcome::Applied;
use super::reader::StateReader;
use super::rocks::{RocksEngine, RocksStatistics};
use super::session::Sessions;
use bytes::Bytes;
use raft::{Entry, LogPosition, Membership};
use std::path::Path;

/// What a new state starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// The cluster's name: a state of another one is refused.
    pub cluster: String,
    /// The members the group starts with; empty on a node that joins a group later. Only for a new state, and only until the
    /// first membership entry is applied: from then on the state knows.
    pub membership: Membership,
}

/// The state machine on an engine.
#[derive(Debug)]
pub struct StateMachine<E: Engine = RocksEngine> {
    reader: StateReader<E>,
    cluster: String,
    membership: Membership,
    progress: Progress,
    clockwork: Clockwork,
    leases: Leases,
    sessions: Sessions,
    /// The newest format that this node is to know.
    format_max: u32,
    bounds: RunBounds,
    failed: bool,
}

impl<E: Engine> StateMachine<E> {
    /// Opens the state in `engine`. An empty engine is set up from `bootstrap`, durably; one with another cluster's state is
    /// refused.
    pub fn open(engine: E, bootstrap: &Bootstrap) -> Result<StateMachine<E>, StateError> {
        match StateMachine::load(engine)? {
            Loaded::State(machine) if machine.cluster != bootstrap.cluster => {
                Err(StateError::OtherCluster { expected: bootstrap.cluster.clone(), found: machine.cluster })
            }
            Loaded::State(machine) => Ok(*machine),
            Loaded::Nothing(engine) => {
                set_up(&engine, bootstrap)?;
                let clockwork = Clockwork { format: STATE_FORMAT_OLDEST, time_ms: 0, compacted: 0 };
                Ok(StateMachine {
                    reader: StateReader::new(engine, Progress::EMPTY.revision, clockwork),
                    cluster: bootstrap.cluster.clone(),
                    membership: bootstrap.membership.clone(),
                    progress: Progress::EMPTY,
                    clockwork,
                    leases: Leases::new(),
                    sessions: Sessions::new(),
                    format_max: STATE_FORMAT,
                    bounds: RunBounds::default(),
                    failed: false,
                })
            }
        }
    }

    /// Opens the state in `engine` as it is, whatever cluster's it is, without writing anything.
    pub fn open_existing(engine: E) -> Result<StateMachine<E>, StateError> {
        match StateMachine::load(engine)? {
            Loaded::State(machine) => Ok(*machine),
            Loaded::Nothing(_) => Err(StateError::Empty),
        }
    }

    /// The last entry applied. Not necessarily durable: see [`flushed`](StateMachine::flushed).
    #[must_use]
    pub fn applied(&self) -> LogPosition {
        self.progress.applied
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.progress.revision
    }

    /// The hash over everything applied, chained entry by entry. Equal on all nodes at the same applied index.
    #[must_use]
    pub fn state_hash(&self) -> [u8; 16] {
        self.progress.state_hash
    }

    /// The committed membership as of [`applied`](StateMachine::applied): the newest one applied, or else the one the state was set up with.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The format in effect: see [`STATE_FORMAT`].
    #[must_use]
    pub fn format(&self) -> u32 {
        self.clockwork.format
    }

    /// The cluster's time in milliseconds since 1970: the greatest that any batch applied carried. Zero before the first.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.clockwork.time_ms
    }

    /// The earliest moment, in milliseconds of the cluster's time, at which a lease or a session is due: time for
    /// [`Command::Expire`](crate::command::Command::Expire). `None`: there is neither.
    #[must_use]
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.leases.next_end_ms().into_iter().chain(self.sessions.next_end_ms()).min()
    }

    /// The newest format that this node is to know.
    #[must_use]
    pub fn format_max(&self) -> u32 {
        self.format_max
    }

    /// Holds the node back: it is to know no format above `format_max`, as a program that is older than this one.
    ///
    /// # Errors
    ///
    /// The state has a newer one in effect.
    pub fn hold_format(&mut self, format_max: u32) -> Result<(), StateError> {
        if self.clockwork.format > format_max {
            return Err(StateError::UnknownFormat { found: self.clockwork.format, known: format_max });
        }
        self.format_max = format_max;
        Ok(())
    }

    /// How much memory the runs to come may take for what they find.
    pub fn bound_runs(&mut self, bounds: RunBounds) {
        self.bounds = bounds;
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// A reader, for any thread.
    #[must_use]
    pub fn reader(&self) -> StateReader<E> {
        self.reader.clone()
    }

    /// Applies committed entries, and appends what became of each to `outcomes`, in as many runs as [`apply_run`](StateMachine::apply_run) makes of them.
    ///
    /// On an error nothing is appended, and nothing will be applied any more.
    ///
    /// # Panics
    ///
    /// If the entries do not follow on what is applied: a gap in the log is a bug, and what comes after it must not be applied.
    pub fn apply(&mut self, entries: &[Entry], outcomes: &mut Vec<Applied>) -> Result<(), StateError> {
        let before = outcomes.len();
        while let rest = &entries[outcomes.len() - before..]
            && !rest.is_empty()
        {
            self.apply_run(rest, outcomes).inspect_err(|_| outcomes.truncate(before))?;
        }
        Ok(())
    }

    /// Applies the first of committed entries in one batch, at least one of them and as many as their answers and what they find leave memory for, and appends what became of each
    /// to `outcomes`. Readers see all of them or none.
    ///
    /// On an error nothing is appended, and nothing will be applied any more.
    ///
    /// # Panics
    ///
    /// If there are none, or they do not follow on what is applied: a gap in the log is a bug, and what comes after it must not be applied.
    pub fn apply_run(&mut self, entries: &[Entry], outcomes: &mut Vec<Applied>) -> Result<(), StateError> {
        assert!(!entries.is_empty(), "a run of no entries");
        if self.failed {
            return Err(StateError::FailedBefore);
        }
        self.assert_entries_follow(entries);
        let outcomes_before = outcomes.len();
        match self.write_run(entries, outcomes) {
            Ok((progress, membership)) => {
                assert!(
                    progress.revision >= self.progress.revision,
                    "revision went back from {} to {}",
                    self.progress.revision,
                    progress.revision
                );
                self.progress = progress;
                if let Some(membership) = membership {
                    self.membership = membership;
                }
                self.reader.publish(progress.revision);
                self.reader.publish_time(self.clockwork.time_ms);
                Ok(())
            }
            Err(error) => {
                outcomes.truncate(outcomes_before);
                self.failed = true;
                Err(error)
            }
        }
    }

    /// The last entry whose effects are durable. The log may be truncated up to here and no further.
    pub fn flushed(&self) -> Result<LogPosition, StateError> {
        self.reader.flushed()
    }

    /// Makes everything applied durable; with `wait` false, only starts to. See [`StateReader::flush`] for doing it from
    /// another thread.
    pub fn flush(&mut self, wait: bool) -> Result<(), StateError> {
        self.reader.flush(wait)
    }

    fn write_run(
        &mut self,
        entries: &[Entry],
        outcomes: &mut Vec<Applied>,
    ) -> Result<(Progress, Option<Membership>), StateError> {
        let StateMachine { reader, progress, clockwork, leases, sessions, format_max, bounds, .. } = self;
        let decoded = DecodedRun::decode(entries, *format_max)?;
        let mut run = Run::start(reader.engine(), *progress, *clockwork, leases, sessions, *bounds, &decoded)?;
        run.apply(&decoded, |position, results| outcomes.push(Applied { index: position.index, results }))?;
        *clockwork = run.clockwork();
        // Before the row can become durable, and with it what is dead be dropped: no reader must take a hole for what there was.
        reader.publish_compacted(clockwork.compacted);
        Ok(run.finish()?)
    }

    fn assert_entries_follow(&self, entries: &[Entry]) {
        let mut before = self.progress.applied;
        for entry in entries {
            let position = entry.position();
            assert!(
                position.index == before.index.next() && position.term >= before.term,
                "entry {position} does not follow on entry {before}"
            );
            before = position;
        }
    }

    fn load(engine: E) -> Result<Loaded<E>, StateError> {
        let Some(format) = engine.load(Table::Meta, meta::FORMAT)? else {
            return match first_table_with_rows(&engine)? {
                None => Ok(Loaded::Nothing(engine)),
                Some(table) => Err(StateError::DescriptionMissing { table }),
            };
        };
        let format = meta::decode_format(&format)?;
        if !(STATE_FORMAT_OLDEST..=STATE_FORMAT).contains(&format) {
            return Err(StateError::UnknownFormat { found: format, known: STATE_FORMAT });
        }
        let time_ms = engine.load(Table::Meta, meta::TIME)?.map_or(Ok(0), |row| meta::decode_time(&row))?;
        let compacted = meta::decode_u64(meta::COMPACTED, &row(&engine, meta::COMPACTED)?)?;
        let clockwork = Clockwork { format, time_ms, compacted };
        let progress = Progress::decode(&row(&engine, meta::PROGRESS)?)?;
        let membership = match engine.load(Table::Meta, meta::MEMBERSHIP)? {
            Some(applied) => meta::decode_membership(meta::MEMBERSHIP, &applied)?,
            None => meta::decode_membership(meta::BOOTSTRAP, &row(&engine, meta::BOOTSTRAP)?)?,
        };
        let cluster = meta::decode_cluster(&row(&engine, meta::CLUSTER)?)?;
        let (leases, sessions) = (Leases::load(&engine)?, Sessions::load(&engine)?);
        Ok(Loaded::State(Box::new(StateMachine {
            reader: StateReader::new(engine, progress.revision, clockwork),
            cluster,
            membership,
            progress,
            clockwork,
            leases,
            sessions,
            format_max: STATE_FORMAT,
            bounds: RunBounds::default(),
            failed: false,
        })))
    }
}

impl StateMachine<RocksEngine> {
    /// Writes the state into `directory`: see [`StateReader::checkpoint`].
    pub fn checkpoint(&self, directory: &Path) -> Result<LogPosition, StateError> {
        self.reader.checkpoint(directory)
    }

    /// How the database is doing.
    pub fn statistics(&self) -> Result<RocksStatistics, EngineError> {
        self.reader.statistics()
    }
}

enum Loaded<E: Engine> {
    State(Box<StateMachine<E>>),
    Nothing(E),
}

/// Writes what a new state starts with, durably.
fn set_up<E: Engine>(engine: &E, bootstrap: &Bootstrap) -> Result<(), EngineError> {
    let mut batch = engine.batch(1024);
    batch.put(Table::Meta, meta::FORMAT, &STATE_FORMAT_OLDEST.to_be_bytes());
    batch.put(Table::Meta, meta::CLUSTER, bootstrap.cluster.as_bytes());
    batch.put(Table::Meta, meta::BOOTSTRAP, &bootstrap.membership.encode());
    batch.put(Table::Meta, meta::PROGRESS, &Progress::EMPTY.encode());
    batch.put(Table::Meta, meta::COMPACTED, &0u64.to_be_bytes());
    engine.write(batch)?;
    engine.flush(true)
}

fn row<E: Engine>(engine: &E, key: &[u8]) -> Result<Bytes, StateError> {
    let row = engine.load(Table::Meta, key)?;
    Ok(row.ok_or_else(|| CorruptRow::new(Table::Meta, key, LayoutError::Missing))?)
}

fn first_table_with_rows<E: Engine>(engine: &E) -> Result<Option<Table>, EngineError> {
    let snapshot = engine.snapshot();
    for table in Table::ALL {
        let mut cursor = snapshot.cursor(table, b"", None);
        cursor.seek_first();
        if cursor.item().is_some() {
            return Ok(Some(table));
        }
        cursor.check()?;
    }
    Ok(None)
}
