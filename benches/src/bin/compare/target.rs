//! What the generator drives: one connection to a store that can put and get.

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use std::path::Path;
use std::process::Command;

/// One connection (or what a store's client makes of one), shared by many clients. Cloning it gives another handle on the same one.
pub(crate) trait Target: Clone + Send + Sync + 'static {
    /// Writes one key; done when the store has acknowledged that the write is durable on a majority.
    fn put(&self, key: Bytes, value: Bytes) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Reads one key, linearizably. `None`: it does not exist.
    fn get(&self, key: Bytes) -> impl Future<Output = anyhow::Result<Option<Bytes>>> + Send;
}

/// Which nodes clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Endpoints {
    /// Every connection goes to the leader, which saves forwarding
    Leader,
    /// Connections are dealt out to all nodes in turn
    All,
}

/// Three running nodes of one store. Dropping it ends them.
pub(crate) trait Cluster {
    /// How clients reach it.
    type Target: Target;

    /// Opens this many connections.
    async fn connect(&self, connections: usize) -> anyhow::Result<Vec<Self::Target>>;

    /// The process of each node.
    fn process_ids(&self) -> Vec<u32>;

    /// Fails when a node has ended by itself.
    fn check_running(&mut self) -> anyhow::Result<()>;

    /// Ends every node and waits for it.
    async fn stop(self) -> anyhow::Result<()>;
}

/// The version number a program prints when asked with `--version`.
pub(crate) fn version_of(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {} --version", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text)
        .with_context(|| format!("{} --version names no version; is this the right program?", program.display()))
}

/// The first word that starts with a digit.
fn parse_version(text: &str) -> Option<String> {
    text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        assert_eq!(parse_version("etcd Version: 3.4.23\nGit SHA: 9f5\n").as_deref(), Some("3.4.23"));
        assert_eq!(parse_version("raftkv 0.1.0\n").as_deref(), Some("0.1.0"));
        assert_eq!(parse_version("usage: none\n"), None);
    }
}
