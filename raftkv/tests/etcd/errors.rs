//! Which errors a transaction can be refused with.
//!
//! When it has more than one, the two stores need not name the same one first. So each must name one that the transaction has.

use super::answer::Kind;
use super::operation::{Range, Step, Transaction};
use std::collections::BTreeSet;

/// All that `transaction` may be refused with, on either way through it, at this revision, with these leases. Whether a key exists is not known, so whatever is
/// kept may be missing.
pub fn possible_errors(
    transaction: &Transaction,
    newest: u64,
    compacted: u64,
    leases: &BTreeSet<u64>,
) -> BTreeSet<Kind> {
    let mut possible = BTreeSet::new();
    let mut written: Vec<Range> = Vec::new();
    for step in transaction.steps() {
        match step {
            Step::Put(put) => {
                if put.value.is_none() || put.lease.is_none() {
                    possible.insert(Kind::KeyUnknown);
                }
                if put.lease.is_some_and(|lease| lease != 0 && !leases.contains(&lease)) {
                    possible.insert(Kind::LeaseUnknown);
                }
                written.push(Range { start: put.key.clone(), end: Some([&put.key[..], &[0]].concat().into()) });
            }
            Step::Delete(delete) => written.push(delete.range.clone()),
            Step::Read(read) => {
                if read.revision.is_some_and(|revision| revision > newest) {
                    possible.insert(Kind::FutureRevision);
                }
                if read.revision.is_some_and(|revision| revision < compacted) {
                    possible.insert(Kind::Compacted);
                }
            }
            Step::Transaction(_) => unreachable!("the steps of inner transactions stand for them"),
        }
    }
    let overlap = |a: &Range, b: &Range| {
        a.end.as_ref().is_none_or(|end| b.start < end) && b.end.as_ref().is_none_or(|end| a.start < end)
    };
    let is_written_twice =
        written.iter().enumerate().any(|(place, one)| written[place + 1..].iter().any(|other| overlap(one, other)));
    if is_written_twice {
        possible.insert(Kind::DuplicateKey);
    }
    possible
}
