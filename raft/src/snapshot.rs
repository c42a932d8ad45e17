//! Receiving a snapshot: a follower whose missing entries are compacted away at the leader (Raft §7).
//!
//! ```text
//!   offer ──▶ fetching ──▶ fetched ──▶ installing ──▶ installed
//!                └─ failed: the leader offers again
//! ```
//!
//! One snapshot is fetched at a time and one is installed at a time. While one is being installed the log stands still:
//! appends are answered with what is durable and not taken, the node does not campaign, and nothing is handed out for
//! applying. If the log holds the snapshot's last entry, the entries after it stay; otherwise the whole log goes, because
//! what follows could conflict with it (scenario 27).

use crate::{InstallSnapshot, LogPosition, Membership};

/// The snapshot under way, if any: see the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct SnapshotReceiver {
    fetching: bool,
    installing: Option<(InstallSnapshot, Membership)>,
}

impl SnapshotReceiver {
    /// Whether the log stands still because a snapshot takes its place.
    pub(crate) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Starts to fetch one, unless one is under way.
    pub(crate) fn start_fetching(&mut self) -> bool {
        let start = !self.fetching && self.installing.is_none();
        self.fetching |= start;
        start
    }

    /// The fetch ended, one way or the other.
    pub(crate) fn fetch_ended(&mut self) {
        assert!(self.fetching, "a snapshot arrived that was not asked for");
        self.fetching = false;
    }

    /// The fetched one takes the log's place.
    pub(crate) fn install(&mut self, install: InstallSnapshot, membership: Membership) {
        assert!(self.installing.is_none(), "{install:?} while {:?} is being installed", self.installing);
        self.installing = Some((install, membership));
    }

    /// It has taken the log's place.
    pub(crate) fn installed(&mut self, position: LogPosition) -> (InstallSnapshot, Membership) {
        let (install, membership) = self.installing.take().expect("a snapshot was installed that was not ordered");
        assert_eq!(install.position, position, "another snapshot was installed than was ordered");
        (install, membership)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogIndex, Term};

    /// Scenario 24.
    #[test]
    fn one_snapshot_at_a_time() {
        let mut receiver = SnapshotReceiver::default();
        assert!(receiver.start_fetching());
        assert!(!receiver.start_fetching());
        receiver.fetch_ended();
        let position = LogPosition { term: Term(1), index: LogIndex(5) };
        receiver.install(InstallSnapshot { position, keep_suffix: false }, Membership::default());
        assert!(!receiver.start_fetching());
        assert!(receiver.is_installing());
        receiver.installed(position);
        assert!(receiver.start_fetching());
    }
}
