//! Every cell of every round, and what was asked for: the raw results, written as JSON.

use crate::machine::Machine;
use crate::measurement::Measurement;
use crate::target::Endpoints;
use crate::workload::Operation;
use serde::Serialize;
use std::time::Duration;

/// A store as it was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Store {
    /// etcd over plain TCP.
    #[serde(rename = "etcd")]
    Etcd,
    /// etcd over mutual TLS.
    #[serde(rename = "etcd-tls")]
    EtcdTls,
    /// raftkv, which knows nothing but mutual TLS.
    #[serde(rename = "raftkv")]
    Raftkv,
}

impl Store {
    /// Its name in a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Store::Etcd => "etcd",
            Store::EtcdTls => "etcd with TLS",
            Store::Raftkv => "raftkv",
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    pub(crate) warm_up_seconds: u64,
    pub(crate) seconds: u64,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    /// `None`: one connection for each hundred clients or fewer.
    pub(crate) connections: Option<usize>,
    pub(crate) etcd_endpoints: Endpoints,
    pub(crate) raftkv_endpoints: Endpoints,
}

/// One operation at one number of clients, of one store in one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    pub(crate) round: usize,
    pub(crate) store: Store,
    pub(crate) operation: Operation,
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    pub(crate) operations: u64,
    pub(crate) operations_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
    /// CPU time for one operation, all three nodes together.
    pub(crate) store_cpu_us_per_operation: f64,
    /// CPU time for one operation in this program.
    pub(crate) generator_cpu_us_per_operation: f64,
    /// CPUs kept busy by neither: other programs, and the kernel's own threads.
    pub(crate) cpus_used_elsewhere: f64,
}

impl Cell {
    /// Sums a measurement up.
    pub(crate) fn new(
        round: usize,
        store: Store,
        operation: Operation,
        clients: usize,
        connections: usize,
        measurement: &Measurement,
    ) -> Cell {
        let tally = &measurement.tally;
        let operations = tally.completed();
        assert!(operations > 0, "a cell without a single operation is an error, not a result");
        let each_us = |time: Duration| time.as_secs_f64() * 1e6 / operations as f64;
        Cell {
            round,
            store,
            operation,
            clients,
            connections,
            operations,
            operations_per_second: operations as f64 / measurement.measured.as_secs_f64(),
            p50_us: tally.latency_us(0.5),
            p99_us: tally.latency_us(0.99),
            p999_us: tally.latency_us(0.999),
            max_us: tally.latency_max_us(),
            failures: tally.failures(),
            first_failure: tally.first_failure().map(str::to_owned),
            store_cpu_us_per_operation: each_us(measurement.cpu.store),
            generator_cpu_us_per_operation: each_us(measurement.cpu.generator),
            cpus_used_elsewhere: measurement.cpu.elsewhere().as_secs_f64() / measurement.measured.as_secs_f64(),
        }
    }
}

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// What each store says of its version, in the order they ran.
    pub(crate) versions: Vec<(Store, String)>,
    pub(crate) settings: Settings,
    pub(crate) cells: Vec<Cell>,
}

impl Results {
    /// One figure of one store over the rounds, in their order.
    pub(crate) fn over_rounds(&self, store: Store, row: (Operation, usize), figure: impl Fn(&Cell) -> f64) -> Vec<f64> {
        let mut cells: Vec<&Cell> =
            self.cells.iter().filter(|cell| cell.store == store && (cell.operation, cell.clients) == row).collect();
        cells.sort_by_key(|cell| cell.round);
        cells.into_iter().map(figure).collect()
    }

    /// The rows of a table: operations and numbers of clients, in the order they were measured.
    pub(crate) fn rows(&self) -> Vec<(Operation, usize)> {
        let mut rows = Vec::new();
        for cell in &self.cells {
            if !rows.contains(&(cell.operation, cell.clients)) {
                rows.push((cell.operation, cell.clients));
            }
        }
        rows
    }
}
