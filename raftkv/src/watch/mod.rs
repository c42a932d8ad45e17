//! Watches: telling clients what was applied, in order, once, and never part of a revision.
//!
//! ```text
//!  apply thread ──bell──▶ thread "watches" ──events──▶ table ◀──step── one task for each watcher ──▶ its stream
//!                              │                                            │
//!                        changes, values                              older changes
//!                              ▼                                            ▼
//!                            state                                        state
//! ```
//!
//! | file | what it knows |
//! |---|---|
//! | `table` | where each watcher stands and what it gets next; the ring of recent events |
//! | `interests`, `ranges` | who wants to hear of a key |
//! | `hub` | the table between threads, and the thread that gathers |
//! | `serve` | one watcher's task: its stream, its reads from disk, its progress |
//!
//! The first two lines are free of threads, clocks and I/O. `docs/decisions/0010-watches.md` has the reasons.
//!
//! What is applied is committed, so nothing is told that does not stay. A node tells of its own state: one that is behind tells late, and
//! says nothing about its progress while it hears no leader.

mod hub;
mod interests;
mod ranges;
mod serve;
mod table;

pub(crate) use hub::{WatchBell, WatchHub, run_gatherer};
pub use ranges::WatchedRange;
pub(crate) use serve::{WatchJob, refuse};
pub use serve::{first_revision, watch_event, watch_filter};
pub use table::{Gathered, Step, WatchFilter, WatchTable, WatcherId};
