//! Changing the members of a cluster of real processes, with `raftkv-cli` as an operator would, under writes.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails, and says what it met")]

mod common;

use client::{Error, Level, MemberEdit, Range, Scan};
use common::{Cluster, TestNode, eventually, stderr};
use raftkv::config::{Config, FILE_NAME};
use raftkv::ports::free_runs_of_three;
use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const WRITERS: u64 = 4;

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{:?} {}", output.status, stderr(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

/// Adds a member with the CA at hand; returns its node, which starts from the directory that the command writes.
fn add(cluster: &Cluster, name: &str, port: u16, directory: &str) -> TestNode {
    let out = cluster.out().join(directory);
    let added = cluster
        .cli_at(&cluster.endpoints())
        .args(["--timeout", "20s", "member", "add", name])
        .args(["--client", &format!("127.0.0.1:{port}"), "--peer", &format!("127.0.0.1:{}", port + 1)])
        .arg("--ca-dir")
        .arg(cluster.out().join("ca"))
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(added.status.success(), "{}", stderr(&added));
    assert!(stderr(&added).contains(&format!("raftkv-cli member promote {name}")), "{}", stderr(&added));
    let config = Config::load(&out.join(FILE_NAME)).unwrap();
    TestNode { name: name.to_owned(), folder: out, config, child: None }
}

async fn add_and_start(cluster: &mut Cluster, name: &str) {
    let mut node = add(cluster, name, free_runs_of_three(1).unwrap()[0], name);
    node.start();
    cluster.nodes.push(node);
}

/// Gives a member its vote; waits until it has caught up.
fn promote(cluster: &Cluster, name: &str) {
    let promoted = cluster.cli(&["--timeout", "30s", "member", "promote", name]);
    assert!(promoted.status.success(), "{}\n{}", stderr(&promoted), cluster.logs());
}

async fn grow(cluster: &mut Cluster, name: &str) {
    add_and_start(cluster, name).await;
    promote(cluster, name);
}

/// Removes a member and waits until its process has ended by itself.
fn remove(cluster: &mut Cluster, name: &str) {
    let removed = cluster.cli(&["--timeout", "30s", "member", "remove", name]);
    assert!(removed.status.success(), "{}\n{}", stderr(&removed), cluster.logs());
    let position = cluster.nodes.iter().position(|node| node.name == name).unwrap();
    let mut node = cluster.nodes.remove(position);
    if let Some(child) = &mut node.child {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(std::time::Instant::now() < deadline, "{name} was removed and runs on\n{}", node.log());
            std::thread::sleep(Duration::from_millis(20));
        };
        node.child = None;
        assert_eq!(status.code(), Some(0), "{}", node.log());
    }
}

fn members(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let listed = cluster.cli(&["-o", "json", "member", "list"]);
    assert!(listed.status.success(), "{}", stderr(&listed));
    let lines = String::from_utf8(listed.stdout).unwrap();
    let member = |line: &str| {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        (object["name"].as_str().unwrap().to_owned(), object["kind"].as_str().unwrap().to_owned())
    };
    lines.lines().map(member).collect()
}

/// Waits until exactly these are voters, and there are no learners.
async fn voters_are(cluster: &Cluster, names: &[&str]) {
    let expected: BTreeSet<(String, String)> =
        names.iter().map(|name| ((*name).to_owned(), "voter".to_owned())).collect();
    eventually("the members are as expected", || async { (members(cluster) == expected).then_some(()) }).await;
}

/// Who leads; between two leaders for a moment nobody does.
async fn leader(cluster: &Cluster) -> String {
    eventually("somebody leads", || async {
        let shown = cluster.cli(&["--timeout", "20s", "-o", "json", "leader", "show"]);
        assert!(matches!(shown.status.code(), Some(0 | 5)), "{}", stderr(&shown));
        shown.status.success().then(|| json(&shown)["name"].as_str().unwrap().to_owned())
    })
    .await
}

/// What writers and the test tell each other.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Load {
    /// Waits for a write that is acknowledged from now on.
    async fn goes_on(&self, when: &str) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually(&format!("a write {when}"), || async {
            (self.acknowledged.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }
}

/// Writes until told to stop, each write with a key of its own. Returns the numbers that were acknowledged.
async fn write(client: client::Client, writer: u64, load: Arc<Load>) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !load.stop.load(Ordering::Relaxed) {
        number += 1;
        match client.put((format!("writer{writer}/{number:08}"), number.to_string())).await {
            Ok(_) => {
                acknowledged.push(number);
                load.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::OutcomeUnknown { .. }) => {}
            Err(error) if error.is_certainly_not_applied() => {}
            Err(error) => panic!("writer {writer}: {error}"),
        }
    }
    acknowledged
}

/// Has a learner promoted and kills the leader while the joint membership is in its log and committed nowhere: so long the other voters stand still. Then sees to
/// it that the promotion is made. Returns who led.
async fn kill_in_the_middle_of_a_promotion(cluster: &mut Cluster, name: &str) -> String {
    let learner = cluster.nodes.iter().find(|node| node.name == name).unwrap().config.node.id;
    let deadline = std::time::Instant::now() + common::DEADLINE;
    let led = loop {
        let led = leader(cluster).await;
        let position = cluster.nodes.iter().position(|node| node.name == led).unwrap();
        // Connected before: until it gives up for want of a quorum, the leader takes changes.
        let client = cluster.client_at(position);
        client.status().await.unwrap();
        let others = |node: &&TestNode| node.name != led && node.name != name;
        for node in cluster.nodes.iter().filter(others) {
            node.pause().await;
        }
        let change =
            tokio::spawn(async move { client.change_members(vec![MemberEdit::Promote(learner)], false).await });
        let in_the_middle = loop {
            match cluster.nodes[position].status().await {
                Some(status) if !status.voters_outgoing.is_empty() => break true,
                Some(status) if status.role == "leader" => tokio::time::sleep(Duration::from_millis(5)).await,
                Some(_) | None => break false,
            }
        };
        if in_the_middle {
            cluster.nodes[position].kill();
        }
        cluster.nodes.iter().filter(others).for_each(TestNode::resume);
        let ended = change.await.unwrap();
        if in_the_middle {
            let unknown = matches!(ended, Err(Error::OutcomeUnknown { .. }));
            assert!(unknown, "a change that nobody had committed, and of which nobody knows: {ended:?}");
            cluster.nodes[position].start();
            break led;
        }
        let gave_up = "the leader gave up before the change began, again and again";
        assert!(std::time::Instant::now() < deadline, "{gave_up}: {ended:?}");
        // The client has asked the next leader, which may have made the change by now.
        eventually("a learner again", || async {
            let demoted = cluster.client().change_members(vec![MemberEdit::Demote(learner)], false).await;
            let is_learner = members(cluster).contains(&(name.to_owned(), "learner".to_owned()));
            (demoted.is_ok() || is_learner).then_some(())
        })
        .await;
    };
    // What became of it is for the operator to see: the same change again is made, or says that it was.
    let again = cluster.cli(&["--timeout", "30s", "member", "promote", name]);
    let was_made = stderr(&again).contains("votes already");
    assert!(again.status.success() || was_made, "{}\n{}", stderr(&again), cluster.logs());
    led
}

/// Grows from one to three to five, replaces a node, shrinks to three, under writes, with a kill in the middle of a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_replaces_a_node_and_shrinks_under_writes() {
    let mut cluster = Cluster::start(1).await;
    let load = Arc::new(Load::default());
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(cluster.client(), writer, load.clone()))).collect();
    load.goes_on("before all changes").await;
    for name in ["n2", "n3"] {
        grow(&mut cluster, name).await;
    }
    voters_are(&cluster, &["n1", "n2", "n3"]).await;
    load.goes_on("with three nodes").await;
    for name in ["n4", "n5"] {
        grow(&mut cluster, name).await;
    }
    voters_are(&cluster, &["n1", "n2", "n3", "n4", "n5"]).await;
    load.goes_on("with five").await;

    // A node is replaced, and the leader is killed while that is under way.
    add_and_start(&mut cluster, "n6").await;
    let led = kill_in_the_middle_of_a_promotion(&mut cluster, "n6").await;
    let victim = if led == "n5" { "n4" } else { "n5" };
    remove(&mut cluster, victim);
    let mut left: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    left.sort();
    voters_are(&cluster, &left.iter().map(String::as_str).collect::<Vec<_>>()).await;
    load.goes_on("with a node replaced").await;

    // Back to three, the leader itself among those that go.
    let led = leader(&cluster).await;
    remove(&mut cluster, &led);
    let led = leader(&cluster).await;
    load.goes_on("with the leader removed").await;
    let other = cluster.nodes.iter().map(|node| node.name.clone()).find(|name| *name != led).unwrap();
    remove(&mut cluster, &other);
    let left: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    assert_eq!(left.len(), 3);
    voters_are(&cluster, &left.iter().map(String::as_str).collect::<Vec<_>>()).await;

    load.goes_on("with three again").await;
    load.stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.push(writer.await.unwrap());
    }
    let count: usize = acknowledged.iter().map(Vec::len).sum();
    eprintln!("{count} acknowledged writes");
    assert!(count > 200, "only {count} writes were acknowledged: the cluster did not work during the changes");
    let statuses = cluster.settled().await;
    assert!(statuses.iter().all(|status| status.state_hash == statuses[0].state_hash), "{statuses:#?}");
    for node in 0..3 {
        let all = Scan::new(Range::all()).level(Level::Stale { age_max: None });
        let mut stream = cluster.client_at(node).scan(all).await.unwrap();
        let mut found = BTreeSet::new();
        while let Some(kv) = stream.next().await.unwrap() {
            found.insert(kv.key.to_vec());
        }
        for (writer, numbers) in acknowledged.iter().enumerate() {
            for number in numbers {
                let key = format!("writer{writer}/{number:08}");
                assert!(found.contains(key.as_bytes()), "{key} is lost on {}", cluster.nodes[node].name);
            }
        }
    }
}

/// A change after which the rest could not decide is refused, and shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_would_lose_the_quorum_is_refused_and_shown() {
    let mut cluster = Cluster::start(3).await;
    let led = leader(&cluster).await;
    let others: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != led).collect();
    let dry = cluster.cli(&["member", "remove", &others[0], "--dry-run"]);
    assert!(dry.status.success(), "{}", stderr(&dry));
    let position = cluster.nodes.iter().position(|node| node.name == others[1]).unwrap();
    cluster.nodes[position].kill();
    let refused = eventually("the leader misses the node that is down", || async {
        let tried = cluster.cli(&["-o", "plain", "member", "remove", &others[0], "--dry-run"]);
        (tried.status.code() == Some(8)).then_some(tried)
    })
    .await;
    let shown = String::from_utf8(refused.stdout.clone()).unwrap();
    assert!(shown.contains("before\t") && shown.contains("2 of 3") && shown.contains("2 of 2"), "{shown}");
    assert!(stderr(&refused).contains("unsafe") && stderr(&refused).contains("try:"), "{}", stderr(&refused));
    let for_real = cluster.cli(&["member", "remove", &others[0]]);
    assert_eq!(for_real.status.code(), Some(8), "{}", stderr(&for_real));
    let shown = String::from_utf8(for_real.stdout.clone()).unwrap();
    assert!(shown.contains("2 of 3") && shown.contains("2 of 2"), "{shown}");
    // The one that is down may go: that loses nothing.
    let gone = cluster.cli(&["--timeout", "20s", "member", "remove", &others[1]]);
    assert!(gone.status.success(), "{}", stderr(&gone));
    voters_are(&cluster, &[&led, &others[0]]).await;
    // It comes back and knows nothing of its removal: it disturbs nobody, and is told nothing but that it is no member.
    cluster.nodes[position].start();
    eventually("the removed node runs", || async { cluster.nodes[position].status().await }).await;
    for number in 0..20 {
        let written = cluster.cli(&["put", &format!("key{number}"), "value"]);
        assert!(written.status.success(), "{}", stderr(&written));
    }
    assert_eq!(leader(&cluster).await, led);
    voters_are(&cluster, &[&led, &others[0]]).await;
}

/// A learner that was never started would be one of two that decide.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_would_lose_the_quorum_is_refused_and_shown() {
    let cluster = Cluster::start(1).await;
    add(&cluster, "n2", free_runs_of_three(1).unwrap()[0], "n2");
    let promote = |more: &[&str]| cluster.cli(&[&["-o", "plain", "member", "promote", "n2"], more].concat());
    let dry = eventually("the leader misses the node that is not there", || async {
        let tried = promote(&["--dry-run"]);
        (tried.status.code() == Some(8)).then_some(tried)
    })
    .await;
    for refused in [dry, promote(&["--timeout", "2s"])] {
        assert_eq!(refused.status.code(), Some(8), "{}", stderr(&refused));
        let shown = String::from_utf8(refused.stdout.clone()).unwrap();
        assert_eq!(shown, "before\tn1\tn2\t1 of 1\tn1\nafter\tn1 n2\t-\t2 of 2\tn1\n");
    }
    let refused = cluster.cli(&["-o", "plain", "member", "remove", "n1"]);
    assert_eq!(refused.status.code(), Some(8), "{}", stderr(&refused));
    let shown = String::from_utf8(refused.stdout.clone()).unwrap();
    assert_eq!(shown, "before\tn1\tn2\t1 of 1\tn1\nafter\t-\tn2\t1 of 0\t-\n");
    assert!(stderr(&refused).contains("promote another member first"), "{}", stderr(&refused));
}

/// Scenario 35: a directory can be had a second time, and what was promised from the first is not forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_started_from_a_second_directory_does_not_vote() {
    let mut cluster = Cluster::start(1).await;
    let port = free_runs_of_three(1).unwrap()[0];
    let mut first = add(&cluster, "n2", port, "n2");
    first.start();
    cluster.nodes.push(first);
    let mut second = add(&cluster, "n2", port, "n2-again");
    promote(&cluster, "n2");
    cluster.client().put(("color", "green")).await.unwrap();
    // Both decide, and one of them comes back without what it had promised.
    assert!(cluster.nodes[1].stop().success(), "{}", cluster.nodes[1].log());
    cluster.nodes[0].kill();
    second.start();
    eventually("it is under repair", || async { second.log().contains("does not vote").then_some(()) }).await;
    cluster.nodes[0].start();
    eventually("it asks for votes", || async {
        let status = cluster.nodes[0].status().await?;
        assert_ne!(status.leader, Some(1), "it leads by the vote of a node without its memory");
        (status.role == "pre-candidate").then_some(())
    })
    .await;
    let refused = cluster.cli(&["put", "color", "red", "--timeout", "5s"]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(second.stop().success(), "{}", second.log());
    cluster.nodes[1].start();
    eventually("what was written", || async {
        let found = cluster.client().get("color").await.ok()?.kv?;
        assert_eq!(found.value, "green");
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_and_senseless_changes_change_nothing() {
    let cluster = Cluster::start(3).await;
    let before = members(&cluster);
    let addresses = ["--client", "127.0.0.1:1", "--peer", "127.0.0.1:2"];
    let dry = cluster.cli(&[&["-o", "json", "member", "add", "n9", "--dry-run"], &addresses[..]].concat());
    let shown = json(&dry);
    assert_eq!((&shown["changed"], &shown["after"]["needed"]), (&false.into(), &2.into()));
    for (arguments, code) in [
        (vec!["member", "remove", "nobody"], 2),
        (vec!["member", "promote", "n1"], 2),
        ([&["member", "add", "n1", "--ca-dir", "/nonexistent"], &addresses[..]].concat(), 1),
        ([&["member", "add", "n1", "--dry-run"], &addresses[..]].concat(), 2),
    ] {
        let refused = cluster.cli(&arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("try:"), "{arguments:?}: {}", stderr(&refused));
    }
    assert_eq!(members(&cluster), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_shown_and_handed_over() {
    let mut cluster = Cluster::start(3).await;
    let led = leader(&cluster).await;
    let target = cluster.nodes.iter().map(|node| node.name.clone()).find(|name| *name != led).unwrap();
    let moved = transferred(&cluster, &[&target]).await;
    assert_eq!(moved["name"].as_str(), Some(&*target));
    cluster.agreed_leader().await;
    assert_eq!(leader(&cluster).await, target);
    let anywhere = transferred(&cluster, &[]).await;
    assert_ne!(anywhere["name"].as_str(), Some(&*target));
    tokio::time::timeout(Duration::from_secs(60), cluster.agreed_leader()).await.unwrap();
}

/// Hands leadership over. An attempt that takes longer than an election timeout, as it may on a busy machine, is given up and made again.
async fn transferred(cluster: &Cluster, target: &[&str]) -> serde_json::Value {
    eventually("leadership is handed over", || async {
        let moved = cluster.cli(&[&["--timeout", "20s", "-o", "json", "leader", "transfer"], target].concat());
        assert!(matches!(moved.status.code(), Some(0 | 5)), "{}", stderr(&moved));
        moved.status.success().then(|| json(&moved))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_to_a_node_that_is_down_is_refused_at_once_with_the_cause() {
    let mut cluster = Cluster::start(3).await;
    let led = leader(&cluster).await;
    let down = cluster.nodes.iter().position(|node| node.name != led).unwrap();
    let name = cluster.nodes[down].name.clone();
    cluster.nodes[down].kill();
    eventually("the leader misses the node that is down", || async {
        let shown = cluster.cli(&["-o", "json", "member", "remove", &name, "--dry-run"]);
        (json(&shown)["before"]["reachable"].as_array()?.len() == 2).then_some(())
    })
    .await;
    // The client does not try again until its deadline.
    let refused = cluster.cli(&["--timeout", "20s", "leader", "transfer", &name]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("has not answered") && stderr(&refused).contains("try:"), "{}", stderr(&refused));
    assert!(cluster.cli(&["put", "k", "v"]).status.success());
    assert_eq!(leader(&cluster).await, led);
}

/// With one voter in the group, a learner that has lost its log is not alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_learner_that_lost_its_log_is_repaired_by_the_only_voter() {
    let mut cluster = Cluster::start(1).await;
    add_and_start(&mut cluster, "n2").await;
    cluster.client().put(("color", "green")).await.unwrap();
    let learner = cluster.client_at(1);
    eventually("the learner has what was written", || async {
        let get = client::Get::new("color").level(Level::Stale { age_max: None });
        learner.get(get).await.ok()?.kv.map(drop)
    })
    .await;
    // In order, so that its state knows the members.
    assert!(cluster.nodes[1].stop().success(), "{}", cluster.nodes[1].log());
    std::fs::remove_dir_all(cluster.nodes[1].data().join("wal")).unwrap();
    cluster.nodes[1].start();
    promote(&cluster, "n2");
    voters_are(&cluster, &["n1", "n2"]).await;
    assert!(cluster.nodes[1].log().contains("this node is repaired"), "{}", cluster.nodes[1].log());
}
