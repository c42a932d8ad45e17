//! What is done to both stores, in terms of neither, and how it is drawn.
//!
//! Keys are few, so that operations meet: some prefixes of one another, some with bytes 0 and 255. Revisions are drawn around those that
//! exist, now and then compacted or still to come. Each drawn operation depends on the seed and on what is known of the stores (the newest revision), never on
//! the clock.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A half-open range; `None`: to the last key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    /// `None`: keep it.
    pub value: Option<Bytes>,
    /// `None`: keep it; zero: none.
    pub lease: Option<u64>,
    pub previous: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    pub range: Range,
    pub previous: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub range: Range,
    pub revision: Option<u64>,
    pub limit: u64,
    /// 0 key, 1 version, 2 create revision, 3 mod revision, 4 value.
    pub sort_by: i32,
    pub descending: bool,
    pub keys_only: bool,
    pub count_only: bool,
    pub mod_min: Option<u64>,
    pub mod_max: Option<u64>,
    pub create_min: Option<u64>,
    pub create_max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    Less,
    Greater,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Version(u64),
    CreateRevision(u64),
    ModRevision(u64),
    Value(Bytes),
    Lease(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub range: Range,
    pub relation: Relation,
    pub target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Put(Put),
    Delete(Delete),
    Read(Read),
    Transaction(Transaction),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub success: Vec<Step>,
    pub failure: Vec<Step>,
}

impl Transaction {
    /// All steps of either list, those of inner transactions included.
    pub fn steps(&self) -> Vec<&Step> {
        let mut all = Vec::new();
        for step in self.success.iter().chain(&self.failure) {
            match step {
                Step::Transaction(inner) => all.extend(inner.steps()),
                Step::Put(_) | Step::Delete(_) | Step::Read(_) => all.push(step),
            }
        }
        all
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Not empty.
    pub range: Range,
    /// Only an open watch may begin in the future.
    pub from: u64,
    pub previous: bool,
    pub no_puts: bool,
    pub no_deletes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Put(Put),
    Delete(Delete),
    Read(Read),
    Transaction(Transaction),
    Compact(u64),
    Grant {
        id: u64,
        seconds: u64,
    },
    KeepAlive(u64),
    Revoke(u64),
    /// A lease's times, and its keys.
    Show(u64),
    /// All leases.
    Leases,
    /// Everything from a revision on to the newest.
    Watch(Watch),
    /// The same, and then everything that comes while other operations run.
    Open(Watch),
    /// Ends the open watch at this place.
    Close(usize),
}

/// Leases have these numbers.
const LEASES: u64 = 6;
/// A lease may live for so long.
const LEASE_SECONDS_MAX: u64 = 9_000_000_000;
/// Watches open at a time.
const OPEN_MAX: usize = 4;

/// Draws operations.
pub struct Generator {
    random: SmallRng,
    keys: Vec<Bytes>,
    written: u64,
    compacted: u64,
    /// How many watches are open.
    open: usize,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let names: [&[u8]; 16] = [
            b"a",
            b"a\0",
            b"a/1",
            b"a/2",
            b"a/22",
            b"a/\xff",
            b"b",
            b"b/",
            b"b/x",
            b"b/y",
            b"\0",
            b"\xff",
            b"\xff\xff",
            b"k1",
            b"k2",
            b"k3",
        ];
        let keys = names.iter().map(|name| Bytes::copy_from_slice(name)).collect();
        Generator { random: SmallRng::seed_from_u64(seed), keys, written: 0, compacted: 0, open: 0 }
    }

    /// The next operation, where `newest` is the newest revision.
    pub fn draw(&mut self, newest: u64) -> Operation {
        match self.random.random_range(0..100) {
            0..30 => Operation::Put(self.put()),
            30..40 => Operation::Delete(self.delete()),
            40..62 => Operation::Read(self.read(newest, true)),
            62..86 => Operation::Transaction(self.transaction(newest, 0)),
            86..89 => Operation::Grant { id: self.lease(), seconds: self.seconds() },
            89 => Operation::KeepAlive(self.lease()),
            90 => Operation::Revoke(self.lease()),
            91 => Operation::Show(self.lease()),
            92 => Operation::Leases,
            93..96 => Operation::Watch(self.watch(newest)),
            96..99 => self.open_or_close(newest),
            _ => Operation::Compact(self.compaction(newest)),
        }
    }

    /// Nothing expires while the comparison runs; now and then the most that there may be, or more.
    fn seconds(&mut self) -> u64 {
        if self.chance(10) {
            return LEASE_SECONDS_MAX + self.random.random_range(0..2);
        }
        self.random.random_range(1..=9) * 100_000
    }

    fn open_or_close(&mut self, newest: u64) -> Operation {
        if self.open < OPEN_MAX && self.chance(60) {
            self.open += 1;
            let mut watch = self.watch(newest);
            if self.chance(70) {
                // Not yet, or not for a while.
                watch.from = newest + if self.chance(60) { 1 } else { self.random.random_range(2..60) };
            }
            return Operation::Open(watch);
        }
        match self.open.checked_sub(1) {
            Some(last) => Operation::Close(self.random.random_range(0..=last)),
            None => Operation::Leases,
        }
    }

    /// An open watch has ended.
    pub fn closed_one(&mut self) {
        self.open -= 1;
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn key(&mut self) -> Bytes {
        let place = self.random.random_range(0..self.keys.len());
        self.keys[place].clone()
    }

    fn lease(&mut self) -> u64 {
        self.random.random_range(1..=LEASES)
    }

    /// Few different values, so that comparisons meet; now and then a new one.
    fn value(&mut self) -> Bytes {
        if self.chance(50) {
            let values: [&'static [u8]; 6] = [b"", b"x", b"y", b"xy", b"\0", b"\xff"];
            return Bytes::from_static(values[self.random.random_range(0..values.len())]);
        }
        self.written += 1;
        format!("v{}", self.written).into()
    }

    fn range(&mut self) -> Range {
        let start = self.key();
        match self.random.random_range(0..10) {
            0..4 => Range { end: Some([&start[..], &[0]].concat().into()), start },
            4..6 => {
                // A prefix: the end is the next byte string of this length.
                let end = prefix_end(&start);
                Range { start, end }
            }
            6 => Range { start, end: None },
            7 => Range { start: Bytes::from_static(b"\0"), end: None },
            _ => {
                // etcd takes an end of one zero byte for "to the last key".
                let end = Some(self.key()).filter(|end| end != "\0");
                Range { start, end }
            }
        }
    }

    fn put(&mut self) -> Put {
        let value = if self.chance(5) { None } else { Some(self.value()) };
        let lease = match self.random.random_range(0..20) {
            0 => None,
            1..5 => Some(self.lease()),
            _ => Some(0),
        };
        Put { key: self.key(), value, lease, previous: self.chance(30) }
    }

    fn delete(&mut self) -> Delete {
        Delete { range: self.range(), previous: self.chance(50) }
    }

    fn bound(&mut self, newest: u64) -> Option<u64> {
        let low = newest.saturating_sub(40).max(1);
        self.chance(15).then(|| self.random.random_range(low..=newest + 1))
    }

    fn revision(&mut self, newest: u64) -> u64 {
        match self.random.random_range(0..20) {
            // Gone, or nearly.
            0 => self.compacted.saturating_sub(1).max(1),
            1 => self.compacted.max(1),
            // Still to come.
            2 => newest + self.random.random_range(1..3),
            _ => self.random.random_range(self.compacted.max(newest.saturating_sub(60)).max(1)..=newest),
        }
    }

    fn read(&mut self, newest: u64, with_revision: bool) -> Read {
        let revision = if with_revision && self.chance(40) { Some(self.revision(newest)) } else { None };
        Read {
            range: self.range(),
            revision,
            limit: if self.chance(30) { self.random.random_range(1..5) } else { 0 },
            sort_by: self.random.random_range(0..5),
            descending: self.chance(40),
            keys_only: self.chance(20),
            count_only: self.chance(10),
            mod_min: self.bound(newest),
            mod_max: self.bound(newest),
            create_min: self.bound(newest),
            create_max: self.bound(newest),
        }
    }

    fn compare(&mut self, newest: u64) -> Compare {
        let relation =
            [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater][self.random.random_range(0..4)];
        let revision = self.random.random_range(newest.saturating_sub(20)..=newest + 1);
        let target = match self.random.random_range(0..5) {
            0 => Target::Version(self.random.random_range(0..4)),
            1 => Target::CreateRevision(if self.chance(40) { 0 } else { revision }),
            2 => Target::ModRevision(if self.chance(40) { 0 } else { revision }),
            3 => Target::Value(self.value()),
            _ => Target::Lease(self.random.random_range(0..=LEASES)),
        };
        let range = if self.chance(70) {
            let start = self.key();
            Range { end: Some([&start[..], &[0]].concat().into()), start }
        } else {
            self.range()
        };
        Compare { range, relation, target }
    }

    fn transaction(&mut self, newest: u64, depth: u32) -> Transaction {
        let compares = (0..self.random.random_range(0..3)).map(|_| self.compare(newest)).collect();
        let success = self.steps(newest, depth);
        let failure = self.steps(newest, depth);
        Transaction { compares, success, failure }
    }

    fn steps(&mut self, newest: u64, depth: u32) -> Vec<Step> {
        let count = self.random.random_range(0..4);
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..count {
            // One at most: etcd lets a put in one inner transaction and a delete of the same key in a later one pass, in this order only.
            let depth = if steps.iter().any(|step| matches!(step, Step::Transaction(_))) { u32::MAX } else { depth };
            steps.push(match self.random.random_range(0..10) {
                0..4 => Step::Put(self.put()),
                4..6 => {
                    let mut delete = self.delete();
                    // To the last key: then etcd does not see that a put in the same transaction is of a key that is deleted, and lets both pass.
                    delete.range.end.get_or_insert(Bytes::from_static(b"\xff\xff\xff"));
                    Step::Delete(delete)
                }
                6..9 => {
                    let with_revision = self.chance(20);
                    Step::Read(self.read(newest, with_revision))
                }
                _ if depth < 2 => Step::Transaction(self.transaction(newest, depth + 1)),
                _ => Step::Put(self.put()),
            });
        }
        steps
    }

    fn watch(&mut self, newest: u64) -> Watch {
        let from = match self.random.random_range(0..10) {
            0 => self.compacted.saturating_sub(1).max(1),
            _ => self.random.random_range(self.compacted.max(newest.saturating_sub(100)).max(1)..=newest),
        };
        // Of neither puts nor deletes nobody wants to hear, and raftkv says so.
        let no_puts = self.chance(15);
        let no_deletes = !no_puts && self.chance(15);
        let mut range = self.range();
        // etcd refuses to watch an empty range, raftkv has nothing to tell of it.
        range.end = range.end.filter(|end| *end > range.start);
        Watch { range, from, previous: self.chance(50), no_puts, no_deletes }
    }

    fn compaction(&mut self, newest: u64) -> u64 {
        match self.random.random_range(0..10) {
            // Twice the same; revisions begin at 1.
            0 => self.compacted.max(1),
            1 => newest + 1,
            _ => {
                let low = self.compacted.max(1);
                let revision = self.random.random_range(low..=newest.saturating_sub(20).max(low));
                self.compacted = self.compacted.max(revision);
                revision
            }
        }
    }
}

fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end.into())
}
