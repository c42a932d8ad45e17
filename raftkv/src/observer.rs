//! Events for programs that embed a node.

use raft::{LogIndex, NodeId, Role, Term};

/// Called by the driver, on its own thread, when something happens to the node. Must not block: hand what takes time to a
/// thread of your own. Every method has a default that does nothing.
pub trait Observer: Send {
    /// Role, term or leader changed.
    fn state_changed(&mut self, role: Role, term: Term, leader: Option<NodeId>) {
        let _ = (role, term, leader);
    }

    /// A leader was elected: called once for each term in which this node learns of one.
    fn leader_elected(&mut self, leader: NodeId, term: Term) {
        let _ = (leader, term);
    }

    /// Everything up to `index` is committed. Called at least at the newest index of a run of commits, in ascending order.
    fn committed(&mut self, index: LogIndex) {
        let _ = index;
    }
}

/// An observer that does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
