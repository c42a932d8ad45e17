//! Who is let in: only the cluster's own certificates, each role on its own port.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Cluster, eventually, stderr};
use std::path::Path;
use std::process::{Command, Output};

/// Puts through `endpoint` with the certificate and key at `pair` and the authority at `ca`.
fn put(endpoint: &str, ca: &Path, pair: Option<(&Path, &Path)>) -> Output {
    let mut command = Command::new(common::cli_binary());
    command.args(["--endpoints", endpoint, "--timeout", "5s"]).arg("--ca").arg(ca);
    if let Some((certificate, key)) = pair {
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    for name in ["RAFTKV_ENDPOINTS", "RAFTKV_CA", "RAFTKV_CERT", "RAFTKV_KEY"] {
        command.env_remove(name);
    }
    command.args(["put", "key", "value"]).output().unwrap()
}

/// Asserts that the CLI ended with 7 and the node's log has gained a line that names the cause.
async fn refused(cluster: &Cluster, output: &Output, cause: &[&str]) {
    assert_eq!(output.status.code(), Some(7), "{}", stderr(output));
    assert!(stderr(output).contains("try:"), "the error names a next step: {}", stderr(output));
    eventually(&format!("a log line about {cause:?}; the log is\n{}", cluster.nodes[0].log()), async || {
        let log = cluster.nodes[0].log();
        log.lines().any(|line| line.contains("WARN") && cause.iter().all(|word| line.contains(word))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_cluster_is_refused() {
    let cluster = Cluster::start(1).await;
    let other = Cluster::provision(1);
    let admin = other.out().join("admin");
    let own_ca = cluster.out().join("admin/ca.crt");
    let output =
        put(cluster.nodes[0].client_address(), &own_ca, Some((&admin.join("client.crt"), &admin.join("client.key"))));
    // The command line sees before it dials that the certificate is not from the authority given with it.
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let both_foreign = put(
        cluster.nodes[0].client_address(),
        &admin.join("ca.crt"),
        Some((&admin.join("client.crt"), &admin.join("client.key"))),
    );
    // It is the command line that turns the node down here, and the node says so.
    let words = stderr(&both_foreign);
    assert!(words.contains("its certificate is not from this cluster's authority"), "{words}");
    refused(&cluster, &both_foreign, &["refused", "our certificate: not from its cluster's authority"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_on_the_peer_port_is_refused() {
    let cluster = Cluster::start(1).await;
    let admin = cluster.out().join("admin");
    let output = put(
        &cluster.nodes[0].config.own_member().peer,
        &admin.join("ca.crt"),
        Some((&admin.join("client.crt"), &admin.join("client.key"))),
    );
    let cause = "it speaks another protocol (ALPN): clients belong on the client port, nodes on the peer port";
    assert!(stderr(&output).contains(cause), "{}", stderr(&output));
    refused(&cluster, &output, &["refused", "peer", cause]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_the_client_port_is_refused() {
    let cluster = Cluster::start(1).await;
    let node = cluster.out().join("n1");
    let output = put(
        cluster.nodes[0].client_address(),
        &node.join("ca.crt"),
        Some((&node.join("node.crt"), &node.join("node.key"))),
    );
    refused(&cluster, &output, &["refused", "node"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_is_refused() {
    let cluster = Cluster::start(1).await;
    let output = put(cluster.nodes[0].client_address(), &cluster.out().join("admin/ca.crt"), None);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stderr(&output).contains("RAFTKV_CERT"), "{}", stderr(&output));
}
