//! `compare`: raftkv beside etcd, on this machine, in one run.
//!
//! The program starts three nodes of a store, drives them in a closed loop, stops them, and does the same with the other store; then
//! again, as many rounds as asked for. Only one store runs at a time, so neither takes CPU or disk from the other, and neighbouring runs
//! are compared pair by pair, so a machine that gets slower or faster does not decide who wins.
//!
//! Everything stays on loopback and below one temporary directory, which is removed at the end together with every process
//! that was started. `docs/benchmarks.md` says how to read the table.

mod arguments;
mod cpu;
mod etcd;
mod generator;
mod machine;
mod measurement;
mod ports;
mod raftkv;
mod report;
mod results;
mod statistics;
mod supervised;
mod target;
mod workload;

use anyhow::{Context, bail};
use arguments::Arguments;
use clap::Parser;
use etcd::{Etcd, EtcdSettings};
use generator::Plan;
use machine::Machine;
use raftkv::Raftkv;
use results::{Cell, Results, Settings, Store};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use target::Cluster;
use tokio::signal::unix::{SignalKind, signal};
use workload::Workload;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let outcome = if arguments.next().is_some_and(|first| first == supervised::FLAG) {
        Err(supervised::become_program(arguments))
    } else {
        measure(&Arguments::parse())
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("compare: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start a runtime")?;
    // On this thread, which therefore outlives every process it starts.
    let results = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        // Giving up drops the nodes and the temporary directory with them.
        tokio::select! {
            results = run(arguments) => results,
            _ = interrupt.recv() => bail!("interrupted; nothing was measured to the end"),
            _ = terminate.recv() => bail!("terminated; nothing was measured to the end"),
        }
    })?;
    let mut out = std::io::stdout().lock();
    out.write_all(report::markdown(&results).as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write the table")?;
    if let Some(path) = &arguments.json {
        let json = serde_json::to_vec_pretty(&results).context("cannot write the results as JSON")?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("Raw results are in {}.\n", path.display()));
    }
    Ok(())
}

/// The binaries, found before anything is started.
struct Programs {
    etcd: Option<PathBuf>,
    raftkv: Option<PathBuf>,
}

async fn run(arguments: &Arguments) -> anyhow::Result<Results> {
    let stores = arguments.stores();
    let (programs, versions) = find_programs(arguments, &stores)?;
    let parent = arguments.data_parent()?;
    let machine = Machine::look(&parent)?;
    machine.check_disk(&parent)?;
    let folder = tempfile::Builder::new()
        .prefix("compare-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot make a directory in {}; choose another with --dir", parent.display()))?;
    let settings = Settings {
        rounds: arguments.rounds,
        warm_up_seconds: arguments.warmup,
        seconds: arguments.seconds,
        keys: arguments.keys,
        value_bytes: arguments.value_bytes,
        connections: arguments.connections,
        etcd_endpoints: arguments.etcd_endpoints,
        raftkv_endpoints: arguments.raftkv_endpoints,
    };
    let mut results = Results { machine, versions, settings, cells: Vec::new() };
    let workload = Arc::new(Workload::new(arguments.keys, arguments.value_bytes));
    for round in 1..=arguments.rounds {
        for store in &stores {
            let data = folder.path().join(format!("{round}-{}", store.name().replace(' ', "-")));
            let turn = Turn { arguments, round, store: *store, workload: &workload };
            turn.run(&data, &programs, &mut results.cells).await?;
            std::fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
            // What one store left for the kernel to write is not to be paid for by the next.
            rustix::fs::sync();
        }
    }
    folder.close().context("cannot remove the temporary directory")?;
    Ok(results)
}

fn find_programs(arguments: &Arguments, stores: &[Store]) -> anyhow::Result<(Programs, Vec<(Store, String)>)> {
    let mut programs = Programs { etcd: None, raftkv: None };
    let mut versions = Vec::new();
    for store in stores {
        let program = match (store, &arguments.etcd_bin) {
            (Store::Raftkv, _) => programs.raftkv.insert(raftkv::find(arguments.raftkv_bin.as_deref())?),
            (Store::Etcd | Store::EtcdTls, Some(program)) => programs.etcd.insert(program.clone()),
            (Store::Etcd | Store::EtcdTls, None) => programs.etcd.insert(etcd::find()?),
        };
        versions.push((*store, target::version_of(program)?));
    }
    Ok((programs, versions))
}

/// One store in one round.
struct Turn<'a> {
    arguments: &'a Arguments,
    round: usize,
    store: Store,
    workload: &'a Arc<Workload>,
}

impl Turn<'_> {
    async fn run(&self, data: &Path, programs: &Programs, cells: &mut Vec<Cell>) -> anyhow::Result<()> {
        match (self.store, &programs.etcd, &programs.raftkv) {
            (Store::Raftkv, _, Some(program)) => {
                self.measure(Raftkv::start(data, program, self.arguments.raftkv_endpoints).await?, cells).await
            }
            (Store::Etcd | Store::EtcdTls, Some(program), _) => {
                let settings = EtcdSettings {
                    program: program.clone(),
                    endpoints: self.arguments.etcd_endpoints,
                    tls: self.store == Store::EtcdTls,
                };
                self.measure(Etcd::start(data, &settings).await?, cells).await
            }
            (store, _, _) => bail!("{} was to be measured and was not looked for", store.name()),
        }
        .with_context(|| format!("round {} of {}", self.round, self.store.name()))
    }

    async fn measure<C: Cluster>(&self, mut cluster: C, cells: &mut Vec<Cell>) -> anyhow::Result<()> {
        let processes = cluster.process_ids();
        say(&format!(
            "round {} of {}: {} runs as processes {processes:?}\n",
            self.round,
            self.arguments.rounds,
            self.store.name()
        ));
        let first = cluster.connect(1).await?;
        generator::preload(&first[0], self.workload).await?;
        drop(first);
        for operation in &self.arguments.operations {
            for clients in &self.arguments.clients {
                let plan = Plan {
                    operation: *operation,
                    clients: *clients,
                    warm_up: Duration::from_secs(self.arguments.warmup),
                    measured: Duration::from_secs(self.arguments.seconds),
                };
                let connections = cluster.connect(self.arguments.connections_for(*clients)).await?;
                let outcome = generator::run(&connections, self.workload, plan, &processes).await;
                cluster.check_running()?;
                let measurement = outcome.with_context(|| format!("{operation} with {clients} clients"))?;
                let cell = Cell::new(self.round, self.store, *operation, *clients, connections.len(), &measurement);
                say(&format!(
                    "  {operation} with {clients} clients: {:.0}/s, p99 {:.2} ms\n",
                    cell.operations_per_second,
                    cell.p99_us as f64 / 1e3
                ));
                cells.push(cell);
            }
        }
        cluster.stop().await
    }
}

/// Progress and errors go to stderr; stdout is for the table alone.
fn say(text: &str) {
    // Without a reader there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
