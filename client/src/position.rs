//! Where a watch is: what its next reply may hold, and from where it is taken up again. Without I/O: the watch's task runs on it, and the simulator's
//! watchers do.

use crate::value::header;
use crate::watch::{WatchBatch, WatchEvent};
use transport::proto::client as wire;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchPosition {
    /// The first revision that has not come as a whole.
    next: u64,
}

impl WatchPosition {
    /// The first revision that has not come as a whole is `next`.
    #[must_use]
    pub fn new(next: u64) -> WatchPosition {
        WatchPosition { next }
    }

    /// The first revision that has not come as a whole.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// What a reply says. `None` if it makes no sense here: events of revisions that have come already or that it does not cover, or out of order. Then
    /// the position stays.
    pub fn take(&mut self, reply: wire::WatchReply) -> Option<WatchBatch> {
        let (through, _) = header(reply.header);
        let events: Vec<WatchEvent> = reply.events.into_iter().map(WatchEvent::from_wire).collect();
        let is_expected = |event: &WatchEvent| (self.next..=through).contains(&event.revision());
        if !events.iter().all(is_expected) || !events.is_sorted_by_key(WatchEvent::revision) {
            return None;
        }
        self.next = self.next.max(through.checked_add(1)?);
        Some(WatchBatch { revision: self.next - 1, events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(through: u64, revisions: &[u64]) -> wire::WatchReply {
        let event = |revision: &u64| wire::WatchEvent {
            kv: Some(wire::KeyValue { mod_revision: *revision, ..wire::KeyValue::default() }),
            ..wire::WatchEvent::default()
        };
        let header = Some(wire::Header { revision: through, index: 0 });
        wire::WatchReply { header, events: revisions.iter().map(event).collect(), part: false }
    }

    #[test]
    fn a_reply_moves_it_behind_what_it_covers_and_never_back() {
        let mut position = WatchPosition::new(5);
        assert_eq!(position.take(reply(9, &[5, 5, 8])).map(|batch| (batch.revision, batch.events.len())), Some((9, 3)));
        assert_eq!(position.next(), 10);
        // A node that is behind says how far it is.
        assert_eq!(position.take(reply(7, &[])).map(|batch| batch.revision), Some(9));
        assert_eq!(position.next(), 10);
    }

    #[test]
    fn what_makes_no_sense_leaves_it_where_it_is() {
        let mut position = WatchPosition::new(5);
        for nonsense in [reply(9, &[4]), reply(9, &[10]), reply(9, &[7, 6]), reply(u64::MAX, &[])] {
            assert_eq!(position.take(nonsense), None);
            assert_eq!(position.next(), 5);
        }
    }
}
