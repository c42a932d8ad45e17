//! Nodes that are, or take themselves for, the only voter: what one of them does about a loss depends on whether others can repair it, and that
//! must be known even if what knew it best was lost.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use client::{CertificateAuthority, MemberEdit, NewMember};
use common::{Cluster, TestNode, eventually};
use raftkv::config::{Config, FILE_NAME};
use raftkv::ports::free_runs_of_three;
use std::fs;

/// Adds a member, starts its node, and gives it its vote once it has caught up.
async fn grow(cluster: &mut Cluster, name: &str) {
    let client = cluster.client();
    let port = free_runs_of_three(1).unwrap()[0];
    let member = NewMember {
        name: name.to_owned(),
        client_address: format!("127.0.0.1:{port}"),
        peer_address: format!("127.0.0.1:{}", port + 1),
    };
    let id = client.change_members(vec![MemberEdit::Add(member)], false).await.unwrap().added[0];
    let config = client.node_config(id).await.unwrap();
    let folder = cluster.out().join(name);
    let authority = CertificateAuthority::load(&cluster.out().join("ca")).unwrap();
    authority.write_node_directory(&folder, id, &config).unwrap();
    let config = Config::load(&folder.join(FILE_NAME)).unwrap();
    let mut node = TestNode { name: name.to_owned(), folder, config, child: None };
    node.start();
    cluster.nodes.push(node);
    eventually("the new member may vote", || async {
        client.change_members(vec![MemberEdit::Promote(id)], false).await.ok()
    })
    .await;
}

/// A founder of one whose group has grown to three and has gone on without it.
async fn founder_that_is_down() -> Cluster {
    let mut cluster = Cluster::start(1).await;
    grow(&mut cluster, "n2").await;
    grow(&mut cluster, "n3").await;
    let client = cluster.client();
    for number in 0..50 {
        client.put((format!("key{number}"), "value")).await.unwrap();
    }
    // What it knows of the others is in its log, and has been applied.
    cluster.settled().await;
    cluster.nodes[0].kill();
    eventually("the others go on", || async { client.put(("after", "value")).await.ok() }).await;
    fs::write(cluster.nodes[0].data().join("wal/high-water"), "").unwrap();
    cluster
}

async fn is_a_voter_again(cluster: &mut Cluster) {
    eventually("the founder is repaired and votes again", || async {
        let status = cluster.nodes[0].status().await?;
        (status.voters == [1, 2, 3] && !status.under_repair && status.leader.is_some()).then_some(())
    })
    .await;
    assert!(cluster.nodes[0].log().contains("repaired"), "{}", cluster.nodes[0].log());
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
}

fn is_told_to_join(node: &TestNode) {
    let path = node.folder.join(FILE_NAME);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("[cluster]\n", "[cluster]\njoining = true\n", 1)).unwrap();
}

fn is_untouched(node: &TestNode) {
    assert!(!node.data().join("damaged-1").exists() && node.data().join("wal").exists(), "something was moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_of_one_is_repaired_by_those_who_joined() {
    let mut cluster = founder_that_is_down().await;
    cluster.nodes[0].start();
    is_a_voter_again(&mut cluster).await;
}

/// Its state is from before the others joined, and the note is gone: the operator knows better.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_tells_a_founder_of_those_who_joined() {
    let mut cluster = founder_that_is_down().await;
    fs::remove_file(cluster.nodes[0].data().join("PEERS")).unwrap();
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].wait().code(), Some(9), "{}", cluster.nodes[0].log());
    assert!(cluster.nodes[0].log().contains("joining = true"), "names the way out: {}", cluster.nodes[0].log());
    is_untouched(&cluster.nodes[0]);
    is_told_to_join(&cluster.nodes[0]);
    cluster.nodes[0].start();
    is_a_voter_again(&mut cluster).await;
}

/// What is left when a group of three has shrunk to `voter`, killed, its state damaged.
async fn shrunk_to(voter: usize, cluster: &mut Cluster) {
    let client = cluster.client();
    client.put(("key", "value")).await.unwrap();
    let own = cluster.nodes[voter].config.node.id;
    client.transfer_leadership(Some(own)).await.unwrap_or(own);
    let others: Vec<u64> = cluster.nodes.iter().map(|node| node.config.node.id).filter(|id| *id != own).collect();
    for id in others {
        eventually("a member is removed", || async {
            client.change_members(vec![MemberEdit::Remove(id)], false).await.ok()
        })
        .await;
    }
    eventually("it is alone", || async {
        cluster.nodes[voter].status().await.filter(|status| status.voters == [own] && status.role == "leader")
    })
    .await;
    cluster.client_at(voter).put(("only", "here")).await.unwrap();
    cluster.nodes[voter].kill();
    fs::write(cluster.nodes[voter].data().join("state/CURRENT"), "nonsense").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_voter_left_moves_nothing_when_its_state_is_damaged() {
    let mut cluster = Cluster::start(3).await;
    shrunk_to(0, &mut cluster).await;
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].wait().code(), Some(9), "{}", cluster.nodes[0].log());
    assert!(cluster.nodes[0].log().contains("only voter"), "{}", cluster.nodes[0].log());
    is_untouched(&cluster.nodes[0]);
}

/// It was let in by others, and its configuration says so still; they are gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_voter_left_moves_nothing_even_if_it_had_joined() {
    let mut cluster = Cluster::start(1).await;
    grow(&mut cluster, "n2").await;
    assert!(cluster.nodes[1].config.cluster.joining);
    shrunk_to(1, &mut cluster).await;
    // Without the note, the log knows it.
    fs::write(cluster.nodes[1].data().join("PEERS"), "").unwrap();
    cluster.nodes[1].start();
    assert_eq!(cluster.nodes[1].wait().code(), Some(9), "{}", cluster.nodes[1].log());
    is_untouched(&cluster.nodes[1]);
}
