//! Scenarios: what a group of nodes does, step by step, in scripts that people can read.
//!
//! Each file in `scenarios/` shows one behaviour and is named after it. It begins with a sentence that says what is shown and where
//! the rule comes from; then come blocks: commands, `----`, and what the nodes did, word for word. The nodes are real
//! [`Node`](raftkv_raft::Node)s with disks (`common/machine.rs`), and after every step the properties that Raft promises are checked
//! (`common/checks.rs`), whatever the script is about.
//!
//! The language is in `scenarios_support/`: the blocks in `script.rs`, the commands in `commands.rs`, the words for what nodes do in
//! `words.rs`, nodes, clocks, disks and messages in `world.rs`.
//!
//! After a change of the core that is meant to change what nodes do, write the outputs anew and read the difference:
//!
//! ```text
//! UPDATE=1 cargo test --locked --release -p raftkv-raft --test scenarios
//! git diff raft/tests/scenarios
//! ```
//!
//! `SCENARIO=part_of_a_name` runs the files whose names contain it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod scenarios_support;

use scenarios_support::commands;
use scenarios_support::script::Script;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Fewer files than this are a sign that some were lost.
const SCENARIOS_MIN: usize = 90;

const REPEAT: &str = "UPDATE=1 cargo test --locked --release -p raftkv-raft --test scenarios";

/// This package, in the checkout that the test is run in, which need not be the one that it was compiled in.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test").into()
}

fn folder() -> PathBuf {
    package().join("tests/scenarios")
}

/// The scenarios, by name.
fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The path as one would type it from the root of the repository.
fn shown(path: &std::path::Path) -> String {
    format!("raft/tests/scenarios/{}", path.file_name().unwrap().display())
}

#[test]
fn every_scenario_goes_as_written() {
    let update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let mut report = String::new();
    let mut failed = 0;
    let mut run = 0;
    for path in files().iter().filter(|path| shown(path).contains(&only)) {
        run += 1;
        let text = std::fs::read_to_string(path).unwrap();
        let result = Script::parse(&shown(path), &text).and_then(|script| {
            let played = script.play()?;
            if update {
                std::fs::write(path, played.text()).unwrap();
                return Ok(());
            }
            played.compare()
        });
        if let Err(problem) = result {
            failed += 1;
            writeln!(report, "{problem}\n").unwrap();
        }
    }
    assert!(run > 0, "no scenario's name contains {only:?}");
    assert!(
        failed == 0,
        "{failed} of {run} scenarios failed:\n\n{report}If the outputs are meant to change:\n  {REPEAT}"
    );
}

#[test]
fn there_are_many_scenarios_and_each_says_what_it_shows() {
    let files = files();
    assert!(files.len() >= SCENARIOS_MIN, "{} scenarios, {SCENARIOS_MIN} were there once", files.len());
    for path in files {
        let (name, text) = (shown(&path), std::fs::read_to_string(&path).unwrap());
        assert!(
            path.extension().is_some_and(|extension| extension == "txt"),
            "{name} is no scenario: what does it do here?"
        );
        let header: String = text.lines().take_while(|line| line.starts_with('#')).collect::<String>().to_lowercase();
        let cites = ["raft §", "raft figure", "thesis §", "scenario"].iter().any(|source| header.contains(source));
        assert!(cites, "{name}:1: the comment at the top cites no source");
        let script = Script::parse(&name, &text).unwrap();
        assert!(script.has_output(), "{name} shows nothing: run with UPDATE=1 and read what it wrote");
    }
}

/// What no scenario uses is not known to work.
#[test]
fn commands_are_listed_in_order_and_each_is_used() {
    let names: Vec<&str> = commands::names().collect();
    assert!(names.is_sorted(), "{names:?}");
    let scripts: String = files().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let used = |name: &str| {
        let mut commands = scripts.lines().filter_map(|line| line.trim_start_matches("quietly ").split(' ').next());
        commands.any(|command| command == name)
    };
    let unused: Vec<&str> = names.into_iter().filter(|name| !used(name)).collect();
    assert!(unused.is_empty(), "no scenario uses {unused:?}");
}

/// What is wrong with a script, in the words that the author sees.
fn problem(text: &str) -> String {
    let script = Script::parse("example.txt", text);
    script.and_then(|script| script.play()?.compare()).expect_err("the script is wrong")
}

#[test]
fn mismatch_is_shown_with_file_line_and_difference() {
    let problem = problem("# header\n\nnodes 1\nstatus 1\n----\n1: leader\n");
    let expected = [
        "example.txt:3: the output differs (- written, + played)",
        "    nodes 1",
        "    status 1",
        "  - 1: leader",
        "  + 1: follower of nobody, term 0, no vote, commit 0, applied 0, log empty",
    ];
    assert_eq!(problem.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn mistakes_name_file_line_and_what_is_known() {
    let unknown = problem("nodes 3\nfly 2\n----\n");
    assert!(
        unknown.starts_with("example.txt:2: unknown command \"fly\"; the commands are: apply, campaign,"),
        "{unknown}"
    );
    let surplus = problem("nodes 3\ncampaign 1 fast\n----\n");
    assert_eq!(surplus, "example.txt:2: \"fast\" is one word too many\n  usage: campaign NODE");
    let option = problem("nodes 3 speed=9\n----\n");
    assert!(option.starts_with("example.txt:1: unknown option \"speed\"\n  usage: nodes "), "{option}");
    let node = problem("nodes 3\ncampaign 4\n----\n");
    assert!(node.starts_with("example.txt:2: there is no node 4; the nodes are 1 2 3"), "{node}");
    let block = Script::parse("example.txt", "nodes 3\n\n----\n").expect_err("the block is broken");
    assert_eq!(block, "example.txt:1: commands without \"----\" and output after them");
}
