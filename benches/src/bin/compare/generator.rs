//! The closed loop: every client sends one operation, waits for its answer, and sends the next.
//!
//! The same code drives every store; only [`Target`] differs. Clients are tasks, spread evenly over the connections. A failed operation
//! is counted, and its client rests for [`FAILURE_PAUSE`] so that a store which refuses at once is not credited with speed.
//!
//! Absent: an open loop (fixed arrival rate), which is what tells queueing delay under a given load. Here latency and throughput
//! are two views of one thing: clients = throughput × mean latency.

use crate::cpu::CpuClock;
use crate::measurement::{Measurement, Tally, Window};
use crate::target::Target;
use crate::workload::{Choices, Operation, Workload};
use anyhow::{Context, bail};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long a client rests after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
/// How long after the window the last answers may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Clients that write every key once before anything is measured.
const PRELOAD_CLIENTS: usize = 64;
/// How long that may take.
const PRELOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// One cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) operation: Operation,
    pub(crate) clients: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// Runs one cell against open connections.
pub(crate) async fn run<T: Target>(
    connections: &[T],
    workload: &Arc<Workload>,
    plan: Plan,
    store_processes: &[u32],
) -> anyhow::Result<Measurement> {
    assert!(
        !connections.is_empty() && plan.clients > 0,
        "{} clients on {} connections",
        plan.clients,
        connections.len()
    );
    let from = Instant::now() + plan.warm_up;
    let window = Window { from, until: from + plan.measured };
    let mut clients = JoinSet::new();
    for client in 0..plan.clients {
        let target = connections[client % connections.len()].clone();
        clients.spawn(run_client(target, Arc::clone(workload), plan.operation, client, window));
    }
    tokio::time::sleep_until(window.from.into()).await;
    let before = CpuClock::read(store_processes)?;
    tokio::time::sleep_until(window.until.into()).await;
    let cpu = CpuClock::read(store_processes)?.since(before);
    let tally = tokio::time::timeout(DRAIN_TIMEOUT, collect(&mut clients)).await.with_context(|| {
        format!("{} s after the end some of {} clients still wait for an answer", DRAIN_TIMEOUT.as_secs(), plan.clients)
    })??;
    if tally.completed() == 0 {
        let cause = tally.first_failure().unwrap_or("every operation took longer than that");
        bail!("no {} succeeded in {} s: {cause}", plan.operation, plan.measured.as_secs());
    }
    Ok(Measurement { tally, measured: plan.measured, cpu })
}

async fn collect(clients: &mut JoinSet<Tally>) -> anyhow::Result<Tally> {
    let mut all = Tally::new();
    while let Some(tally) = clients.join_next().await {
        all.merge(tally.context("a client ended in a panic")?);
    }
    Ok(all)
}

async fn run_client<T: Target>(
    target: T,
    workload: Arc<Workload>,
    operation: Operation,
    client: usize,
    window: Window,
) -> Tally {
    let mut tally = Tally::new();
    let mut choices = Choices::of_client(client);
    loop {
        let key = choices.key(&workload);
        let value = choices.value(&workload);
        let began = Instant::now();
        if began >= window.until {
            return tally;
        }
        let outcome = match operation {
            Operation::Put => target.put(key, value).await,
            Operation::Get => target.get(key.clone()).await.and_then(|found| workload.check(&key, found.as_ref())),
        };
        match outcome {
            Ok(()) => tally.succeeded(window, began, Instant::now()),
            Err(failure) => {
                tally.failed(&failure);
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// Writes every key once, so that every get finds one and every put overwrites one.
pub(crate) async fn preload<T: Target>(connection: &T, workload: &Arc<Workload>) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for client in 0..PRELOAD_CLIENTS {
        let (target, workload) = (connection.clone(), Arc::clone(workload));
        clients.spawn(async move {
            let mut choices = Choices::of_client(client);
            for number in (client as u64..workload.keys()).step_by(PRELOAD_CLIENTS) {
                target.put(Workload::key(number), choices.value(&workload)).await?;
            }
            anyhow::Ok(())
        });
    }
    let written = async {
        while let Some(outcome) = clients.join_next().await {
            outcome.context("a client ended in a panic")?.context("cannot write the first values")?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PRELOAD_TIMEOUT, written)
        .await
        .with_context(|| format!("{} keys were not written within {} s", workload.keys(), PRELOAD_TIMEOUT.as_secs()))?
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use bytes::Bytes;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A map in memory that fails one operation in ten if told to.
    #[derive(Clone, Default)]
    struct MapTarget {
        map: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
        operations: Arc<AtomicU64>,
        fails: bool,
    }

    impl MapTarget {
        fn step(&self) -> anyhow::Result<()> {
            let operation = self.operations.fetch_add(1, Ordering::Relaxed);
            if self.fails && operation % 10 == 9 {
                bail!("the tenth operation fails");
            }
            Ok(())
        }
    }

    impl Target for MapTarget {
        async fn put(&self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
            tokio::task::yield_now().await;
            self.step()?;
            self.map.lock().unwrap().insert(key, value);
            Ok(())
        }

        async fn get(&self, key: Bytes) -> anyhow::Result<Option<Bytes>> {
            tokio::task::yield_now().await;
            self.step()?;
            Ok(self.map.lock().unwrap().get(&key).cloned())
        }
    }

    fn plan(operation: Operation) -> Plan {
        Plan { operation, clients: 8, warm_up: Duration::from_millis(20), measured: Duration::from_millis(100) }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_key_is_there_after_the_preload_and_gets_find_them() {
        let target = MapTarget::default();
        let workload = Arc::new(Workload::new(500, 16));
        preload(&target, &workload).await.unwrap();
        assert_eq!(target.map.lock().unwrap().len(), 500);
        let measurement =
            run(std::slice::from_ref(&target), &workload, plan(Operation::Get), &[std::process::id()]).await.unwrap();
        assert_eq!(measurement.tally.failures(), 0, "{:?}", measurement.tally.first_failure());
        assert!(measurement.tally.completed() > 0);
        assert!(measurement.tally.completed() <= target.operations.load(Ordering::Relaxed));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn failures_are_counted_and_named() {
        let target = MapTarget { fails: true, ..MapTarget::default() };
        let workload = Arc::new(Workload::new(500, 16));
        let measurement = run(std::slice::from_ref(&target), &workload, plan(Operation::Put), &[]).await.unwrap();
        assert_eq!(measurement.tally.failures(), target.operations.load(Ordering::Relaxed) / 10);
        assert_eq!(measurement.tally.first_failure(), Some("the tenth operation fails"));
    }

    #[tokio::test]
    async fn a_store_that_lost_everything_fails_the_cell() {
        let workload = Arc::new(Workload::new(500, 16));
        let Err(error) = run(&[MapTarget::default()], &workload, plan(Operation::Get), &[]).await else {
            panic!("gets of keys that do not exist were counted");
        };
        assert!(error.to_string().contains("not found"), "{error}");
    }
}
