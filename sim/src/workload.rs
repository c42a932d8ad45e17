//! What clients do: a mix of writes with and without conditions, deletes, reads and scans on few keys, so that they meet.
//!
//! Every value is unique, so a value that is read names the one write that wrote it. Most deletes are unique too, by the end of their range.

use crate::random::Random;
use bytes::Bytes;
use client::policy::Purpose;
use transport::Request;
use transport::proto::client as wire;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// One request, one answer.
    Call(Request),
    /// A scan.
    Scan(wire::ScanRequest),
}

impl Ask {
    /// Where it may go, and whether it may go twice.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match self {
            Ask::Call(request) if request.is_write() => Purpose::Write,
            Ask::Call(Request::Get(get)) if get.level() == wire::ReadLevel::Lease => Purpose::LeaseRead,
            Ask::Scan(scan) if scan.level() == wire::ReadLevel::Lease => Purpose::LeaseRead,
            Ask::Call(_) | Ask::Scan(_) => Purpose::Read,
        }
    }
}

/// Reads of both levels must see everything that was acknowledged before.
fn level(random: &mut Random) -> i32 {
    random.pick(&[wire::ReadLevel::Linearizable, wire::ReadLevel::Lease]).to_owned().into()
}

/// What a mark begins with, and no key holds.
pub(crate) const MARK: char = 'c';

/// Draws one client's operations.
#[derive(Debug)]
pub(crate) struct Workload {
    client: usize,
    keys: u64,
    written: u64,
    /// The last thing known of some key: its name, mod revision and value.
    seen: Vec<(Bytes, u64, Bytes)>,
}

impl Workload {
    pub(crate) fn new(client: usize, keys: u64) -> Workload {
        Workload { client, keys, written: 0, seen: Vec::new() }
    }

    /// The next operation.
    pub(crate) fn draw(&mut self, random: &mut Random) -> Ask {
        match random.below(100) {
            0..=44 => self.put(random),
            45..=51 => {
                let key = self.key(random);
                // Some are told apart by the end of their range; the others are deletes of a single key.
                let mark = if random.chance(500) { self.mark() } else { String::new() };
                let end = [&key[..], &[0], mark.as_bytes()].concat().into();
                Ask::Call(Request::Delete(wire::DeleteRequest {
                    range: Some(wire::KeyRange { start: key, end: Some(end) }),
                    previous: random.chance(300),
                    session: None,
                }))
            }
            52..=53 => {
                let range = self.range(random);
                let after_all = Bytes::from_static(b"l");
                let end = [&range.end.unwrap_or(after_all)[..], self.mark().as_bytes()].concat().into();
                Ask::Call(Request::Delete(wire::DeleteRequest {
                    range: Some(wire::KeyRange { start: range.start, end: Some(end) }),
                    previous: random.chance(300),
                    session: None,
                }))
            }
            54..=89 => Ask::Call(Request::Get(wire::GetRequest {
                key: self.key(random),
                revision: None,
                level: level(random),
                age_ms_max: None,
                revision_min: None,
            })),
            _ => Ask::Scan(wire::ScanRequest {
                range: Some(self.range(random)),
                limit: if random.chance(300) { random.between(1, 5) } else { 0 },
                reverse: random.chance(300),
                keys_only: false,
                count_only: false,
                revision: None,
                level: level(random),
                ..wire::ScanRequest::default()
            }),
        }
    }

    /// What an answer told of a key, for conditions to come.
    pub(crate) fn saw(&mut self, key: &Bytes, revision: u64, value: &Bytes) {
        self.seen.retain(|(known, _, _)| known != key);
        self.seen.push((key.clone(), revision, value.clone()));
        if self.seen.len() > 8 {
            self.seen.remove(0);
        }
    }

    fn put(&mut self, random: &mut Random) -> Ask {
        let known = if self.seen.is_empty() { None } else { Some(random.pick(&self.seen).clone()) };
        let (key, condition) = match (random.below(10), known) {
            (0..=1, _) => (self.key(random), Some(wire::condition::Kind::Absent(true))),
            (2..=3, Some((key, revision, _))) => (key, Some(wire::condition::Kind::ModRevision(revision))),
            (4..=5, Some((key, _, value))) => (key, Some(wire::condition::Kind::Value(value))),
            _ => (self.key(random), None),
        };
        let condition = condition.map(|kind| wire::Condition { kind: Some(kind) });
        let value = self.value(random);
        Ask::Call(Request::Put(wire::PutRequest {
            key,
            value,
            condition,
            previous: random.chance(300),
            ..wire::PutRequest::default()
        }))
    }

    fn key(&self, random: &mut Random) -> Bytes {
        format!("k{:02}", random.below(self.keys)).into()
    }

    fn range(&self, random: &mut Random) -> wire::KeyRange {
        let (one, other) = (self.key(random), self.key(random));
        let (start, end) = if one <= other { (one, other) } else { (other, one) };
        match random.below(4) {
            0 => wire::KeyRange { start: Bytes::new(), end: None },
            1 => wire::KeyRange { start, end: None },
            _ => wire::KeyRange { start, end: Some([&end[..], &[0]].concat().into()) },
        }
    }

    /// What nobody else writes.
    fn mark(&mut self) -> String {
        self.written += 1;
        format!("{MARK}{}-{}", self.client, self.written)
    }

    /// A value that nobody else writes, now and then a long one.
    fn value(&mut self, random: &mut Random) -> Bytes {
        let mut value = self.mark().into_bytes();
        if random.chance(200) {
            let length = random.between(100, 1500);
            value.resize(usize::try_from(length).expect("short"), b'.');
        }
        value.into()
    }
}
