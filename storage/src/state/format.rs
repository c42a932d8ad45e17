//! The format in effect: what the members may write, so that everybody who has to read it can.
//!
//! A feature that changes what is written to the log or the state is switched on only once every member knows it. The row `format` of a state
//! says which features that may be, and it is raised one step at a time by a command in the log ([`Command::RaiseFormat`]), which a
//! leader proposes when all members have said that they know the next format. So the format in effect is the same on every node at the same entry, it is in every
//! snapshot, and it never goes back.
//!
//! A program that does not know a format stops before the command that raises to it, and does not open a state that has it: nothing is
//! changed, and a newer program goes on where it stopped. Until the raise, the way back to the older program is open.
//!
//! | format | adds |
//! |---|---|
//! | 2 | where it begins |
//! | 3 | batches carry the leader's clock, and the state keeps the cluster's time: the greatest of any batch applied |
//! | 4 | transactions, leases, sessions, compaction of history; the cluster's time goes on by the leader's monotonic clock |
//!
//! [`Command::RaiseFormat`]: crate::command::Command::RaiseFormat

/// The oldest format that this program reads, and that a new state starts with.
pub const STATE_FORMAT_OLDEST: u32 = 2;

/// The newest format that this program knows.
pub const STATE_FORMAT: u32 = 4;

/// The format from which on batches carry a time.
pub const FORMAT_WITH_TIME: u32 = 3;

/// The format from which on there are transactions, leases, sessions and compaction.
pub const FORMAT_WITH_TRANSACTIONS: u32 = 4;
