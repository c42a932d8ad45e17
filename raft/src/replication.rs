//! How a leader's entries reach its peers: appends, heartbeats, offers of snapshots.
//!
//! What is in memory is named by its range and attached by the caller; what is not is read from disk first. A heartbeat is
//! an empty append at a position that the peer is known to hold: it is never refused, it may overtake appends with entries,
//! and it moves the peer's term by the same path as any other append (scenario 3).
//!
//! Every append carries the leader's commit index as it is (Raft Figure 2, AppendEntries). How much of that the peer may take is the peer's
//! to say, which knows what the append covers; and it learns how far the others are, even when it is behind.

use crate::leader::Leader;
use crate::log::well_formed;
use crate::progress::Replication;
use crate::state::Core;
use crate::{Actions, Body, Entry, Load, LogIndex, LogPosition, LogRange, Message, NodeId, Send};
use alloc::vec::Vec;

impl Leader {
    /// Sends everybody what may be sent.
    pub(crate) fn send_all(&mut self, core: &Core, actions: &mut Actions) {
        for position in 0..self.peers.len() {
            let id = self.peers[position].id;
            self.send_to(core, id, actions);
        }
    }

    /// Sends one peer what may be sent: as many appends as fit, or an order to read from disk, or an offer.
    pub(crate) fn send_to(&mut self, core: &Core, to: NodeId, actions: &mut Actions) {
        let read_round = self.read_round;
        let Some(progress) = self.progress_mut(to) else { return };
        while let Some(bytes_max) = progress.allowance(&core.config) {
            let Some(previous) = core.log.position(progress.next.previous()) else {
                progress.need_snapshot();
                self.offer_snapshot(core, to, actions);
                return;
            };
            let (range, bytes) = if progress.next > core.log.last_index() {
                if progress.replication() == Replication::Replicate {
                    return;
                }
                (LogRange::EMPTY, 0)
            } else if progress.next < core.log.cache_first() {
                if !progress.may_load(&core.config) {
                    return;
                }
                let entries = LogRange { first: progress.next, last: core.log.cache_first().previous() };
                progress.load = Some(entries);
                actions.load.push(Load { peer: to, entries, bytes_max });
                return;
            } else {
                core.log.batch(progress.next, bytes_max)
            };
            if !progress.fits(bytes, &core.config) {
                return;
            }
            let last = if range.is_empty() { previous.index } else { range.last };
            progress.sent(last, bytes, core.now);
            progress.told_commit(core.commit, last);
            let body = Body::Append { previous, commit: core.commit, read_round, entries: Vec::new() };
            actions.send.push(Send { to, message: Message { term: core.term(), body }, entries: range });
        }
    }

    /// Entries for a peer have been read from disk. None, or others than asked for: it is tried again at the next heartbeat.
    pub(crate) fn on_loaded(&mut self, core: &Core, to: NodeId, entries: Vec<Entry>, actions: &mut Actions) {
        let read_round = self.read_round;
        let Some(progress) = self.progress_mut(to) else { return };
        let Some(asked) = progress.load else { return };
        if entries.first().is_some_and(|entry| entry.index != asked.first) {
            // The answer to an order that was withdrawn; the one to this order is still to come.
            return;
        }
        let previous = core.log.position(asked.first.previous());
        let usable = previous.filter(|previous| {
            well_formed(*previous, &entries, core.term())
                && entries.iter().all(|entry| core.log.holds(entry.position()))
        });
        let (Some(previous), Some(end)) = (usable, entries.last().map(|entry| entry.index)) else {
            progress.probe_from(asked.first);
            if previous.is_some() {
                progress.wait_for_heartbeat();
            }
            self.send_to(core, to, actions);
            return;
        };
        let bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        if !progress.fits(bytes, &core.config) {
            // A single entry larger than every append. It is read again once everything under way is answered.
            progress.does_not_fit();
            return;
        }
        progress.load = None;
        progress.sent(end, bytes, core.now);
        progress.told_commit(core.commit, end);
        let body = Body::Append { previous, commit: core.commit, read_round, entries };
        core.send(to, body, actions);
        self.send_to(core, to, actions);
    }

    /// Speaks to everybody, repeats what has gone unanswered.
    pub(crate) fn heartbeat_all(&mut self, core: &Core, actions: &mut Actions) {
        for position in 0..self.peers.len() {
            let peer = &mut self.peers[position];
            let (id, progress) = (peer.id, &mut peer.progress);
            progress.stop_waiting();
            if progress.seems_lost(core.now, &core.config) {
                progress.probe_from(progress.matched.next());
            }
            let needs_snapshot = progress.replication() == Replication::Snapshot;
            self.send_heartbeat(core, id, actions);
            if needs_snapshot {
                self.offer_snapshot(core, id, actions);
            } else {
                self.send_to(core, id, actions);
            }
        }
    }

    /// An empty append where the peer is known to hold the entry, or before the first entry.
    pub(crate) fn send_heartbeat(&mut self, core: &Core, to: NodeId, actions: &mut Actions) {
        let read_round = self.read_round;
        let Some(progress) = self.progress_mut(to) else { return };
        let previous = core.log.position(progress.matched).unwrap_or_default();
        progress.told_commit(core.commit, previous.index);
        core.send(to, Body::Append { previous, commit: core.commit, read_round, entries: Vec::new() }, actions);
    }

    /// Begins a read round with one peer: what echoes it was said from now on (thesis §6.4).
    pub(crate) fn ask_in_a_new_round(&mut self, core: &Core, peer: NodeId, actions: &mut Actions) {
        self.read_round += 1;
        self.lease.round_sent(self.read_round, core.now);
        self.send_heartbeat(core, peer, actions);
    }

    /// Tells a peer that has nothing to wait for how far the log is committed. One with appends under way learns it from the
    /// next one.
    pub(crate) fn note_commit(&mut self, core: &Core, to: NodeId, actions: &mut Actions) {
        let Some(progress) = self.progress(to) else { return };
        let is_quiet = progress.replication() == Replication::Replicate
            && progress.is_idle()
            && progress.next > core.log.last_index();
        if is_quiet && progress.commit_told < core.commit.min(progress.matched) {
            self.send_heartbeat(core, to, actions);
        }
    }

    /// Offers a snapshot (Raft §7).
    pub(crate) fn offer_snapshot(&self, core: &Core, to: NodeId, actions: &mut Actions) {
        core.send(to, Body::SnapshotOffer { position: core.log.start() }, actions);
    }

    /// A peer fetched a snapshot from this node, or failed to; then the next heartbeat offers again.
    pub(crate) fn on_snapshot_sent(
        &mut self,
        core: &Core,
        to: NodeId,
        position: Option<LogPosition>,
        actions: &mut Actions,
    ) {
        let Some(progress) = self.progress_mut(to) else { return };
        let start = core.log.start().index;
        let last = core.log.last_index();
        let usable = position.map(|position| position.index).filter(|index| *index >= start && *index <= last);
        if let Some(index) = usable
            && progress.replication() == Replication::Snapshot
        {
            progress.probe_from(index.next());
            // It has yet to switch to it: the first probe comes with the next heartbeat.
            progress.wait_for_heartbeat();
            self.send_heartbeat(core, to, actions);
        }
    }

    /// Messages to a peer were lost: what it holds has to be found out again, no sooner than at the next heartbeat.
    pub(crate) fn on_unreachable(&mut self, to: NodeId) {
        let Some(progress) = self.progress_mut(to) else { return };
        if progress.replication() == Replication::Replicate {
            let matched: LogIndex = progress.matched;
            progress.probe_from(matched.next());
        }
        progress.wait_for_heartbeat();
    }
}
