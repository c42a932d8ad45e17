//! Watches that are open at both stores while operations run.
//!
//! What has come is compared when both have told everything: a key of the watch is written and deleted, and that is waited for.

use super::answer::{Coming, Event, Kind};
use super::operation::{Delete, Operation, Put, Range, Watch};
use super::{Both, DEADLINE};

pub struct OpenWatch {
    watch: Watch,
    etcd: Coming,
    raftkv: Coming,
    /// The oldest revision that could be read when it began.
    compacted: u64,
}

impl OpenWatch {
    pub fn new(watch: Watch, etcd: Coming, raftkv: Coming, compacted: u64) -> OpenWatch {
        OpenWatch { watch, etcd, raftkv, compacted }
    }

    /// Compares what has come since the last time. False, if that is that both have ended it, or that it has not begun.
    pub async fn settle(&mut self, both: &mut Both) -> bool {
        let key = self.watch.range.start.clone();
        let put = Put { key: key.clone(), value: Some("settle".into()), lease: Some(0), previous: false };
        let put = both.run(&Operation::Put(put)).await;
        let range = Range { end: Some([&key[..], &[0]].concat().into()), start: key };
        let delete = both.run(&Operation::Delete(Delete { range, previous: false })).await;
        let last = if self.watch.no_deletes { put } else { delete };
        if last < self.watch.from {
            let early = (self.etcd.try_recv().ok(), self.raftkv.try_recv().ok());
            let is_silent = |told: &Option<Result<Vec<Event>, Kind>>| {
                told.as_ref().is_none_or(|told| told.as_ref().is_ok_and(Vec::is_empty))
            };
            assert!(is_silent(&early.0) && is_silent(&early.1), "told before {}: {early:?}", self.watch.from);
            return false;
        }
        let (mut theirs, mut ours) = tokio::join!(through(&mut self.etcd, last), through(&mut self.raftkv, last));
        for told in [&mut theirs, &mut ours] {
            if let Ok(events) = told
                && self.watch.from == self.compacted
            {
                events.retain(|event| !event.deleted || event.pair.mod_revision != self.compacted);
            }
        }
        let (watch, number, seed) = (&self.watch, both.number, both.seed);
        assert!(
            theirs == ours,
            "operation {number} of seed {seed}, {watch:#?}, through {last}:\netcd:   {theirs:#?}\nraftkv: {ours:#?}"
        );
        theirs.is_ok()
    }
}

/// Everything up to and including a revision of which something comes.
async fn through(coming: &mut Coming, last: u64) -> Result<Vec<Event>, Kind> {
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|event| event.pair.mod_revision < last) {
        let more = tokio::time::timeout(DEADLINE, coming.recv()).await;
        let more = more.unwrap_or_else(|_| panic!("nothing more comes, up to {last}: {events:#?}"));
        events.extend(more.expect("a watch that has ended said why")?);
    }
    Ok(events)
}
