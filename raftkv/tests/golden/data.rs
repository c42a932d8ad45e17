//! Commands that read and write data, on a cluster of one node: revisions are the same in every run.

use crate::common::Cluster;
use crate::common::eventually;
use crate::running::Running;
use crate::transcript::Transcript;

/// Runs command lines, each a list of words, and compares what they print.
#[track_caller]
fn check(cluster: &Cluster, mut transcript: Transcript, name: &str, lines: &[&[&str]]) {
    for line in lines {
        transcript.run(cluster.cli_at(&cluster.endpoints()), line);
    }
    transcript.check(name);
}

#[tokio::test(flavor = "multi_thread")]
async fn put_get_and_del() {
    let cluster = Cluster::start(1).await;
    let file = cluster.folder.path().join("file");
    std::fs::write(&file, b"from a file\n").expect("the folder of the test can be written");
    let at_file = format!("@{}", file.display());
    let missing = format!("@{}", cluster.folder.path().join("missing").display());
    let mut transcript = Transcript::of(&cluster);
    transcript.run_with_input(cluster.cli_at(&cluster.endpoints()), &["put", "from/input", "-"], "two\nlines\n");
    let lines: &[&[&str]] = &[
        &["put", "color", "green"],
        &["put", "from/file", &at_file],
        &["put", "from/file", &missing],
        &["put", "from/file", "@/"],
        &["put", "from/file", "other", "--if-value", &missing],
        // As readable as a disk that fails: reading from where nothing is mapped is an error of the system.
        &["put", "from/file", "@/proc/self/mem"],
        &["put", "lock", "me", "--if-absent"],
        &["put", "lock", "you", "--if-absent"],
        &["put", "color", "blue", "--if-rev", "3", "--prev"],
        &["put", "color", "red", "--if-rev", "3"],
        &["put", "color", "red", "--if-value", "blue", "-o", "json"],
        &["put", "color", "pink", "--prev", "-o", "json"],
        &["put", "k", "v", "--if-absent", "--if-rev", "3"],
        &["put", "", "x"],
        &["put", "k", "v", "--ttl", "1ms"],
    ];
    check(&cluster, transcript, "put", lines);
    let lines: &[&[&str]] = &[
        &["get", "color"],
        &["get", "color", "--meta"],
        &["get", "color", "-o", "json"],
        &["get", "color", "-o", "table"],
        &["get", "color", "--rev", "3"],
        &["get", "color", "--rev", "1000"],
        &["get", "color", "--level", "stale"],
        &["get", "color", "--level", "newest"],
        &["get", "from/input"],
        &["get", "missing"],
        &["get", "it is missing"],
        &["get", ""],
        &["get"],
    ];
    check(&cluster, Transcript::of(&cluster), "get", lines);
    let lines: &[&[&str]] = &[
        &["del", "lock"],
        &["del", "lock"],
        &["del", "--prefix", "from/", "--prev"],
        &["del", "--prefix", "from/"],
        &["del", "--range", "a", "d", "-o", "json"],
        &["del"],
        &["del", "--range", "a"],
        &["del", "--range", "d", "a"],
        &["del", "--range", "a", "a"],
        &["del", ""],
    ];
    check(&cluster, Transcript::of(&cluster), "del", lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn scan_export_and_import() {
    let cluster = Cluster::start(1).await;
    let photo = cluster.folder.path().join("photo");
    std::fs::write(&photo, b"\0\xff").expect("the folder of the test can be written");
    let photo = format!("@{}", photo.display());
    for (key, value) in [("service/a", "10.0.0.1"), ("service/b", "10.0.0.2"), ("photo", photo.as_str())] {
        assert!(cluster.cli(&["put", key, value]).status.success());
    }
    let file = cluster.folder.path().join("export.ndjson").display().to_string();
    let lines: &[&[&str]] = &[
        &["scan"],
        &["scan", "-o", "table"],
        &["scan", "-o", "json"],
        &["scan", "--prefix", "service/"],
        &["scan", "--from", "l", "--to", "service/b", "--keys-only"],
        &["scan", "--reverse", "--limit", "2", "-o", "table"],
        &["scan", "--count"],
        &["scan", "--count", "-o", "json"],
        &["scan", "--rev", "2", "--keys-only"],
        &["scan", "--prefix", "nothing/", "-o", "table"],
        &["scan", "--from", "service/b", "--to", "l"],
        &["scan", "--prefix", "service/", "--from", "t"],
        &["scan", "--rev", "1000"],
        &["scan", "--limit", "2"],
        &["scan", "--limit", "2", "-o", "json"],
        &["scan", "--limit", "3"],
        &["scan", "--prefix", "service/", "--limit", "1"],
        &["scan", "--prefix", "service/", "--limit", "1", "--from", "service/b", "--rev", "4"],
        &["scan", "--sort", "mod", "--limit", "1", "--keys-only"],
        &["scan", "--keys-only", "--count"],
    ];
    check(&cluster, Transcript::of(&cluster), "scan", lines);
    let lines: &[&[&str]] = &[
        &["export"],
        &["export", "--prefix", "service/"],
        &["export", &file],
        &["export", "/nonexistent/export.ndjson"],
        &["export", "/"],
    ];
    check(&cluster, Transcript::of(&cluster), "export", lines);
    let written = std::fs::read_to_string(&file).expect("the file was exported");
    assert_eq!(written.lines().count(), 3, "{written}");

    let mut transcript = Transcript::of(&cluster);
    let cli = || cluster.cli_at(&cluster.endpoints());
    transcript.run(cli(), &["import", &file]);
    transcript.run_with_input(
        cli(),
        &["import", "-o", "json"],
        "{\"key\":\"late\",\"value_base64\":\"AP8=\",\"lease\":7}\n",
    );
    transcript.run_with_input(cli(), &["import"], "{\"key\":\"k\",\"value\":\"v\"}\nnonsense\n");
    transcript.run(cli(), &["import", "/nonexistent.ndjson"]);
    transcript.run(cli(), &["import", "/"]);
    transcript.check("import");
}

#[tokio::test(flavor = "multi_thread")]
async fn bench() {
    let cluster = Cluster::start(1).await;
    let mut transcript = Transcript::of(&cluster);
    transcript.numbers_vary();
    let load = ["--clients", "2", "--seconds", "1", "--warmup", "0", "--keys", "10", "--value", "10"];
    for line in [&["bench", "put"][..], &["bench", "get", "--level", "stale"], &["bench", "put", "-o", "json"]] {
        transcript.run(cluster.cli_at(&cluster.endpoints()), &[line, &load[..]].concat());
    }
    transcript
        .run(cluster.cli_at(&cluster.endpoints()), &[&["bench", "mixed", "--gets", "50"][..], &load[..]].concat());
    transcript
        .run(cluster.cli_at(&cluster.endpoints()), &[&["bench", "watch", "--watchers", "3"][..], &load[..]].concat());
    transcript.run(cluster.cli_at(&cluster.endpoints()), &["bench", "watch", "--value", "7"]);
    transcript.run(cluster.cli_at(&cluster.endpoints()), &["bench", "put", "--clients", "0"]);
    for (kind, time) in [("put", "86400"), ("watch", "1day")] {
        let line =
            ["bench", kind, "--clients", "1", "--keys", "1", "--seconds", time, "--warmup", "0", "--prefix", kind];
        let long = Running::start(cluster.cli_at(&cluster.endpoints()), &line);
        eventually("something is measured, and signals are listened for", || async {
            let written = cluster.client().get(format!("{kind}000000000000")).await.ok()?.kv?.version;
            (written > 2 && long.listens_to_interrupts()).then_some(())
        })
        .await;
        long.interrupt();
        long.write_down(&mut transcript);
    }
    transcript.run(cluster.cli_at(&cluster.endpoints()), &["bench", "put", "--seconds", "0s"]);
    transcript.check("bench");
}
