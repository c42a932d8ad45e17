//! Contexts: adding, choosing and removing them, and which settings win.

use crate::common::Cluster;
use crate::transcript::Transcript;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// The command line without settings, with a file of contexts of its own.
struct Home<'a> {
    cluster: &'a Cluster,
}

impl Home<'_> {
    fn cli(&self) -> Command {
        let mut command = self.cluster.cli_at("");
        for variable in ["RAFTKV_ENDPOINTS", "RAFTKV_CA", "RAFTKV_CERT", "RAFTKV_KEY", "RAFTKV_CONTEXT", "RAFTKV_HTTP"]
        {
            command.env_remove(variable);
        }
        command.env("RAFTKV_CONTEXTS", self.file()).current_dir(self.cluster.out());
        command
    }

    fn file(&self) -> PathBuf {
        self.cluster.folder.path().join("home/contexts.toml")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_kept_under_a_name() {
    let cluster = Cluster::start(1).await;
    let home = Home { cluster: &cluster };
    let out = cluster.out().display().to_string();
    let (ca, cert, key) = ("admin/ca.crt", "admin/client.crt", "admin/client.key");
    let paths = ["--ca", ca, "--cert", cert, "--key", key];
    let mut transcript = Transcript::of(&cluster);
    for line in [
        &["context", "list"][..],
        &["context", "show"],
        &["get", "color"],
        &["context", "add", "test", "--from", &out],
        &["context", "add", "test", "--from", &out],
        &["put", "color", "green"],
        &["get", "color"],
        // Relative paths are made absolute.
        &[&["context", "add", "down", "--endpoints", "127.0.0.1:1", "--http", "127.0.0.1:2"], &paths[..]].concat(),
        &["context", "list"],
        &["context", "list", "-o", "json"],
        &["context", "show"],
        &["context", "show", "down", "-o", "plain"],
        &["get", "color", "--context", "down", "--timeout", "300ms"],
        &["context", "use", "down"],
        &["get", "color", "--context", "test"],
        &["context", "remove", "down"],
        &["context", "show"],
        &["context", "use", "tset"],
        &["get", "color", "--context", "prod"],
        &["context", "remove", "prod"],
    ] {
        transcript.run(home.cli(), line);
    }
    transcript.check("context");
    let mode = fs::metadata(home.file()).expect("it was written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_work_is_not_kept() {
    let cluster = Cluster::provision(1);
    let home = Home { cluster: &cluster };
    let out = cluster.out().display().to_string();
    fs::create_dir(cluster.folder.path().join("empty")).expect("the folder of the test can be written");
    let empty = cluster.folder.path().join("empty").display().to_string();
    let mut transcript = Transcript::of(&cluster);
    for line in [
        &["context", "add", "test"][..],
        &["context", "add", "no name", "--from", &out],
        &["context", "add", "test", "--from", &empty],
        &["context", "add", "test", "--from", &out, "--endpoints", "n1"],
        &["context", "add", "test", "--from", &out, "--key", "admin/client.crt"],
        &["context", "add", "test", "--from", &out, "--ca", "missing.crt"],
        &["context", "list"],
    ] {
        transcript.run(home.cli(), line);
    }
    transcript.check("context-refused");
    assert!(!home.file().exists(), "something was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_wins_over_the_environment_and_that_over_the_context() {
    let cluster = Cluster::start(1).await;
    let home = Home { cluster: &cluster };
    let out = cluster.out().display().to_string();
    let mut transcript = Transcript::of(&cluster);
    transcript.run(home.cli(), &["context", "add", "test", "--from", &out]);
    let environment = |variable: &str, value: &str| {
        let mut command = home.cli();
        command.env(variable, value);
        command
    };
    let lines: [(&str, &str, &[&str]); 8] = [
        ("RAFTKV_ENDPOINTS", "", &["get", "color"]),
        ("RAFTKV_ENDPOINTS", "127.0.0.1:1", &["get", "color", "--timeout", "300ms"]),
        ("RAFTKV_ENDPOINTS", "127.0.0.1:1", &["get", "color", "--endpoints", cluster.nodes[0].client_address()]),
        ("RAFTKV_ENDPOINTS", "127.0.0.1:1", &["get", "color", "--context", "test"]),
        ("RAFTKV_ENDPOINTS", "127.0.0.1:1", &["context", "use", "test"]),
        ("RAFTKV_CONTEXT", "prod", &["get", "color"]),
        ("RAFTKV_CONTEXT", "", &["get", "color"]),
        ("RAFTKV_CA", "", &["get", "color"]),
    ];
    for (variable, value, line) in lines {
        let output = environment(variable, value).args(line).output().expect("the command line starts");
        transcript.write(&format!("{variable}={value} raftkv-cli {}", line.join(" ")), "", &output);
    }
    // What a script writes whose variable is not set: the context in use would be another cluster than it means.
    for flag in ["--context", "--endpoints", "--ca", "--cert", "--key"] {
        transcript.run(home.cli(), &["get", "color", flag, ""]);
    }
    transcript.check("context-order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_contexts_with_a_slip_is_refused_where_it_is_needed() {
    let cluster = Cluster::start(1).await;
    let home = Home { cluster: &cluster };
    let mut transcript = Transcript::of(&cluster);
    let out = cluster.out().display().to_string();
    transcript.run(home.cli(), &["context", "add", "test", "--from", &out]);
    let text = fs::read_to_string(home.file()).expect("it was written");
    fs::write(home.file(), text.replace("endpoints", "endpoint")).expect("it can be written");
    transcript.run(home.cli(), &["get", "color"]);
    transcript.run(home.cli(), &["context", "list"]);
    // Settings that are complete without it do not need it.
    let mut complete = cluster.cli_at(&cluster.endpoints());
    complete.env("RAFTKV_CONTEXTS", home.file());
    transcript.run(complete, &["get", "color"]);
    transcript.check("context-damaged");
}
