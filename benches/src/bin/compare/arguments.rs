//! The command line.

use crate::results::Store;
use crate::target::Endpoints;
use crate::workload::Operation;
use anyhow::Context;
use std::path::PathBuf;

/// Clients that share one connection unless --connections says otherwise.
const CLIENTS_PER_CONNECTION: usize = 100;

/// Measures puts and linearizable gets of etcd and raftkv, three nodes each on this machine, and prints a Markdown table
#[derive(Debug, clap::Parser)]
#[command(
    name = "compare",
    version,
    after_help = "Example:\n  compare --rounds 5 --seconds 10 --json compare.json > table.md"
)]
pub(crate) struct Arguments {
    /// Measured seconds of each cell
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Seconds of the same work before each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) warmup: u64,
    /// How often each store is started afresh and measured; the stores take turns
    #[arg(long, default_value_t = 3, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100))]
    pub(crate) rounds: usize,
    /// Numbers of clients, each waiting for its answer before it asks again
    #[arg(long, value_delimiter = ',', default_value = "1,64,1000",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=20_000))]
    pub(crate) clients: Vec<usize>,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "put,get")]
    pub(crate) operations: Vec<Operation>,
    /// Length of every value
    #[arg(long, default_value_t = 256, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) value_bytes: usize,
    /// How many keys are written and read
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) keys: u64,
    /// Connections to either store [default: one for every hundred clients or fewer]
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub(crate) connections: Option<usize>,
    /// Measure this store alone
    #[arg(long)]
    pub(crate) only: Option<Only>,
    /// Measure etcd with mutual TLS as well
    #[arg(long)]
    pub(crate) etcd_tls: bool,
    /// Which members etcd's clients connect to
    #[arg(long, default_value = "leader")]
    pub(crate) etcd_endpoints: Endpoints,
    /// Which nodes raftkv's clients read from; writes always go to the leader, which a client finds by itself
    #[arg(long, default_value = "leader")]
    pub(crate) raftkv_endpoints: Endpoints,
    /// The binary etcd [default: the one on PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_bin: Option<PathBuf>,
    /// The directory of the binary raftkv [default: where this program is]
    #[arg(long, value_name = "DIR")]
    pub(crate) raftkv_bin: Option<PathBuf>,
    /// Where the temporary data directories of both stores go; must be on a disk [default: where this program was built]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Also write every cell of every round there
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    /// etcd
    Etcd,
    /// raftkv
    Raftkv,
}

impl Arguments {
    /// The stores of one round, in their order.
    pub(crate) fn stores(&self) -> Vec<Store> {
        let mut stores = Vec::new();
        if self.only != Some(Only::Raftkv) {
            stores.push(Store::Etcd);
            if self.etcd_tls {
                stores.push(Store::EtcdTls);
            }
        }
        if self.only != Some(Only::Etcd) {
            stores.push(Store::Raftkv);
        }
        stores
    }

    /// How many connections this many clients share.
    pub(crate) fn connections_for(&self, clients: usize) -> usize {
        self.connections.unwrap_or_else(|| clients.div_ceil(CLIENTS_PER_CONNECTION)).min(clients)
    }

    /// Where the temporary directory goes.
    pub(crate) fn data_parent(&self) -> anyhow::Result<PathBuf> {
        if let Some(folder) = &self.dir {
            return Ok(folder.clone());
        }
        let own_binary = std::env::current_exe().context("cannot find this binary")?;
        Ok(own_binary.parent().context("a binary lies in a directory")?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_published_table() {
        let arguments = Arguments::parse_from(["compare"]);
        assert_eq!(arguments.clients, [1, 64, 1000]);
        assert_eq!(arguments.stores(), [Store::Etcd, Store::Raftkv]);
        let connections: Vec<usize> =
            arguments.clients.iter().map(|clients| arguments.connections_for(*clients)).collect();
        assert_eq!(connections, [1, 1, 10]);
    }

    #[test]
    fn no_more_connections_than_clients() {
        let arguments = Arguments::parse_from(["compare", "--connections", "8", "--only", "etcd", "--etcd-tls"]);
        assert_eq!(arguments.connections_for(1), 1);
        assert_eq!(arguments.connections_for(64), 8);
        assert_eq!(arguments.stores(), [Store::Etcd, Store::EtcdTls]);
    }
}
