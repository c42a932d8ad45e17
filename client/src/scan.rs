//! A range, read as a stream.
//!
//! All of a scan is at one revision. Its node keeps what is left to read, even if a compaction overtakes that revision; for an hour at most then, and
//! not where it is short of room. If its node fails half-way, the scan goes on at another one, at the same revision, after the last key
//! that came; the caller sees no seam, unless that revision is compacted by then: nothing was kept for it there. In an order other than by key there is no such place to go on from: then it begins anew, and leaves out as many
//! pairs as had come, which are the same, because the order is the same at one revision.

use crate::client::{Client, Deadline, Done, OpenScan, Work, nonsense, read_purpose, scan_failure};
use crate::error::Error;
use crate::policy::{Failure, Verdict, Weight, judge};
use crate::request::{Level, Scan, SortBy, successor};
use crate::value::{KeyValue, header};
use bytes::Bytes;
use transport::proto::client as wire;

/// How often a scan goes on elsewhere without having got anything in between.
const RESUMPTIONS_MAX: u32 = 3;

/// What is known at the end of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanSummary {
    /// The revision that it read at.
    pub revision: u64,
    /// Pairs that came, or with `count_only`, pairs in the range.
    pub count: u64,
    /// Whether the limit left some out.
    pub more: bool,
    /// If [`Scan::count_total`] asked for it: pairs in the range, whatever was left out.
    pub total: Option<u64>,
}

/// The pairs of a scan, as they come.
pub struct ScanStream {
    client: Client,
    scan: Scan,
    open: OpenScan,
    /// Pairs that have come and have not been asked for, in reverse.
    ready: Vec<KeyValue>,
    revision: u64,
    received: u64,
    last_key: Option<Bytes>,
    resumptions: u32,
    /// Pairs that come a second time.
    repeated: u64,
    /// It went on in what was left of the range, so the node's total is not the range's.
    narrowed: bool,
    summary: Option<ScanSummary>,
}

impl ScanStream {
    pub(crate) async fn open(client: Client, scan: Scan) -> Result<ScanStream, Error> {
        let open = begin(&client, &scan).await?;
        let revision = scan.revision.unwrap_or_else(|| header(open.first.header).0);
        let mut stream = ScanStream {
            client,
            scan,
            open,
            ready: Vec::new(),
            revision,
            received: 0,
            last_key: None,
            resumptions: 0,
            repeated: 0,
            narrowed: false,
            summary: None,
        };
        stream.take_first();
        Ok(stream)
    }

    /// The next pair; none after the last one.
    ///
    /// # Errors
    /// When the scan cannot go on at any node: what came before is right, but not the whole answer. With [`Error::CompactedRevision`] a compaction has overtaken it, and it
    /// went on at another node, or for too long, afterwards: begin again, at a newer revision.
    pub async fn next(&mut self) -> Result<Option<KeyValue>, Error> {
        loop {
            if let Some(kv) = self.ready.pop() {
                return Ok(Some(kv));
            }
            match &self.summary {
                Some(summary) if self.scan.count_total && summary.total.is_none() => self.count_total().await?,
                Some(_) => return Ok(None),
                None => self.receive().await?,
            }
        }
    }

    /// The revision that the scan reads at.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What is known at the end: there once [`ScanStream::next`] has returned none.
    #[must_use]
    pub fn summary(&self) -> Option<ScanSummary> {
        self.summary
    }

    /// Gets one more reply, from another node if need be.
    async fn receive(&mut self) -> Result<(), Error> {
        let patience = self.client.timeout();
        let failure = match tokio::time::timeout(patience, self.open.stream.next()).await {
            Ok(Ok(Some(reply))) => {
                self.take(reply);
                return Ok(());
            }
            Ok(Ok(None)) => Failure::Lost("the scan ended without its last reply".to_owned()),
            Ok(Err(error)) => scan_failure(error, Failure::Lost),
            Err(_) => Failure::Silent(patience),
        };
        let error = match judge(read_purpose(self.scan.level), &self.open.address, failure) {
            Verdict::Fail(error) => return Err(error),
            Verdict::Retry { error, weight, .. } => {
                if weight == Weight::Silence {
                    // Otherwise the scan would begin with this node again, since it is the one that answered last.
                    self.client.directory_mut().silent(&self.open.address, std::time::Instant::now());
                }
                error
            }
        };
        tracing::debug!(endpoint = %self.open.address, %error, received = self.received, "the scan goes on anew");
        self.resumptions += 1;
        if self.resumptions > RESUMPTIONS_MAX {
            return Err(error);
        }
        let rest = rest_of(&self.scan, self.revision, self.received, self.last_key.as_ref());
        let Some(rest) = rest else { return Err(error) };
        self.open = begin(&self.client, &rest).await?;
        if self.scan.sort_by == SortBy::Key {
            self.narrowed = true;
        } else {
            self.repeated = self.received;
        }
        self.take_first();
        Ok(())
    }

    /// Asks for the total of the whole range, where the end of the scan did not tell it.
    async fn count_total(&mut self) -> Result<(), Error> {
        let whole = Scan::new(self.scan.range.clone()).count_only().at_revision(self.revision).level(self.scan.level);
        let counted = begin(&self.client, &whole).await?;
        if let Some(summary) = &mut self.summary {
            summary.total = Some(counted.first.count);
        }
        Ok(())
    }

    fn take_first(&mut self) {
        let first = std::mem::take(&mut self.open.first);
        self.take(first);
    }

    fn take(&mut self, mut reply: wire::ScanReply) {
        let repeated = usize::try_from(self.repeated).unwrap_or(usize::MAX).min(reply.kvs.len());
        self.repeated -= repeated as u64;
        reply.kvs.drain(..repeated);
        if !reply.kvs.is_empty() {
            self.resumptions = 0;
        }
        self.received += reply.kvs.len() as u64;
        self.last_key = reply.kvs.last().map(|kv| kv.key.clone()).or(self.last_key.take());
        self.ready.extend(reply.kvs.into_iter().rev().map(KeyValue::from));
        if reply.last {
            let count = if self.scan.count_only { reply.count } else { self.received };
            let total = reply.total.filter(|_| !self.narrowed);
            self.summary = Some(ScanSummary { revision: self.revision, count, more: reply.more, total });
        }
    }
}

async fn begin(client: &Client, scan: &Scan) -> Result<OpenScan, Error> {
    let purpose = read_purpose(scan.level);
    let deadline = Deadline::after(client.timeout());
    match client.run(purpose, &Work::Scan(scan.to_wire()), deadline).await? {
        (_, Done::Scan(open)) => Ok(*open),
        (address, Done::Call(_) | Done::Watch(_)) => Err(nonsense(purpose, &address)),
    }
}

/// What is left of a scan after `received` pairs, the last of them `last_key`. None when the limit is reached: then only whether
/// there is more is not known, and no scan tells that. In another order than by key, all of it is left.
fn rest_of(scan: &Scan, revision: u64, received: u64, last_key: Option<&Bytes>) -> Option<Scan> {
    let mut rest = scan.clone();
    rest.revision = Some(revision);
    if matches!(scan.level, Level::Stale { .. }) {
        // Another node may be further behind: it has to wait for what the first one had.
        rest.revision_min = Some(scan.revision_min.map_or(revision, |least| least.max(revision)));
    }
    if scan.sort_by != SortBy::Key {
        return Some(rest);
    }
    if let Some(last_key) = last_key {
        if scan.reverse {
            rest.range.end = Some(last_key.clone());
        } else {
            rest.range.start = successor(last_key);
        }
    }
    if scan.limit > 0 {
        rest.limit = scan.limit.checked_sub(received).filter(|left| *left > 0)?;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::request::Range;

    #[test]
    fn a_scan_goes_on_after_the_last_key_at_the_same_revision() {
        let scan = Scan::new(Range::between("a", "z")).limit(10);
        let rest = rest_of(&scan, 7, 4, Some(&"k".into())).unwrap();
        assert_eq!(rest, Scan::new(Range::between("k\0", "z")).limit(6).at_revision(7));
    }

    #[test]
    fn a_reverse_scan_goes_on_before_the_last_key() {
        let scan = Scan::new(Range::from("a")).reverse();
        let rest = rest_of(&scan, 7, 4, Some(&"k".into())).unwrap();
        assert_eq!(rest, Scan::new(Range::between("a", "k")).reverse().at_revision(7));
    }

    #[test]
    fn a_scan_that_broke_off_before_its_first_pair_starts_over() {
        let scan = Scan::new(Range::prefix("a"));
        assert_eq!(rest_of(&scan, 7, 0, None).unwrap(), scan.at_revision(7));
    }

    #[test]
    fn a_sorted_scan_starts_over_and_leaves_out_what_had_come() {
        let scan = Scan::new(Range::all()).sort_by(SortBy::Value).limit(10);
        assert_eq!(rest_of(&scan, 7, 4, Some(&"k".into())).unwrap(), scan.at_revision(7));
    }

    #[test]
    fn a_stale_scan_goes_on_only_where_its_revision_is_known() {
        let scan = Scan::new(Range::all()).level(Level::Stale { age_max: None });
        assert_eq!(rest_of(&scan, 7, 0, None).unwrap(), scan.clone().at_revision(7).at_least_revision(7));
        let later = scan.at_least_revision(9);
        assert_eq!(rest_of(&later, 12, 0, None).unwrap(), later.at_revision(12).at_least_revision(12));
    }

    #[test]
    fn a_scan_that_has_reached_its_limit_does_not_go_on_without_one() {
        let scan = Scan::new(Range::all()).limit(4);
        assert_eq!(rest_of(&scan, 7, 4, Some(&"k".into())), None);
    }
}
