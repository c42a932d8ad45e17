//! The comparison as a program: what it refuses, how it starts processes, and, where etcd is installed, a whole short run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn compare() -> Command {
    Command::new(env!("CARGO_BIN_EXE_compare"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_etcd_it_says_what_to_install() {
    let output = compare().args(["--only", "etcd"]).env("PATH", "/nonexistent").output().unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).contains("apt-get install etcd-server"), "{}", stderr(&output));
}

#[test]
fn without_raftkv_it_says_how_to_build_it() {
    let output = compare().args(["--only", "raftkv", "--raftkv-bin", "/nonexistent"]).output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("cargo build --release -p raftkv"), "{}", stderr(&output));
}

#[test]
fn a_supervised_program_runs_under_its_parent_only() {
    let own_id = std::process::id().to_string();
    let output = compare().args(["--supervised", &own_id, "/bin/echo", "alive"]).output().unwrap();
    assert_eq!(
        (output.status.success(), output.stdout.as_slice()),
        (true, b"alive\n".as_slice()),
        "{}",
        stderr(&output)
    );
    // Process 1 has not started this one.
    let output = compare().args(["--supervised", "1", "/bin/echo", "alive"]).output().unwrap();
    assert_eq!((output.status.success(), output.stdout.as_slice()), (false, b"".as_slice()), "{}", stderr(&output));
}

#[test]
#[ignore = "needs Debian's etcd-server; run with: cargo test --release --workspace --test compare -- --ignored"]
fn a_short_run_of_etcd_gives_a_table_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let json = folder.path().join("results.json");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let output = compare()
        .args(["--only", "etcd", "--etcd-tls", "--rounds", "1", "--seconds", "1", "--warmup", "0"])
        .args(["--clients", "1,8", "--keys", "100", "--dir"])
        .arg(&data)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    for row in ["| put | 1 |", "| put | 8 |", "| get | 1 |", "| get | 8 |"] {
        assert!(table.contains(row), "no {row} in\n{table}");
    }
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let cells = results["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 8);
    for cell in cells {
        assert!(cell["operations"].as_u64().unwrap() > 0 && cell["failures"] == 0, "{cell}");
    }
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0, "the data directories are still there");
}
