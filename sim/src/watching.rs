//! Watchers, and nodes that tell them what was applied: the production table, reads and positions. Streams take time, keep their order, and break.
//!
//! A watcher holds every reply against the log as it comes, so a missed event shows with the first reply that covers its revision. One that never comes shows in the
//! end: agreement waits for every watcher to have everything.

use crate::network::Network;
use crate::node::index_of;
use crate::random::Random;
use crate::schedule::Time;
use crate::settings::Settings;
use crate::world::{AtNode, Happening, InProcess, Phase, World};
use bytes::Bytes;
use client::position::WatchPosition;
use raftkv::requests::read_failed;
use raftkv::watch::{Gathered, Step, WatchFilter, WatchTable, WatcherId, first_revision, watch_event, watch_filter};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::state::{ChangePosition, PartBounds, ReadError};
use transport::proto::client as wire;
use wire::ErrorCode;

/// How often a node tells how far a silent watch is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a watcher waits for a word.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How long a watcher waits before it turns to the next node.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// What a step of a watch, or a part of gathering, takes.
const STEP_TIME: (Duration, Duration) = (Duration::from_micros(5), Duration::from_millis(20));
/// What it takes a client that does not keep up to take a batch.
const SLUGGISH_TIME: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(20));

/// A client that watches.
pub(crate) struct Watcher {
    /// Whose links it uses.
    client: usize,
    request: wire::WatchRequest,
    position: WatchPosition,
    /// Names its stream, in the order in which it had them.
    stream: u64,
    node: usize,
    /// The last word on the stream.
    heard: Time,
    /// It does not keep up.
    is_sluggish: bool,
}

impl Watcher {
    pub(crate) fn new(settings: &Settings, random: &mut Random) -> Watcher {
        let key = |random: &mut Random| Bytes::from(format!("k{:02}", random.below(settings.keys)));
        let start = key(random);
        let range = match random.below(4) {
            0 => wire::KeyRange { start: Bytes::new(), end: None },
            1 => wire::KeyRange { end: Some([&start[..], &[0]].concat().into()), start },
            2 => wire::KeyRange { start, end: None },
            _ => wire::KeyRange { start: Bytes::new(), end: Some(start) },
        };
        let only = random.below(6);
        let request = wire::WatchRequest {
            range: Some(range),
            previous: random.chance(500),
            no_puts: only == 0,
            no_deletes: only == 1,
            ..wire::WatchRequest::default()
        };
        Watcher {
            client: random.index(settings.clients),
            request,
            position: WatchPosition::new(random.between(1, 20)),
            stream: 0,
            node: 0,
            heard: Time::START,
            is_sluggish: random.chance(300),
        }
    }
}

/// What may happen to a watcher.
pub(crate) enum AtWatcher {
    /// It turns to a node.
    Begin { stream: u64 },
    /// It looks whether anything came.
    Listen { stream: u64 },
    /// A reply comes, or an error that ends the stream.
    Reply { stream: u64, reply: Result<wire::WatchReply, Box<wire::Error>> },
}

/// The watches of one node, in one of its lives.
pub(crate) struct Watches {
    table: WatchTable<wire::WatchEvent>,
    streams: BTreeMap<WatcherId, Stream>,
    /// A part is being gathered.
    is_gathering: bool,
}

struct Stream {
    watcher: usize,
    number: u64,
    filter: WatchFilter,
    /// A step of it is under way.
    is_busy: bool,
    /// When the last reply arrives: a stream keeps its order.
    arrives: Time,
    /// What has been read of a revision that is read in parts.
    parts: Vec<wire::WatchEvent>,
}

/// What a part of gathering found.
pub(crate) enum Part {
    /// These events, up to a revision.
    Events(u64, Vec<Gathered<wire::WatchEvent>>),
    /// Nothing can be told up to a revision: it is compacted.
    Compacted(u64),
    /// The next revision does not fit the ring.
    TooLarge(u64),
}

impl Watches {
    pub(crate) fn new(revision: u64, settings: &Settings) -> Watches {
        let table = WatchTable::new(revision, settings.watch_ring_bytes);
        Watches { table, streams: BTreeMap::new(), is_gathering: false }
    }
}

impl World {
    pub(crate) fn begin_watches(&mut self) {
        for watcher in 0..self.watchers.len() {
            let delay = self.random.duration(Duration::ZERO, Duration::from_secs(20));
            let what = AtWatcher::Begin { stream: 0 };
            self.schedule.after(delay, Happening::Watcher { watcher, what });
        }
    }

    pub(crate) fn at_watcher(&mut self, watcher: usize, what: AtWatcher) {
        let current = self.watchers[watcher].stream;
        match what {
            AtWatcher::Begin { stream } if stream == current => self.open_stream(watcher),
            AtWatcher::Listen { stream } if stream == current => {
                let silent = self.schedule.now().since(self.watchers[watcher].heard);
                match SILENCE_MAX.checked_sub(silent).filter(|left| !left.is_zero()) {
                    Some(left) => {
                        self.schedule.after(left, Happening::Watcher { watcher, what: AtWatcher::Listen { stream } });
                    }
                    None => {
                        self.counters.count("watch: a stream was silent");
                        self.let_go_of_stream(watcher);
                    }
                }
            }
            AtWatcher::Reply { stream, reply } if stream == current => self.watch_replied(watcher, reply),
            // Of a stream that it has let go of.
            AtWatcher::Begin { .. } | AtWatcher::Listen { .. } | AtWatcher::Reply { .. } => {}
        }
    }

    /// Any node, while there are faults: it may be gone, or not have heard of the group. In the end somebody says who the members are.
    fn node_to_watch_at(&mut self) -> usize {
        if matches!(self.phase, Phase::Agreement(_)) {
            let members: Vec<usize> = self.checks.membership().members().map(index_of).collect();
            *self.random.pick(&members)
        } else {
            self.random.index(self.nodes.len())
        }
    }

    /// The watcher turns to some node.
    fn open_stream(&mut self, watcher: usize) {
        let now = self.schedule.now();
        let node = self.node_to_watch_at();
        let Watcher { client, position, .. } = self.watchers[watcher];
        let delay = self.network.client_delay(client, node).filter(|_| self.nodes[node].process.is_some());
        let state = &mut self.watchers[watcher];
        state.stream += 1;
        (state.node, state.heard) = (node, now);
        let stream = state.stream;
        let Some(delay) = delay else {
            let retry = self.random.duration(RETRY.0, RETRY.1);
            return self.schedule.after(retry, Happening::Watcher { watcher, what: AtWatcher::Begin { stream } });
        };
        let request = wire::WatchRequest { from_revision: Some(position.next()), ..state.request.clone() };
        self.trace
            .line(now, format_args!("watcher {watcher}: asks node {} from revision {}", node + 1, position.next()));
        self.schedule.after(delay * 4, Happening::Node { node, what: AtNode::Watch { watcher, stream, request } });
        self.schedule.after(SILENCE_MAX, Happening::Watcher { watcher, what: AtWatcher::Listen { stream } });
    }

    /// The watcher turns to another node in a while, and the one it was at hears of it if it can be reached.
    fn let_go_of_stream(&mut self, watcher: usize) {
        let Watcher { client, node, .. } = self.watchers[watcher];
        let state = &mut self.watchers[watcher];
        let gone = state.stream;
        state.stream += 1;
        let stream = state.stream;
        if let Some(delay) = self.network.client_delay(client, node) {
            let what = AtNode::Unwatch { watcher, stream: gone };
            self.schedule.after(delay, Happening::Node { node, what });
        }
        let retry = self.random.duration(RETRY.0, RETRY.1);
        self.schedule.after(retry, Happening::Watcher { watcher, what: AtWatcher::Begin { stream } });
    }

    fn watch_replied(&mut self, watcher: usize, reply: Result<wire::WatchReply, Box<wire::Error>>) {
        let now = self.schedule.now();
        let state = &mut self.watchers[watcher];
        if self.network.is_client_cut(state.client, state.node) {
            self.counters.count("watch: a stream broke with a reply on its way");
            return self.let_go_of_stream(watcher);
        }
        state.heard = now;
        let first = state.position.next();
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::Compacted, "a watch is refused: {error:?}");
                let compacted = error.compacted.expect("the error says what can be read");
                self.checks.check_compacted(first, compacted);
                self.counters.count("watch: its next revision was compacted");
                // A program reads what there is at that revision, and goes on from there.
                state.position = WatchPosition::new(compacted);
                return self.let_go_of_stream(watcher);
            }
        };
        let through = reply.header.map_or(0, |header| header.revision);
        self.trace.line(
            now,
            format_args!("watcher {watcher}: told {} events through revision {through}", reply.events.len()),
        );
        self.counters.add("watch: an event told", reply.events.len() as u64);
        let with_previous = self.checks.watch_told(&state.request, first, &reply);
        self.counters.add("watch: an event told with what was there before", with_previous as u64);
        let taken = state.position.take(reply.clone());
        let taken =
            taken.unwrap_or_else(|| panic!("watcher {watcher}, at {first}: a reply that makes no sense: {reply:?}"));
        assert_eq!(taken.events.len(), reply.events.len(), "the library hands out what came");
        if self.phase == Phase::Faulty && self.random.chance(20) {
            self.counters.count("watch: a client let go of its stream");
            self.let_go_of_stream(watcher);
        }
    }

    /// A watch arrives at a node: what the production service does with it.
    pub(crate) fn watch_asked(&mut self, node: usize, watcher: usize, stream: u64, request: &wire::WatchRequest) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let (filter, _) = watch_filter(request).unwrap_or_else(|error| panic!("a good watch is refused: {error:?}"));
        let reader = process.machine.reader();
        let from = match first_revision(request.from_revision, &reader) {
            Ok(from) => from,
            Err(cause) => {
                let what = AtWatcher::Reply { stream, reply: Err(read_failed(&cause)) };
                let delay = self.network.client_delay(self.watchers[watcher].client, node);
                if let Some(delay) = delay {
                    self.schedule.after(delay, Happening::Watcher { watcher, what });
                }
                return;
            }
        };
        if from > reader.revision() + 1 {
            self.counters.count("watch: begun at a revision that the node has not reached");
        }
        let id = process.watches.table.add(filter.clone(), from, reader.revision());
        let stream = Stream { watcher, number: stream, filter, is_busy: true, arrives: Time::START, parts: Vec::new() };
        process.watches.streams.insert(id, stream);
        self.tell(node, id, from - 1, Vec::new());
        self.next_watch_step(node, id);
        self.later(node, PROGRESS_INTERVAL, InProcess::WatchProgress(id));
    }

    /// The client has closed the stream.
    pub(crate) fn unwatch(&mut self, node: usize, watcher: usize, number: u64) {
        let Some(process) = &self.nodes[node].process else { return };
        let mut streams = process.watches.streams.iter();
        let found = streams.find(|(_, stream)| (stream.watcher, stream.number) == (watcher, number));
        if let Some((id, _)) = found {
            let id = *id;
            self.end_stream(node, id);
        }
    }

    fn end_stream(&mut self, node: usize, id: WatcherId) {
        let Some(process) = &mut self.nodes[node].process else { return };
        process.watches.table.remove(id);
        process.watches.streams.remove(&id);
    }

    /// As the apply thread's bell: more is applied.
    pub(crate) fn ring_watches(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.watches.table.watchers() > 0 && !process.watches.is_gathering {
            process.watches.is_gathering = true;
            let delay = self.random.latency(STEP_TIME.0, STEP_TIME.1);
            self.later_at_its_speed(node, delay, InProcess::GatherWatched);
        }
    }

    /// Reads the next part of what was applied, for all watchers together.
    pub(crate) fn gather_watched(&mut self, node: usize) {
        let Settings { watch_part_bytes: part_bytes, watch_ring_bytes: ring_bytes, .. } = self.settings;
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let (reader, watches) = (process.machine.reader(), &mut process.watches);
        let Some(revisions) = watches.table.gather(reader.revision()) else {
            watches.is_gathering = false;
            return;
        };
        let (first, last) = revisions.into_inner();
        let mut interest = |key: &[u8], is_delete: bool| watches.table.interest(key, is_delete);
        let bounds = PartBounds { bytes: part_bytes, revision_bytes: ring_bytes };
        let part = match reader.recent_changes(ChangePosition::start_of(first), last, bounds, &mut interest) {
            Ok(part) if part.is_within_revision() => Part::TooLarge(first),
            Ok(part) => {
                let through = part.through();
                let events = part.changes.into_iter().map(|change| Gathered {
                    revision: change.revision,
                    key: change.key.clone(),
                    is_delete: change.value.is_none(),
                    bytes: change.bytes(),
                    payload: watch_event(change),
                });
                Part::Events(through, events.collect())
            }
            Err(ReadError::Compacted { .. }) => Part::Compacted(last),
            Err(error) => panic!("node {}: what is applied cannot be gathered: {error}", node + 1),
        };
        let delay = self.random.latency(STEP_TIME.0, STEP_TIME.1);
        self.later_at_its_speed(node, delay, InProcess::PublishWatched(part));
    }

    /// Publishes a part, wakes who waits for it, and goes on with the next.
    pub(crate) fn publish_watched(&mut self, node: usize, part: Part) {
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let mut wake = Vec::new();
        match part {
            Part::Events(through, events) => process.watches.table.publish(through, events, &mut wake),
            Part::Compacted(through) => {
                self.counters.count("watch: what was to be gathered was compacted");
                process.watches.table.skip(through, &mut wake);
            }
            Part::TooLarge(revision) => {
                self.counters.count("watch: a revision was too large to be gathered");
                process.watches.table.skip(revision, &mut wake);
            }
        }
        for id in wake {
            // One that is about to take a step anyway finds what there is.
            let streams = &self.nodes[node].process.as_ref().expect("it publishes").watches.streams;
            if streams.get(&id).is_some_and(|stream| !stream.is_busy) {
                self.next_watch_step(node, id);
            }
        }
        self.gather_watched(node);
    }

    /// The next step of a watch comes in a while.
    fn next_watch_step(&mut self, node: usize, id: WatcherId) {
        let process = self.nodes[node].process.as_mut().expect("whoever steps is there");
        let Some(stream) = process.watches.streams.get_mut(&id) else { return };
        stream.is_busy = true;
        let is_sluggish = self.watchers[stream.watcher].is_sluggish && self.phase == Phase::Faulty;
        let delay = if is_sluggish && self.random.chance(300) {
            self.random.duration(SLUGGISH_TIME.0, SLUGGISH_TIME.1)
        } else {
            self.random.latency(STEP_TIME.0, STEP_TIME.1)
        };
        self.later_at_its_speed(node, delay, InProcess::WatchStep(id));
    }

    /// A step of a watch's task.
    pub(crate) fn watch_step(&mut self, node: usize, id: WatcherId) {
        let batch_bytes = self.settings.watch_part_bytes;
        let watches = &mut self.nodes[node].process.as_mut().expect("void in later lives").watches;
        let Some(stream) = watches.streams.get_mut(&id) else { return };
        match watches.table.step(id, batch_bytes) {
            Step::Batch { events, through } => {
                if !events.is_empty() {
                    let events = events.iter().map(|event| event.payload.clone()).collect();
                    self.tell(node, id, through, events);
                }
                self.next_watch_step(node, id);
            }
            Step::Disk(revisions) => {
                self.counters.count("watch: read from disk");
                let (first, last) = revisions.into_inner();
                self.read_watched(node, id, ChangePosition::start_of(first), last);
            }
            Step::Wait { .. } => stream.is_busy = false,
        }
    }

    /// A watch reads what is not in the ring.
    fn read_watched(&mut self, node: usize, id: WatcherId, from: ChangePosition, last: u64) {
        let delay = self.random.latency(STEP_TIME.0, STEP_TIME.1);
        self.later_at_its_speed(node, delay, InProcess::WatchRead(id, from, last));
    }

    /// A watch has read what is not in the ring.
    pub(crate) fn watch_read(&mut self, node: usize, id: WatcherId, from: ChangePosition, last: u64) {
        let batch_bytes = self.settings.watch_part_bytes;
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let Some(stream) = process.watches.streams.get_mut(&id) else { return };
        let reader = process.machine.reader();
        let mut interest = |key: &[u8], is_delete: bool| stream.filter.interest(key, is_delete);
        let bounds = PartBounds { bytes: batch_bytes, revision_bytes: batch_bytes };
        match reader.recent_changes(from, last, bounds, &mut interest) {
            Ok(part) => {
                let (next, through) = (part.next, part.through());
                let is_within_revision = part.is_within_revision();
                // Whoever reads the stream puts the parts of a revision together; here that is done before they are sent.
                stream.parts.extend(part.changes.into_iter().map(watch_event));
                if is_within_revision {
                    self.counters.count("watch: a revision was read in parts");
                    return self.read_watched(node, id, next, last);
                }
                let events = std::mem::take(&mut stream.parts);
                process.watches.table.have_read(id, through);
                if !events.is_empty() {
                    self.tell(node, id, through, events);
                }
                self.next_watch_step(node, id);
            }
            Err(cause @ ReadError::Compacted { .. }) => {
                self.send_watch(node, id, Err(read_failed(&cause)));
                self.end_stream(node, id);
            }
            Err(error) => panic!("node {}: a watch cannot read what was applied: {error}", node + 1),
        }
    }

    /// A node that hears a leader says how far a watch is for which nothing happens.
    pub(crate) fn watch_progress(&mut self, node: usize, id: WatcherId) {
        let process = self.nodes[node].process.as_mut().expect("void in later lives");
        let Some(stream) = process.watches.streams.get(&id) else { return };
        let hears_a_leader = process.driver.core().status().leader.is_some();
        if !stream.is_busy
            && hears_a_leader
            && let Step::Wait { through } = process.watches.table.step(id, self.settings.watch_part_bytes)
        {
            self.counters.count("watch: progress told");
            self.tell(node, id, through, Vec::new());
        }
        self.later(node, PROGRESS_INTERVAL, InProcess::WatchProgress(id));
    }

    fn tell(&mut self, node: usize, id: WatcherId, through: u64, mut events: Vec<wire::WatchEvent>) {
        let process = self.nodes[node].process.as_ref().expect("whoever tells is there");
        // Somebody else may have wanted it.
        if process.watches.streams.get(&id).is_some_and(|stream| !stream.filter.previous) {
            events.iter_mut().for_each(|event| event.previous = None);
        }
        let header = wire::Header { revision: through, ..wire::Header::default() };
        self.send_watch(node, id, Ok(wire::WatchReply { header: Some(header), events, part: false }));
    }

    fn send_watch(&mut self, node: usize, id: WatcherId, reply: Result<wire::WatchReply, Box<wire::Error>>) {
        let now = self.schedule.now();
        let slowness = self.nodes[node].slowness;
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(stream) = process.watches.streams.get_mut(&id) else { return };
        let Some(delay) = Network::client_delay(&mut self.network, self.watchers[stream.watcher].client, node) else {
            return self.end_stream(node, id);
        };
        stream.arrives = (now + delay * slowness).max(stream.arrives + Duration::from_nanos(1));
        let (watcher, what) = (stream.watcher, AtWatcher::Reply { stream: stream.number, reply });
        let after = stream.arrives.since(now);
        self.schedule.after(after, Happening::Watcher { watcher, what });
    }

    /// Whether every watcher has everything that it wants.
    pub(crate) fn watchers_have_all(&self) -> bool {
        self.watchers.iter().all(|watcher| !self.checks.owes(&watcher.request, watcher.position.next()))
    }

    /// Where the watchers are, for messages.
    pub(crate) fn describe_watchers(&self) -> String {
        let describe = |watcher: &Watcher| {
            let owed = self.checks.owes(&watcher.request, watcher.position.next());
            format!("next {} at node {}, owed more: {owed}", watcher.position.next(), watcher.node + 1)
        };
        self.watchers.iter().map(describe).collect::<Vec<_>>().join("; ")
    }
}
