//! Rolling upgrades: programs that know one format less, and the way back to them.
//!
//! In a run with upgrades the nodes begin with the older program. At some starts an operator has put another program in place, mostly the newer
//! one. Before the format is raised any mixture must work, in both directions. After it the older program must refuse, change nothing, and the
//! newer one must go on.

use crate::faults::FaultKind;
use crate::world::{Phase, World};
use raftkv::{FatalError, InstallError};
use storage::state::{STATE_FORMAT, StateError};

/// What the older program knows.
pub(crate) const OLDER: u32 = STATE_FORMAT - 1;

impl World {
    fn upgrades_are_on(&self) -> bool {
        self.settings.faults.is_on(FaultKind::Upgrades)
    }

    /// At the beginning nobody has been upgraded.
    pub(crate) fn begin_with_the_older_program(&mut self) {
        if self.upgrades_are_on() {
            for node in &mut self.nodes {
                node.format_max = OLDER;
            }
        }
    }

    /// A node is about to start: perhaps with another program than before.
    pub(crate) fn change_program(&mut self, node: usize) {
        if !self.upgrades_are_on() {
            return;
        }
        if self.phase != Phase::Faulty {
            return self.install_newest(node);
        }
        match self.random.below(10) {
            0..=3 => self.install_newest(node),
            4 if self.nodes[node].format_max > OLDER => {
                self.counters.count("upgrade: back to the older program");
                self.say(format_args!("node {}: gets the older program again", node + 1));
                self.nodes[node].format_max = OLDER;
            }
            _ => {}
        }
    }

    pub(crate) fn install_newest(&mut self, node: usize) {
        if self.nodes[node].format_max < STATE_FORMAT {
            self.counters.count("upgrade: a node gets the newer program");
            self.say(format_args!("node {}: gets the newer program", node + 1));
            self.nodes[node].format_max = STATE_FORMAT;
        }
    }

    /// The next node to be upgraded is restarted in order.
    pub(crate) fn upgrade(&mut self) {
        let older: Vec<usize> = self.nodes_here().filter(|node| self.nodes[*node].format_max < STATE_FORMAT).collect();
        if !older.is_empty() {
            let node = *self.random.pick(&older);
            self.install_newest(node);
            self.kill_if_up(node, false);
        }
    }

    /// Whether a node stops because its program does not know a format that the others use. Then it gets the newer one.
    pub(crate) fn is_too_old(&mut self, node: usize, error: &FatalError) -> bool {
        let unknown = match error {
            FatalError::State(error) | FatalError::Install(InstallError::Format(error)) => {
                matches!(error, StateError::UnknownFormat { .. })
            }
            FatalError::Install(_)
            | FatalError::Log(_)
            | FatalError::Marker { .. }
            | FatalError::Removed { .. }
            | FatalError::Panicked { .. } => false,
        };
        if unknown {
            assert!(self.nodes[node].format_max < STATE_FORMAT, "node {}: the newest program is too old", node + 1);
            self.counters.count("upgrade: an older program stopped at a newer format");
            self.install_newest(node);
        }
        unknown
    }
}
