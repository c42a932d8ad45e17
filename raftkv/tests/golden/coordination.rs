//! Commands with which programs agree: transactions, leases, locks, elections, watches, and letting go of what was.

use crate::common::{Cluster, cli_binary, eventually};
use crate::running::Running;
use crate::terminal::{CTRL_C, Terminal};
use crate::transcript::Transcript;
use std::process::Command;

/// Once the cluster takes what the newest format has, which a new one does within a second or two.
async fn cluster() -> Cluster {
    let cluster = Cluster::start(1).await;
    eventually("the cluster takes leases", || async {
        cluster.cli(&["lease", "list"]).status.success().then_some(())?;
        cluster.cli(&["lease", "grant", "1h"]).status.success().then_some(())
    })
    .await;
    cluster
}

/// The command line; what it runs can call it by its name.
fn cli(cluster: &Cluster) -> Command {
    let mut command = cluster.cli_at(&cluster.endpoints());
    let own = cli_binary().parent().expect("a program is in a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(own).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders).expect("they come from such a list"));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions() {
    let cluster = cluster().await;
    let mut transcript = Transcript::of(&cluster);
    let lock = "if { absent(lock) } then { put lock me } else { get lock }\n";
    for input in [lock, lock] {
        transcript.run_with_input(cli(&cluster), &["txn"], input);
    }
    let move_key = "if {\n    value(lock) = me\n    version(lock) < 3\n}\nthen {\n    del lock --prev\n    put moved yes\n    get --prefix m\n}\n";
    transcript.run_with_input(cli(&cluster), &["txn", "-o", "json"], move_key);
    transcript.run_with_input(cli(&cluster), &["txn", "-o", "table"], "then { get moved; get missing }\n");
    let nested =
        "then { put a 1; txn { then { put \"a b\" 2; get --prefix a; txn { if { exists(b) } else { del a/ } } } } }\n";
    transcript.run_with_input(cli(&cluster), &["txn"], nested);
    transcript.run_with_input(cli(&cluster), &["txn"], "then { put a 1; put a 2 }\n");
    transcript.run_with_input(cli(&cluster), &["txn"], "then { put \"\" x }\n");
    transcript.run_with_input(cli(&cluster), &["txn"], "if { colour(a) = 1 }\n");
    transcript.run_with_input(cli(&cluster), &["txn"], "then { del --range b a }\n");
    let long = format!("then {{ put k v {} }}\n", "word".repeat(15));
    transcript.run_with_input(cli(&cluster), &["txn"], &long);
    transcript.run_with_input(cli(&cluster), &["txn"], "{\"then\": [{\"\\u001b[2J\": {}}]}\n");
    transcript.run(cli(&cluster), &["txn", "-f", "/nonexistent.txn"]);
    transcript.check("txn");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases() {
    let cluster = cluster().await;
    let mut transcript = Transcript::of(&cluster);
    // What is left of a lease depends on the moment.
    transcript.numbers_vary();
    let lines: &[&[&str]] = &[
        &["lease", "grant", "10m"],
        &["lease", "grant", "10m", "-o", "json"],
        &["put", "service", "10.0.0.1", "--lease", "2"],
        &["lease", "keep-alive", "2", "--once"],
        &["lease", "show", "2"],
        &["lease", "show", "2", "-o", "json"],
        &["lease", "list"],
        &["lease", "revoke", "2"],
        &["get", "service"],
        &["lease", "revoke", "2"],
        &["lease", "show", "77"],
        &["put", "k", "v", "--lease", "77"],
        &["lease", "grant", "1ms"],
    ];
    for line in lines {
        transcript.run(cli(&cluster), line);
    }
    transcript.check("lease");
    let mut transcript = Transcript::of(&cluster);
    let lines: &[&[&str]] = &[
        &["lease", "grant", "10m", "--id", "9223372036854775807"],
        &["lease", "grant", "10m", "--id", "9223372036854775808"],
        &["lease", "grant", "10m", "--id", "9223372036854775807"],
        &["put", "k", "v", "--lease", "9223372036854775808"],
        &["lease", "revoke", "9223372036854775808"],
        &["lease", "show", "0"],
    ];
    for line in lines {
        transcript.run(cli(&cluster), line);
    }
    let too_great = "then { put k v --lease 9223372036854775808 }\n";
    transcript.run_with_input(cli(&cluster), &["txn"], too_great);
    let too_short = "then { put k v --ttl 500ms }\n";
    transcript.run_with_input(cli(&cluster), &["txn"], too_short);
    transcript.run(cli(&cluster), &["put", "k", "v", "--ttl", "500ms"]);
    transcript.check("lease-numbers");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections() {
    let cluster = cluster().await;
    let mut transcript = Transcript::of(&cluster);
    transcript.numbers_vary();
    let lines: &[&[&str]] = &[
        &["lock", "backup", "--", "sh", "-c", "test \"$RAFTKV_FENCING_TOKEN\" -gt 0 && echo held"],
        &["lock", "backup", "--try", "--", "sh", "-c", "exit 3"],
        &["lock", "backup", "--", "/nonexistent/program"],
        &["lock", "backup", "--", "no-command-of-this-name"],
        &["lock", "backup", "--", "/"],
        &["lock", "backup", "--", "sh", "-c", "raftkv-cli lock backup --try"],
        &["lock", ""],
    ];
    for line in lines {
        transcript.run(cli(&cluster), line);
    }
    transcript.check("lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_lost_says_why() {
    let cluster = cluster().await;
    let mut transcript = Transcript::of(&cluster);
    // Keys are named after leases, and those are counted.
    transcript.numbers_vary();
    // Longer than anything here takes, so that it ends because of what it does.
    let then_wait = |line: &str| format!("{line} >/dev/null && sleep 600");
    let revoke = then_wait("raftkv-cli lease revoke $((0x${RAFTKV_LOCK_KEY##*@}))");
    let delete = then_wait("raftkv-cli del \"$RAFTKV_LOCK_KEY\"");
    let overwrite = then_wait("raftkv-cli put \"$RAFTKV_LOCK_KEY\" mine");
    for script in [&revoke, &delete, &overwrite] {
        transcript.run(cli(&cluster), &["lock", "backup", "--ttl", "10m", "--", "sh", "-c", script]);
        // What was put there is in the way of who comes next.
        assert!(cluster.cli(&["del", "--prefix", "backup/"]).status.success());
    }
    transcript.check("lock-lost");
}

/// The terminal sends Ctrl-C to everybody who is in the foreground.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_comes_once_to_a_command_under_a_lock() {
    let cluster = cluster().await;
    let script = "n=0; trap 'n=$((n+1)); echo caught' INT; echo begun; until read line; do :; done; echo \"times: $n\"";
    let mut lock = cli(&cluster);
    lock.args(["lock", "backup", "--", "sh", "-c", script]);
    let mut terminal = Terminal::start(&lock);
    terminal.shows("begun");
    terminal.press(CTRL_C);
    terminal.shows("caught");
    terminal.press("\r");
    terminal.shows("times: 1");
    assert!(terminal.ended().success());
}

/// Two candidates and an observer: the first resigns, the lease of the second is revoked.
#[tokio::test(flavor = "multi_thread")]
async fn elections() {
    let cluster = cluster().await;
    let mut transcript = Transcript::of(&cluster);
    // Tokens are revisions, and keys are named after leases.
    transcript.numbers_vary();
    let in_line = |wanted: &'static str| {
        let cluster = &cluster;
        eventually("the candidates to stand in line", move || async move {
            let counted = cluster.cli(&["scan", "--prefix", "scheduler/@", "--count"]);
            (String::from_utf8_lossy(&counted.stdout).trim() == wanted).then_some(())
        })
    };
    let mut observer = Running::start(cli(&cluster), &["elect", "scheduler", "--observe"]);
    assert_eq!(observer.next_line(), "", "nobody leads");
    let mut json = Running::start(cli(&cluster), &["elect", "scheduler", "--observe", "-o", "json"]);
    assert_eq!(json.next_line(), "null");
    let mut first = Running::start(cli(&cluster), &["elect", "scheduler", "10.0.0.7:9000", "--ttl", "10m"]);
    let token = first.next_line();
    assert_eq!(observer.next_line(), format!("{token}\t10.0.0.7:9000"));
    assert!(json.next_line().contains("10.0.0.7:9000"));
    let mut second =
        Running::start(cli(&cluster), &["elect", "scheduler", "10.0.0.8:9000", "--ttl", "10m", "-o", "json"]);
    in_line("2").await;
    first.interrupt();
    first.write_down(&mut transcript);
    assert!(second.next_line().contains("10.0.0.8:9000"));
    assert!(observer.next_line().ends_with("\t10.0.0.8:9000"));
    assert!(json.next_line().contains("10.0.0.8:9000"));
    let key = cluster.cli(&["scan", "--prefix", "scheduler/@", "--keys-only"]).stdout;
    let key = String::from_utf8(key).expect("names of leases are plain");
    let lease = key.trim().strip_prefix("scheduler/@").and_then(|lease| u64::from_str_radix(lease, 16).ok());
    let lease = lease.expect("the key is named after the lease").to_string();
    assert!(cluster.cli(&["lease", "revoke", &lease]).status.success());
    second.write_down(&mut transcript);
    assert_eq!(observer.next_line(), "", "nobody leads any more");
    assert_eq!(json.next_line(), "null");
    for observer in [observer, json] {
        observer.interrupt();
        observer.write_down(&mut transcript);
    }
    transcript.run(cli(&cluster), &["elect", "scheduler"]);
    transcript.run(cli(&cluster), &["elect", "scheduler", "10.0.0.7:9000", "--observe"]);
    transcript.run(cli(&cluster), &["elect", "", "10.0.0.7:9000"]);
    transcript.check("elect");
}

/// What holds something until Ctrl-C, or until it is lost.
#[tokio::test(flavor = "multi_thread")]
async fn locks_and_leases_are_held_until_an_interrupt() {
    let cluster = cluster().await;
    let mut transcript = Transcript::of(&cluster);
    transcript.numbers_vary();
    let mut holder = Running::start(cli(&cluster), &["lock", "backup", "--ttl", "10m"]);
    holder.next_line();
    let waiting = Running::start(cli(&cluster), &["lock", "backup", "--ttl", "10m"]);
    transcript.run(cli(&cluster), &["lock", "backup", "--wait", "100ms"]);
    eventually("the second to stand in line", || async {
        let counted = cluster.cli(&["scan", "--prefix", "backup/@", "--count"]);
        (String::from_utf8_lossy(&counted.stdout).trim() == "2").then_some(())
    })
    .await;
    waiting.interrupt();
    waiting.write_down(&mut transcript);
    holder.interrupt();
    holder.write_down(&mut transcript);
    for (lease, ttl) in [("77", "10m"), ("78", "15s")] {
        assert!(cluster.cli(&["lease", "grant", ttl, "--id", lease]).status.success());
    }
    let keeper = Running::start(cli(&cluster), &["lease", "keep-alive", "77"]);
    let loser = Running::start(cli(&cluster), &["lease", "keep-alive", "78"]);
    eventually("the leases to be kept alive", || async {
        (keeper.listens_to_interrupts() && loser.listens_to_interrupts()).then_some(())
    })
    .await;
    keeper.interrupt();
    keeper.write_down(&mut transcript);
    // Its next keep-alive finds out.
    assert!(cluster.cli(&["lease", "revoke", "78"]).status.success());
    loser.write_down(&mut transcript);
    transcript.run(cli(&cluster), &["lease", "keep-alive", "78"]);
    transcript.check("held");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_and_compaction() {
    let cluster = cluster().await;
    for (key, value) in [("color", "red"), ("color", "green"), ("size", "large")] {
        assert!(cluster.cli(&["put", key, value]).status.success());
    }
    assert!(cluster.cli(&["del", "color"]).status.success());
    let mut transcript = Transcript::of(&cluster);
    let lines: &[&[&str]] = &[
        &["watch", "color", "--from-rev", "2", "--count", "3"],
        &["watch", "color", "--from-rev", "2", "--count", "3", "--prev", "-o", "json"],
        &["watch", "color", "--from-rev", "2", "--count", "1", "--only", "delete"],
        &["watch", "color", "--from-rev", "2", "--count", "2", "--only", "put"],
        &["watch", "--prefix", "s", "--from-rev", "2", "--count", "1", "--exec", "cat; echo"],
        &["watch"],
        &["watch", "", "--count", "1"],
        &["watch", "--range", "t", "s"],
    ];
    for line in lines {
        transcript.run(cli(&cluster), line);
    }
    transcript.check("watch");
    let mut transcript = Transcript::of(&cluster);
    let lines: &[&[&str]] = &[
        &["compact", "4"],
        &["compact", "4"],
        &["compact", "1000", "-o", "json"],
        &["get", "color", "--rev", "3"],
        &["get", "color", "--rev", "4"],
        &["scan", "--rev", "3"],
        &["compact", "3"],
        &["watch", "color", "--from-rev", "2", "--count", "1"],
        &["compact"],
    ];
    for line in lines {
        transcript.run(cli(&cluster), line);
    }
    let old = "then { get color --rev 3 }\n";
    transcript.run_with_input(cli(&cluster), &["txn"], old);
    transcript.run_with_input(cli(&cluster), &["txn"], &old.replace("3 }", "1000; put size small }"));
    transcript.check("compact");
}
