//! Carrying out a transaction: all of it at one revision, or nothing.
//!
//! First all compares are made, those of transactions in it on the way that it goes included: they look at the state before the transaction,
//! whatever its operations do, as in etcd. Then the operations of that way are staged in order, and an operation sees what those before it did.
//! Whatever is refused on the way refuses the whole.
//!
//! What it looks at and deletes counts against the limits of the command as one, single keys included. Bytes count if they are kept: in the answer, or by a put that keeps the
//! value which its key holds. So the limits bound the memory that it takes, the answer that it gives, and how long it takes.

use super::super::engine::Engine;
use super::super::outcome::{CommandOutcome, OperationOutcome, TransactionOutcome};
use super::Run;
use super::change::Stop;
use super::overlay::{self, Pair};
use super::range::{Budget, exceeded};
use crate::command::{Compare, CompareTarget, KeyRange, Operation, Put, RangeLimits, Transaction};
use std::ops::ControlFlow;

impl<'a, E: Engine> Run<'a, E> {
    /// Stages a transaction.
    pub(super) fn transaction(
        &mut self,
        transaction: &Transaction<'a>,
        limits: RangeLimits,
    ) -> Result<CommandOutcome, Stop> {
        let mut budget = Budget::new(limits);
        let mut ways = Vec::new();
        self.find_way(transaction, &mut budget, &mut ways)?;
        let outcome = self.stage_transaction(transaction, &mut ways.into_iter(), &mut budget)?;
        Ok(CommandOutcome::Transaction { revision: self.staged_revision(), outcome })
    }

    /// Finds out which way the transaction goes, and those in it that are on the way, in the order in which they are carried out.
    fn find_way(&self, transaction: &Transaction<'a>, budget: &mut Budget, ways: &mut Vec<bool>) -> Result<(), Stop> {
        let mut succeeds = true;
        for compare in &transaction.compares {
            succeeds = succeeds && self.holds(compare, budget)?;
        }
        ways.push(succeeds);
        for operation in if succeeds { &transaction.success } else { &transaction.failure } {
            match operation {
                Operation::Transaction(inner) => self.find_way(inner, budget, ways)?,
                Operation::Put(_) | Operation::DeleteRange { .. } | Operation::Range(_) => {}
            }
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare<'a>, budget: &mut Budget) -> Result<bool, Stop> {
        let (mut is_missing, mut holds) = (true, true);
        self.visit_now(compare.range, &mut |pair| {
            is_missing = false;
            budget.size.add_key();
            holds = pair_holds(compare, Some(pair));
            if holds && budget.size.fits(budget.limits) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        budget.check()?;
        Ok(if is_missing { pair_holds(compare, None) } else { holds })
    }

    fn stage_transaction(
        &mut self,
        transaction: &Transaction<'a>,
        ways: &mut impl Iterator<Item = bool>,
        budget: &mut Budget,
    ) -> Result<TransactionOutcome, Stop> {
        let succeeded = ways.next().expect("a way was found for each transaction that is carried out");
        let operations = if succeeded { &transaction.success } else { &transaction.failure };
        let mut outcomes = Vec::with_capacity(operations.len());
        for operation in operations {
            outcomes.push(match operation {
                Operation::Put(put) => self.stage_put_within(put, budget)?,
                Operation::DeleteRange { range, previous } => self.stage_delete_within(*range, *previous, budget)?,
                Operation::Range(read) => OperationOutcome::Range(self.read(read, budget)?),
                Operation::Transaction(inner) => {
                    OperationOutcome::Transaction(self.stage_transaction(inner, ways, budget)?)
                }
            });
        }
        Ok(TransactionOutcome { succeeded, operations: outcomes })
    }

    fn stage_put_within(&mut self, put: &Put<'a>, budget: &mut Budget) -> Result<OperationOutcome, Stop> {
        if put.previous || put.value.is_none() {
            // What the key holds is kept: in the answer, as the value, or as both.
            if let Some(slot) = self.overlay.slot(put.key) {
                budget.size.add(put.key.len(), slot.value_bytes());
                budget.check()?;
            }
        }
        let previous = self.stage_put(put)?;
        Ok(OperationOutcome::Put { previous })
    }

    fn stage_delete_within(
        &mut self,
        range: KeyRange<'a>,
        previous: bool,
        budget: &mut Budget,
    ) -> Result<OperationOutcome, Stop> {
        match range.single_key() {
            Some(key) => {
                if let Some(slot) = self.overlay.slot(key) {
                    budget.size.add_deleted(key.len(), slot.value_bytes(), previous);
                    budget.check()?;
                }
                let deleted = self.stage_delete(key.into(), previous)?;
                let count = u64::from(deleted.is_some());
                Ok(OperationOutcome::Deleted { count, previous: deleted.flatten().into_iter().collect() })
            }
            None if range.is_empty() => Ok(OperationOutcome::Deleted { count: 0, previous: Vec::new() }),
            None => {
                let Budget { limits, size } = budget;
                if !overlay::load_range(self.engine, &mut self.overlay, range, previous, *limits, size)? {
                    return Err(exceeded(*limits));
                }
                let (count, previous) = self.stage_delete_loaded(range, previous)?;
                Ok(OperationOutcome::Deleted { count, previous })
            }
        }
    }
}

/// Whether a key fulfils the compare; `None`: one that does not exist.
fn pair_holds(compare: &Compare<'_>, pair: Option<Pair<'_>>) -> bool {
    let header = pair.map(|pair| pair.header);
    let number = |of: fn(&super::RecordHeader) -> u64| header.as_ref().map_or(0, of);
    let ordering = match compare.target {
        CompareTarget::Version(version) => number(|header| header.version).cmp(&version),
        CompareTarget::CreateRevision(revision) => number(|header| header.create_revision).cmp(&revision),
        CompareTarget::ModRevision(revision) => number(|header| header.mod_revision).cmp(&revision),
        CompareTarget::Lease(lease) => number(|header| header.lease).cmp(&lease),
        CompareTarget::Value(value) => match pair {
            Some(pair) => pair.value.cmp(value),
            None => return false,
        },
    };
    compare.relation.holds(ordering)
}
