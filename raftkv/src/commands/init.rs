//! `raftkv init`.

use super::Failure;
use anyhow::Context;
use raftkv::exit::USAGE;
use raftkv::provision::{ClusterSettings, NodeSpec, provision, random_cluster_id};
use std::io::Write;
use std::path::PathBuf;
use transport::ClusterId;

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  raftkv init --dir out --node n1=10.0.0.1:7420 --node n2=10.0.0.2:7420 --node n3=10.0.0.3:7420"
)]
pub(crate) struct Arguments {
    /// Directory to create; must not exist or be empty
    #[arg(long, value_name = "OUT")]
    dir: PathBuf,
    /// A node: its name and where the others reach it. Clients use PORT (default 7420), peers PORT+1, the local status page PORT+2
    #[arg(long = "node", value_name = "NAME=HOST[:PORT]", required = true)]
    nodes: Vec<NodeSpec>,
    /// Name of the cluster, in every certificate: a-z, 0-9, `-` [default: kv- and a random number]
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    /// The longest key, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = ClusterSettings::default().key_bytes_max)]
    key_bytes_max: u64,
    /// The longest value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = ClusterSettings::default().value_bytes_max)]
    value_bytes_max: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cluster = arguments.cluster.clone().unwrap_or_else(random_cluster_id);
    let settings = ClusterSettings {
        key_bytes_max: arguments.key_bytes_max,
        value_bytes_max: arguments.value_bytes_max,
        ..ClusterSettings::default()
    };
    let folders =
        provision(&arguments.dir, &cluster, &arguments.nodes, settings).map_err(|error| Failure::new(USAGE, error))?;
    let out = arguments.dir.display();
    let mut text = format!("Cluster {cluster} is provisioned in {out}.\n\n");
    for (folder, node) in folders.iter().zip(&arguments.nodes) {
        text.push_str(&format!(
            "  {}: copy {} to {} and run: raftkv start --dir {}\n",
            node.name,
            folder.display(),
            node.host,
            node.name
        ));
    }
    text.push_str(&format!(
        "\nKeep {out}/ca/ca.key away from the nodes: whoever has it can join the cluster.\n\
         To use the cluster: . {out}/admin/env && raftkv-cli status\n"
    ));
    std::io::stderr().write_all(text.as_bytes()).context("cannot write to stderr")?;
    Ok(())
}
