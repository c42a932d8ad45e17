//! Commands that look at the cluster and change its members, on a cluster of three nodes that the first one leads.

use crate::common::{Cluster, TestNode, eventually, stderr};
use crate::transcript::Transcript;
use raftkv::config::{Config, FILE_NAME};
use raftkv::ports::free_runs_of_three;

/// Three nodes, of which n1 leads, so that every run prints the same.
pub(crate) async fn led_by_the_first() -> Cluster {
    let mut cluster = Cluster::start(3).await;
    while cluster.agreed_leader().await != 0 {
        let moved = cluster.cli(&["--timeout", "20s", "leader", "transfer", "n1"]);
        assert!(moved.status.success(), "{}", stderr(&moved));
    }
    cluster.settled().await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn status_version_and_leader() {
    let mut cluster = led_by_the_first().await;
    let run = |cluster: &Cluster, transcript: &mut Transcript, line: &[&str]| {
        transcript.run(cluster.cli_at(&cluster.endpoints()), line);
    };
    let mut transcript = Transcript::of(&cluster);
    transcript.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    run(&cluster, &mut transcript, &["version"]);
    run(&cluster, &mut transcript, &["version", "-o", "json"]);
    transcript.check("version");

    let mut transcript = Transcript::of(&cluster);
    transcript.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    transcript.numbers_vary();
    run(&cluster, &mut transcript, &["status"]);
    run(&cluster, &mut transcript, &["status", "-o", "plain"]);
    run(&cluster, &mut transcript, &["status", "-o", "json"]);
    cluster.nodes[2].kill();
    run(&cluster, &mut transcript, &["status", "--timeout", "1s"]);
    transcript.check("status");
    cluster.nodes[2].start();
    cluster.agreed_leader().await;
    cluster.settled().await;

    let mut transcript = Transcript::of(&cluster);
    run(&cluster, &mut transcript, &["leader", "show"]);
    run(&cluster, &mut transcript, &["leader", "transfer", "n2", "--timeout", "20s"]);
    run(&cluster, &mut transcript, &["leader", "transfer", "n2", "-o", "json", "--timeout", "20s"]);
    run(&cluster, &mut transcript, &["leader", "transfer", "nobody"]);
    transcript.check("leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn members() {
    let mut cluster = led_by_the_first().await;
    let port = free_runs_of_three(1).expect("there are free ports")[0];
    let (client, peer) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
    let (out, ca) = (cluster.out().join("n4"), cluster.out().join("ca"));
    let (out, ca) = (out.display().to_string(), ca.display().to_string());
    let mut transcript = Transcript::of(&cluster);
    transcript.replace(&client, "N4");
    transcript.replace(&peer, "N4-PEER");
    let add = ["member", "add", "n4", "--client", &client, "--peer", &peer];
    let run = |cluster: &Cluster, transcript: &mut Transcript, line: &[&str]| {
        transcript.run(cluster.cli_at(&cluster.endpoints()), line);
    };
    run(&cluster, &mut transcript, &["member", "list"]);
    run(&cluster, &mut transcript, &["member", "list", "-o", "json"]);
    run(&cluster, &mut transcript, &[&add[..], &["--dry-run"]].concat());
    run(&cluster, &mut transcript, &add);
    run(&cluster, &mut transcript, &[&add[..], &["--ca-dir", "/nonexistent"]].concat());
    run(&cluster, &mut transcript, &[&add[..], &["--ca-dir", &ca, "--out", &out]].concat());
    let folder = cluster.out().join("n4");
    let config = Config::load(&folder.join(FILE_NAME)).expect("the command wrote the directory of the node");
    let mut node = TestNode { name: "n4".to_owned(), folder, config, child: None };
    node.start();
    cluster.nodes.push(node);
    eventually("the new member follows", || async { cluster.nodes[3].status().await?.leader }).await;
    run(&cluster, &mut transcript, &["member", "promote", "n4", "--timeout", "30s"]);
    run(&cluster, &mut transcript, &["member", "promote", "n4"]);
    run(&cluster, &mut transcript, &["member", "remove", "n4", "--dry-run", "-o", "json"]);
    run(&cluster, &mut transcript, &["member", "remove", "4", "--timeout", "30s"]);
    run(&cluster, &mut transcript, &["member", "remove", "n4"]);
    transcript.check("member");
    assert!(cluster.nodes[3].wait().success(), "{}", cluster.nodes[3].log());
}
