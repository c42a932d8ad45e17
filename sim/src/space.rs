//! Room and the past: what the space thread of a real node does, on the engine in memory.

use crate::world::{InProcess, World};
use raftkv::FatalError;
use raftkv::driver::{Input, SpaceSample};
use std::time::Duration;
use storage::state::StateError;

/// How often a node looks at its state.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

impl World {
    /// Tells the driver how large the state is, and gives back what compaction has made dead.
    pub(crate) fn look_at_space(&mut self, node: usize) {
        let flushes = self.random.chance(300);
        let process = self.nodes[node].process.as_ref().expect("void in later lives");
        let reader = process.machine.reader();
        let given_back = || -> Result<(), StateError> {
            if reader.compacted_revision() > reader.release()? && flushes {
                // A row may only be dropped for good once it is known for good that it is dead.
                reader.flush(true)?;
                reader.release()?;
            }
            Ok(())
        };
        if let Err(error) = given_back() {
            return self.fail(node, &FatalError::State(error));
        }
        let sample = SpaceSample {
            bytes: reader.engine().bytes(),
            revision: reader.revision(),
            compacted: reader.compacted_revision(),
        };
        self.push(node, Input::Space(sample));
        self.later(node, SAMPLE_INTERVAL, InProcess::Space);
    }
}
