//! The MVCC state machine: etcd's data model on an ordered key-value engine.
//!
//! Every command that changes something takes the next *revision*. A key has the revision at which it came to be
//! (`create_revision`), the one at which it was last written (`mod_revision`), and a count of its writes (`version`), which starts
//! anew after a delete. What is overwritten or deleted stays readable at its revisions until it is compacted.
//!
//! | file | what it knows |
//! |---|---|
//! | `engine` | what the state machine needs of an ordered key-value engine; `rocks` and `memory` provide it |
//! | `layout`, `meta` | the bytes of keys and values |
//! | `machine`, `apply` | what committed entries do |
//! | `lease`, `session`, `answer` | leases, sessions, and the answers that sessions keep |
//! | `reader`, `walk`, `scan` | reading at any revision, while entries are applied |
//! | `hold` | keeping what a scan has still to read, though a compaction overtakes it |
//! | `range` | what is read of a range: filters, order, limit, count |
//! | `reclaim` | what compaction has made dead, and giving its space back |
//! | `changes` | what happened in a revision, for watches |
//! | `store` | the directory: which database is the current one, and switching to another |
//!
//! Invariants:
//!
//! - A key is in `current` if and only if it exists at the newest revision. Its history rows do not overlap: each holds what the
//!   key held from its mod revision up to, and not including, the revision in the row's key.
//! - Every change is in `changes` once, at its revision, deletes included.
//! - All rows of an entry and the position of that entry become visible, and durable, together. Only rows of `history` may be there before, of a revision that is still to come.
//! - `current` alone answers reads of the newest revision, so they cost the same however long a key's history is.
//!
//! - Compaction is a revision C: rows of `history` superseded at or before C, and rows of `changes` before C, are dead, each by its own key. They are
//!   dropped in the background, at each node's own pace, and only once C is durable and no scan holds what is before it.
//!
//! `docs/decisions/0003-mvcc-layout.md` gives the reasons, `docs/formats.md` the bytes.

mod answer;
mod apply;
mod changes;
mod durable;
mod engine;
mod error;
mod format;
mod hold;
mod layout;
mod lease;
mod machine;
mod memory;
mod meta;
mod outcome;
mod range;
mod reader;
mod reclaim;
mod rocks;
mod scan;
mod session;
mod store;
mod walk;

pub use apply::RunBounds;
pub use changes::{Change, ChangePosition, Changes, Interest, PartBounds};
pub(crate) use durable::{read_sealed, seal, sync_directory, write_durably};
pub use engine::{Batch, Cursor, Engine, EngineError, Snapshot, Table};
pub use error::{CorruptRow, ReadError, StateError};
pub use format::{FORMAT_WITH_TIME, FORMAT_WITH_TRANSACTIONS, STATE_FORMAT, STATE_FORMAT_OLDEST};
pub use hold::HOLD_TIME_MAX;
pub use layout::{KeyValue, LayoutError};
pub use lease::LeaseStatus;
pub use machine::{Bootstrap, StateMachine};
pub use memory::{MemoryBatch, MemoryCursor, MemoryEngine, MemorySnapshot};
pub use outcome::{Applied, CommandOutcome, OperationOutcome, RangeOutcome, TransactionOutcome};
pub use range::{Offered, RangeSelection, RevisionFilter, SelectionTooLarge};
pub use reader::{LeaseWithKeys, StateReader};
pub use reclaim::{Reclaimed, Reclaimer};
pub use rocks::{RocksBatch, RocksCursor, RocksEngine, RocksOptions, RocksSnapshot, RocksStatistics};
pub use scan::{Scan, ScanOptions};
pub use store::{IncomingState, StateStore, StoreError};
