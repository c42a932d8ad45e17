//! Watches, held against the changes of the log: every change that is wanted comes, in order, once, and nothing else.

use super::history::pair;
use super::model::{Change, Model};
use bytes::Bytes;
use storage::command::KeyRange;
use transport::proto::client as wire;

/// What a watch wants of the changes from revision `first` on.
fn wanted<'a>(model: &'a Model, request: &'a wire::WatchRequest, first: u64) -> impl Iterator<Item = &'a Change> {
    let from = model.changes.partition_point(|change| change.revision < first);
    let range = request.range.as_ref().expect("every watch of the simulator has a range");
    let range = KeyRange { start: &range.start, end: range.end.as_deref() };
    model.changes[from..].iter().filter(move |change| {
        let is_wanted_kind = if change.now.is_some() { !request.no_puts } else { !request.no_deletes };
        is_wanted_kind && range.contains(&change.key)
    })
}

/// Whether anything is still to come to a watch that has everything before revision `next`.
pub(crate) fn is_owed_more(model: &Model, request: &wire::WatchRequest, next: u64) -> bool {
    wanted(model, request, next).next().is_some()
}

/// Holds a reply to a watch that had everything before revision `first` against the log. Panics with both sides of the contradiction. Returns how many events came with
/// what was there before.
pub(crate) fn check_reply(model: &Model, request: &wire::WatchRequest, first: u64, reply: &wire::WatchReply) -> usize {
    let through = reply.header.map_or(0, |header| header.revision);
    assert!(
        reply.events.is_empty() || through <= model.revision(),
        "a watch is told of revision {through}, which is not committed: {reply:?}"
    );
    let expected: Vec<&Change> =
        wanted(model, request, first).take_while(|change| change.revision <= through).collect();
    let is_same = expected.len() == reply.events.len()
        && expected.iter().zip(&reply.events).all(|(change, event)| tells(model, request, change, event));
    assert!(
        is_same,
        "a watch from revision {first} is told the wrong things: {request:?}\nit was told {reply:?}\nwhat happened is {expected:?}"
    );
    reply.events.iter().filter(|event| event.previous.is_some()).count()
}

fn tells(model: &Model, request: &wire::WatchRequest, change: &Change, event: &wire::WatchEvent) -> bool {
    let Some(kv) = &event.kv else { return false };
    let tells_now = match &change.now {
        Some(now) => !event.deleted && pair(kv) == *now,
        None => {
            event.deleted && (kv.key == change.key && kv.mod_revision == change.revision && kv.value == Bytes::new())
        }
    };
    let tells_before = match (&event.previous, request.previous) {
        // What came before the oldest readable revision is gone.
        (None, true) => change.before.is_none() || change.revision <= model.compacted(),
        (None, false) => true,
        (Some(previous), wants) => wants && change.before.as_ref() == Some(&pair(previous)),
    };
    tells_now && tells_before
}
