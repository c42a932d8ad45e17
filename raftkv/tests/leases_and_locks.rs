//! Transactions, leases, locks and elections against real processes, through the command line and the client library.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use client::{Compare, Delete, Election, LeaseLoss, Lock, Operation, Put, Transaction};
use common::{Cluster, DEADLINE, eventually, stderr};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

#[track_caller]
fn expect(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn txn(cluster: &Cluster, arguments: &[&str], input: &str) -> Output {
    let mut child = cluster
        .cli_at(&cluster.endpoints())
        .arg("txn")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A cluster that has raised its format to the one that knows leases.
async fn cluster_with_leases(nodes: u16) -> Cluster {
    let cluster = Cluster::start(nodes).await;
    let client = cluster.client();
    eventually("the cluster to know leases", async || {
        let lease = client.create_lease(client::NewLease::new(Duration::from_secs(60))).await.ok()?;
        client.revoke_lease(lease.id).await.ok()
    })
    .await;
    cluster
}

/// The next line that a child writes, however long it takes up to the deadline.
fn lines_of(child: &mut Child) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let output = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_goes_one_way_or_the_other_all_at_one_revision() {
    let cluster = cluster_with_leases(3).await;
    expect(&cluster.cli(&["put", "color", "dark green"]), 0);
    let text = "if { value(color) = \"dark green\" }\nthen {\n put color blue --prev\n put shade dark\n get --prefix sh\n}\nelse { get color }";
    let first = txn(&cluster, &["-o", "json"], text);
    let object: Value = serde_json::from_str(&expect(&first, 0)).unwrap();
    assert_eq!((object["branch"].as_str(), object["results"].as_array().map(Vec::len)), (Some("then"), Some(3)));
    assert_eq!(object["results"][0]["put"]["previous"]["value"], "dark green");
    let shade = &object["results"][2]["get"]["kvs"][0];
    assert_eq!((&shade["value"], &shade["mod_revision"]), (&Value::from("dark"), &object["revision"]));

    assert_eq!(expect(&txn(&cluster, &[], text), 0), "else\nget 1 color\ncolor\tblue\n");
    let json = r#"{"if": [{"version": {"key": "color", "op": ">", "number": 1}}], "then": [{"del": {"prefix": ""}}]}"#;
    assert_eq!(expect(&txn(&cluster, &[], json), 0), "then\ndel 2 --all\n");
    expect(&cluster.cli(&["get", "color"]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_makes_no_sense_changes_nothing() {
    let cluster = cluster_with_leases(1).await;
    let misspelt = txn(&cluster, &[], "then {\n  pot k v\n}");
    expect(&misspelt, 2);
    assert!(stderr(&misspelt).contains("line 2, column 3"), "{}", stderr(&misspelt));
    expect(&txn(&cluster, &[], "then { put k v; put k w }"), 2);
    expect(&txn(&cluster, &[], "then { put k v --lease 4711 }"), 3);
    expect(&txn(&cluster, &[], "then { put a b; put k --keep-value }"), 3);
    expect(&cluster.cli(&["get", "k"]), 3);
    expect(&cluster.cli(&["get", "a"]), 3);
}

#[test]
fn client_and_nodes_agree_on_how_long_a_lease_may_live() {
    assert_eq!(client::LEASE_TTL_MIN, Duration::from_millis(raftkv::requests::LEASE_TTL_MS_MIN));
    assert_eq!(client::LEASE_TTL_MAX, Duration::from_millis(raftkv::requests::LEASE_TTL_MS_MAX));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_with_their_lease() {
    let cluster = cluster_with_leases(3).await;
    let id = expect(&cluster.cli(&["lease", "grant", "60s"]), 0).trim().to_owned();
    expect(&cluster.cli(&["lease", "grant", "60s", "--id", &id]), 4);
    expect(&cluster.cli(&["put", "service", "here", "--lease", &id]), 0);
    expect(&cluster.cli(&["put", "other", "there", "--lease", "4711"]), 3);
    assert_eq!(expect(&cluster.cli(&["lease", "keep-alive", &id, "--once"]), 0).trim(), "1m");
    let shown: Value = serde_json::from_str(&expect(&cluster.cli(&["lease", "show", &id, "-o", "json"]), 0)).unwrap();
    assert_eq!((&shown["keys"], &shown["key_names"][0]["key"]), (&Value::from(1), &Value::from("service")));
    let listed = expect(&cluster.cli(&["lease", "list", "-o", "plain"]), 0);
    assert!(listed.starts_with(&format!("{id}\t60000\t")), "{listed}");
    assert_eq!(expect(&cluster.cli(&["lease", "revoke", &id]), 0).trim(), "1");
    expect(&cluster.cli(&["get", "service"]), 3);
    for command in [vec!["lease", "show", &id], vec!["lease", "revoke", &id], vec!["lease", "keep-alive", &id]] {
        expect(&cluster.cli(&command), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_or_election_is_lost_with_its_key() {
    let cluster = cluster_with_leases(3).await;
    let client = cluster.client();
    for overwrites in [false, true] {
        let guard = client.lock(Lock::new("backup")).await.unwrap();
        let leadership = client.campaign(Election::new("leader"), "a").await.unwrap();
        // What its holder says anew is no loss.
        leadership.proclaim("b").await.unwrap();
        for key in [guard.key(), leadership.key()] {
            if overwrites {
                client.put((key.clone(), "mine")).await.unwrap();
            } else {
                client.delete(Delete::key(key.clone())).await.unwrap();
            }
        }
        for (loss, key) in [
            (tokio::time::timeout(DEADLINE, guard.lost()).await.unwrap(), guard.key()),
            (tokio::time::timeout(DEADLINE, leadership.lost()).await.unwrap(), leadership.key()),
        ] {
            assert_eq!(loss, LeaseLoss::KeyGone { key: key.clone() });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_under_a_lock_ends_when_the_key_of_the_lock_is_deleted() {
    let cluster = cluster_with_leases(1).await;
    let mut command = cluster.cli_at(&cluster.endpoints());
    command.args(["lock", "backup", "--", "sh", "-c", "echo begun; exec sleep 600"]);
    let mut holder = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(lines_of(&mut holder).recv_timeout(DEADLINE).unwrap(), "begun");
    expect(&cluster.cli(&["del", "--prefix", "backup/@"]), 0);
    let ended = tokio::task::spawn_blocking(move || holder.wait_with_output().unwrap());
    let ended = tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("deleted or overwritten"), "{}", stderr(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_time_to_live_goes_by_itself() {
    let cluster = cluster_with_leases(3).await;
    let client = cluster.client();
    client.put(Put::new("short", "1").ttl(Duration::from_secs(1))).await.unwrap();
    client.put(Put::new("kept", "1").ttl(Duration::from_secs(1))).await.unwrap();
    // A put without a time to live makes it live until it is deleted.
    client.put(("kept", "2")).await.unwrap();
    eventually("the key to go", async || client.get("short").await.unwrap().kv.is_none().then_some(())).await;
    assert_eq!(client.get("kept").await.unwrap().kv.unwrap().value, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_kept_alive_survives_its_leader() {
    let mut cluster = cluster_with_leases(3).await;
    let client = cluster.client();
    let lease = client.grant_lease(Duration::from_secs(8)).await.unwrap();
    client.put(Put::new("service", "here").lease(lease.id())).await.unwrap();
    let granted = Instant::now();
    let leader = cluster.agreed_leader().await;
    cluster.nodes[leader].kill();
    eventually("two times to live", async || {
        assert!(!lease.is_lost(), "lost after {:?}", granted.elapsed());
        (granted.elapsed() > lease.ttl() * 2).then_some(())
    })
    .await;
    assert!(client.get("service").await.unwrap().kv.is_some());
    let revoked = lease.revoke().await.unwrap();
    assert_eq!(revoked.deleted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_under_one_lock_follow_each_other_with_growing_tokens() {
    let cluster = cluster_with_leases(3).await;
    let log = cluster.folder.path().join("tokens");
    let script =
        format!("echo $RAFTKV_FENCING_TOKEN begins >> {0}; echo $RAFTKV_FENCING_TOKEN ends >> {0}", log.display());
    let children: Vec<Child> = (0..5)
        .map(|_| {
            let mut command = cluster.cli_at(&cluster.endpoints());
            command.args(["lock", "job", "--", "sh", "-c", &script]).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        expect(&child.wait_with_output().unwrap(), 0);
    }
    let written = std::fs::read_to_string(&log).unwrap();
    let mut tokens: Vec<u64> = Vec::new();
    let lines: Vec<&str> = written.lines().collect();
    for turn in lines.chunks(2) {
        let (begins, ends) = (turn[0].split_once(' ').unwrap(), turn[1].split_once(' ').unwrap());
        assert_eq!((begins.0, begins.1, ends.1), (ends.0, "begins", "ends"), "two held it at once: {written}");
        tokens.push(begins.0.parse().unwrap());
    }
    assert_eq!(tokens.len(), 5);
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_of_a_command_is_passed_on_and_the_lock_is_free_afterwards() {
    let cluster = cluster_with_leases(1).await;
    // Neither other keys below the name nor a lock whose name lies below it are in the way.
    expect(&cluster.cli(&["put", "job/settings", "v"]), 0);
    let client = cluster.client();
    let below = client.lock(Lock::new("job/nightly")).await.unwrap();
    expect(&cluster.cli(&["lock", "job", "--", "sh", "-c", "exit 42"]), 42);
    below.unlock().await.unwrap();
    let key = expect(&cluster.cli(&["lock", "job", "--try", "--", "sh", "-c", "echo $RAFTKV_LOCK_KEY"]), 0);
    assert!(key.starts_with("job/@"), "{key}");
    assert_eq!(expect(&cluster.cli(&["scan", "--prefix", "job/@", "--count"]), 0).trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_has_is_not_taken_by_trying() {
    let cluster = cluster_with_leases(3).await;
    let mut holder = cluster
        .cli_at(&cluster.endpoints())
        .args(["lock", "job"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let token: u64 = lines_of(&mut holder).recv_timeout(DEADLINE).unwrap().parse().unwrap();
    expect(&cluster.cli(&["lock", "job", "--try"]), 4);
    signal(&holder, Signal::INT);
    assert!(holder.wait().unwrap().success(), "Ctrl-C frees the lock");
    let client = cluster.client();
    let guard = client.try_lock(Lock::new("job")).await.unwrap().expect("it is free");
    assert!(guard.token() > token);
    let held = Compare::create_revision(guard.key().clone()).equals(guard.token());
    let guarded = || Transaction::new().when(held.clone()).then(Operation::put(("state", "done")));
    assert!(client.transaction(guarded()).await.unwrap().succeeded);
    guard.unlock().await.unwrap();
    assert!(!client.transaction(guarded()).await.unwrap().succeeded, "what is done under a lock ends with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_ended_when_its_lock_is_lost() {
    let mut cluster = cluster_with_leases(1).await;
    let folder = cluster.folder.path().to_owned();
    let (ready, goodbye) = (folder.join("ready"), folder.join("goodbye"));
    let script = format!(
        "trap 'touch {}; exit 0' TERM; touch {}; while true; do sleep 0.05; done",
        goodbye.display(),
        ready.display()
    );
    let mut holder = cluster.cli_at(&cluster.endpoints());
    holder.args(["lock", "job", "--ttl", "3s", "--", "sh", "-c", &script]).stderr(Stdio::piped());
    let holder = holder.spawn().unwrap();
    eventually("the command to run", async || ready.exists().then_some(())).await;
    cluster.nodes[0].kill();
    let output = tokio::task::spawn_blocking(move || holder.wait_with_output().unwrap()).await.unwrap();
    expect(&output, 5);
    assert!(stderr(&output).contains("is lost"), "{}", stderr(&output));
    assert!(goodbye.exists(), "the command had no chance to say goodbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_lost_because_its_holder_stood_still_does_not_blame_the_cluster() {
    let cluster = cluster_with_leases(1).await;
    let mut holder = cluster.cli_at(&cluster.endpoints());
    holder.args(["lock", "job", "--ttl", "3s", "--", "sh", "-c", "echo begun; exec sleep 600"]);
    let mut holder = holder.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(lines_of(&mut holder).recv_timeout(DEADLINE).unwrap(), "begun");
    signal(&holder, Signal::STOP);
    eventually("the lock to be free", async || {
        (expect(&cluster.cli(&["scan", "--prefix", "job/@", "--count"]), 0).trim() == "0").then_some(())
    })
    .await;
    signal(&holder, Signal::CONT);
    let output = tokio::task::spawn_blocking(move || holder.wait_with_output().unwrap()).await.unwrap();
    expect(&output, 5);
    let said = stderr(&output);
    assert!(said.contains("stood still for") && !said.contains("endpoint"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_that_is_sent_to_the_holder_alone_reaches_its_command() {
    let cluster = cluster_with_leases(1).await;
    for (sent, name) in [(Signal::INT, "INT"), (Signal::QUIT, "QUIT")] {
        let script = format!("trap 'echo caught; exit 7' {name}; echo begun; while true; do sleep 0.05; done");
        let mut holder = cluster.cli_at(&cluster.endpoints());
        holder.args(["lock", "job", "--", "sh", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        let lines = lines_of(&mut holder);
        assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "begun");
        signal(&holder, sent);
        assert_eq!(lines.recv_timeout(DEADLINE).unwrap(), "caught");
        let output = tokio::task::spawn_blocking(move || holder.wait_with_output().unwrap()).await.unwrap();
        expect(&output, 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_sigterm_when_the_holder_of_its_lock_is_killed() {
    let cluster = cluster_with_leases(1).await;
    let goodbye = cluster.folder.path().join("goodbye");
    let script = format!("trap 'touch {}; exit' TERM; echo begun; while true; do sleep 0.05; done", goodbye.display());
    let mut holder = cluster.cli_at(&cluster.endpoints());
    holder.args(["lock", "job", "--", "sh", "-c", &script]).stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    assert_eq!(lines_of(&mut holder).recv_timeout(DEADLINE).unwrap(), "begun");
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("the command to say goodbye", async || goodbye.exists().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_command_has_started_ends_before_its_lock_is_free() {
    let cluster = cluster_with_leases(1).await;
    for told in [Signal::TERM, Signal::HUP] {
        let started = cluster.folder.path().join(format!("started-{}", told.as_raw()));
        // The shell ends at once; what it has started does not listen.
        let script =
            format!("(trap '' HUP TERM; exec sleep 600) & echo $! >{0}.new; mv {0}.new {0}; wait", started.display());
        let mut holder = cluster.cli_at(&cluster.endpoints());
        holder.args(["lock", "job", "--grace", "200ms", "--", "sh", "-c", &script]).stderr(Stdio::null());
        let mut holder = holder.spawn().unwrap();
        let pid: u32 = eventually("the command to run", async || std::fs::read_to_string(&started).ok())
            .await
            .trim()
            .parse()
            .unwrap();
        signal(&holder, told);
        let ended = tokio::task::spawn_blocking(move || holder.wait().unwrap()).await.unwrap();
        assert_eq!(ended.code(), Some(128 + told.as_raw()));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "it goes on: {stat}");
        expect(&cluster.cli(&["lock", "job", "--try", "--", "true"]), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_candidate_leads_when_the_leader_is_killed() {
    let cluster = cluster_with_leases(3).await;
    let candidate = |value: &str| {
        let mut command = cluster.cli_at(&cluster.endpoints());
        command.args(["elect", "job", value, "--ttl", "3s"]).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut observer = cluster
        .cli_at(&cluster.endpoints())
        .args(["elect", "job", "--observe", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let observed = lines_of(&mut observer);
    assert_eq!(observed.recv_timeout(DEADLINE).unwrap(), "null");
    let mut first = candidate("one");
    let first_token: u64 = lines_of(&mut first).recv_timeout(DEADLINE).unwrap().parse().unwrap();
    let leader: Value = serde_json::from_str(&observed.recv_timeout(DEADLINE).unwrap()).unwrap();
    assert_eq!((&leader["value"], &leader["token"]), (&Value::from("one"), &Value::from(first_token)));
    let mut second = candidate("two");
    let elected = lines_of(&mut second);
    first.kill().unwrap();
    first.wait().unwrap();
    let second_token: u64 = elected.recv_timeout(DEADLINE).unwrap().parse().unwrap();
    assert!(second_token > first_token);
    // Nobody may have been seen in between.
    let seen = std::iter::from_fn(|| observed.recv_timeout(DEADLINE).ok());
    let next = seen.map(|line| serde_json::from_str::<Value>(&line).unwrap()).find(|leader| !leader.is_null());
    assert_eq!(next.unwrap()["value"], "two");
    for mut child in [second, observer] {
        signal(&child, Signal::INT);
        assert!(child.wait().unwrap().success());
    }
}
