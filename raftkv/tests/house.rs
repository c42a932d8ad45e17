//! Holds the house to its plan: which crate may see which, what the core may contain, and that the map in
//! `docs/architecture.md` speaks of files that exist.
//!
//! The plan, from the design:
//!
//! ```text
//! raftkv-cli → client → transport → raft        storage → raft
//! raftkv → transport, storage, raft
//! ```
//!
//! Arrows are normal and build dependencies. What tests see is free, but for the core, which sees nobody at all.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each package, and the packages of the workspace it sees: all of these and no others.
const ARROWS: &[(&str, &[&str])] = &[
    ("raftkv-raft", &[]),
    ("raftkv-storage", &["raftkv-raft"]),
    ("raftkv-transport", &["raftkv-raft"]),
    ("raftkv-client", &["raftkv-transport"]),
    ("raftkv-cli", &["raftkv-client"]),
    ("raftkv", &["raftkv-raft", "raftkv-storage", "raftkv-transport"]),
];

/// Packages at the edge, that nobody sees and that may see any of these. They need not see all of them.
const EDGES: &[(&str, &[&str])] = &[
    ("raftkv-benches", &["raftkv", "raftkv-client", "raftkv-raft", "raftkv-storage", "raftkv-transport"]),
    ("raftkv-sim", &["raftkv", "raftkv-client", "raftkv-raft", "raftkv-storage", "raftkv-transport"]),
];

/// What the core may use from outside, in its code; its tests may use more.
const CORE_DEPENDENCIES: &[&str] = &["bytes"];

/// Folders that hold no package and still belong on the map.
const OTHER_FOLDERS: &[&str] = &["deploy", "docs", "scripts"];

/// Folders that tools leave behind; a file in there is not a file of the workspace.
const FOLDERS_NOT_SEARCHED: &[&str] = &["target", "node_modules"];

#[test]
fn crates_see_only_what_the_design_lets_them_see() {
    let packages = packages();
    let mut wrong = Vec::new();
    for (name, package) in &packages {
        let seen: BTreeSet<&str> =
            package.sees.iter().map(String::as_str).filter(|to| packages.contains_key(*to)).collect();
        let Some((allowed, exactly)) = plan_of(name) else {
            wrong.push(format!(
                "{name} is not in the plan: say in raftkv/tests/house.rs (ARROWS or EDGES) and in docs/architecture.md what it may see"
            ));
            continue;
        };
        for to in seen.difference(&allowed) {
            wrong.push(format!("{name} → {to} is not an arrow of the design, where {name} sees {}", list(&allowed)));
        }
        if exactly {
            for to in allowed.difference(&seen) {
                wrong.push(format!(
                    "{name} does not see {to}, and the design says that it does: drop the arrow from the plan or use it"
                ));
            }
        }
    }
    for (name, _) in ARROWS.iter().chain(EDGES) {
        if !packages.contains_key(*name) {
            wrong.push(format!("{name} is in the plan and not in the workspace"));
        }
    }
    assert!(wrong.is_empty(), "the crates' arrows differ from the design:\n  {}", wrong.join("\n  "));
}

#[test]
fn core_sees_nobody() {
    let packages = packages();
    let core = &packages["raftkv-raft"];
    let house: Vec<&String> = core.sees.iter().chain(&core.tests_see).filter(|to| packages.contains_key(*to)).collect();
    assert!(
        house.is_empty(),
        "raft sees {house:?}; the design lets the core see no crate of ours, in its tests neither"
    );
    let allowed: BTreeSet<&str> = CORE_DEPENDENCIES.iter().copied().collect();
    let extra: Vec<&String> = core.sees.iter().filter(|to| !allowed.contains(to.as_str())).collect();
    assert!(
        extra.is_empty(),
        "raft depends on {extra:?}; from outside, the design lets the core use {}",
        list(&allowed)
    );
}

#[test]
fn core_has_no_std_and_no_unsafe_code() {
    let source = fs::read_to_string(root().join("raft/src/lib.rs")).expect("raft/src/lib.rs is readable");
    for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        assert!(
            source.lines().any(|line| line.trim() == attribute),
            "raft/src/lib.rs lacks {attribute}; the design keeps the core free of std and of unsafe code"
        );
    }
}

#[test]
fn ring_is_not_built() {
    let tree =
        cargo(&["tree", "--workspace", "--locked", "--offline", "--edges=normal", "--prefix=none", "--format={p}"]);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    // The other half of the promise, and the proof that the tree was read.
    assert!(
        names.contains("aws-lc-rs"),
        "aws-lc-rs is not among the dependencies; the design's cryptography is aws-lc-rs"
    );
    assert!(
        !names.contains("ring"),
        "ring has come in beside aws-lc-rs; find out how with: cargo tree --workspace --edges normal --invert ring"
    );
}

#[test]
fn map_names_only_what_exists() {
    let map = Map::read();
    let files = file_names(&root());
    let wrong: Vec<String> = map
        .paths()
        .into_iter()
        .filter(|(_, path)| {
            let bare = !path.contains('/');
            !(root().join(path).exists() || bare && files.contains(path.as_str()))
        })
        .map(|(line, path)| format!("docs/architecture.md:{line} names `{path}`, which does not exist"))
        .collect();
    assert!(
        wrong.is_empty(),
        "{}\nPaths start at the top of the workspace, each written out; a placeholder is in capitals: `DIR/env`",
        wrong.join("\n")
    );
}

#[test]
fn map_has_every_folder() {
    let map = Map::read();
    let packages = packages();
    let folders = packages.values().map(|package| package.folder.as_str()).chain(OTHER_FOLDERS.iter().copied());
    let missing: Vec<&str> = folders.filter(|folder| !map.speaks_of(folder)).collect();
    assert!(
        missing.is_empty(),
        "docs/architecture.md has no line for {missing:?}; write one that names it with a slash: `raft/`"
    );
}

/// Failures that the project set out to survive.
const SCENARIOS: usize = 63;

/// `cargo run` takes no `--workspace`, and cargo says so only when somebody tries.
#[test]
fn commands_that_run_examples_are_ones_that_cargo_takes() {
    let folder = root().join("client/examples");
    let entries = fs::read_dir(&folder).expect("the examples are there").map(|entry| entry.expect("readable").path());
    let examples = entries.filter(|path| path.is_file());
    let mut commands = 0;
    for path in examples.chain([root().join("README.md")]) {
        let text = fs::read_to_string(&path).expect("a text");
        for (line, words) in text.lines().filter_map(|line| Some((line, line.split_once("cargo run")?.1))) {
            let words: Vec<&str> = words.split_whitespace().take(4).collect();
            let ["--locked", "--release", "--example", name] = words[..] else { panic!("{}: {line}", path.display()) };
            assert!(folder.join(format!("{name}.rs")).is_file(), "{}: {line}", path.display());
            commands += 1;
        }
    }
    assert!(commands >= 10, "{commands} commands run an example");
}

#[test]
fn every_failure_of_others_has_a_row_and_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/reliability.md")).expect("docs/reliability.md is readable");
    let rows: Vec<&str> = page.lines().filter(|line| row_number(line).is_some()).collect();
    let numbers: Vec<usize> = rows.iter().filter_map(|row| row_number(row)).collect();
    assert_eq!(numbers, (1..=SCENARIOS).collect::<Vec<_>>(), "one row for each failure, in order");
    let mut wrong = Vec::new();
    for word in page.split('`').skip(1).step_by(2).filter(|word| word.contains("::")) {
        let (path, test) = word.split_once("::").expect("just seen");
        let source = fs::read_to_string(root().join(path)).unwrap_or_default();
        if !source.contains(&format!("fn {test}(")) {
            wrong.push(word);
        }
    }
    assert!(wrong.is_empty(), "docs/reliability.md names tests that do not exist: {wrong:?}");
}

/// The number in the first column of a row of the table of failures.
fn row_number(line: &str) -> Option<usize> {
    line.strip_prefix("| ")?.split(' ').next()?.parse().ok()
}

#[test]
fn paths_are_told_from_other_words() {
    for path in [
        "raft/",
        "raft/src/lib.rs",
        "event.rs",
        "docs/formats.md",
        "deploy/raftkv.toml",
        "raft/src/{a,b}.rs",
        ".ci/run",
    ] {
        assert!(is_path(path), "{path} is a path");
    }
    for other in [
        "DIR/env",
        "/etc/raftkv/raftkv.toml",
        "raftkv-peer/1",
        "put",
        "raft::Node",
        "make test",
        "a / b",
        "raftkv://c/node/1",
    ] {
        assert!(!is_path(other), "{other} is not a path of the workspace");
    }
}

/// One package of the workspace.
struct Package {
    /// Where it is, from the top of the workspace.
    folder: String,
    /// Its normal and build dependencies, ours and others, under their packages' names.
    sees: BTreeSet<String>,
    /// Its dev-dependencies.
    tests_see: BTreeSet<String>,
}

fn packages() -> BTreeMap<String, Package> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"]))
        .expect("cargo metadata writes JSON");
    let top = PathBuf::from(text(&metadata["workspace_root"]));
    let packages: BTreeMap<String, Package> = list_of(&metadata["packages"])
        .iter()
        .map(|package| {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let folder = manifest.parent().and_then(|folder| folder.strip_prefix(&top).ok());
            let folder = folder.expect("a package of the workspace is inside the workspace").display().to_string();
            let (tests, code): (Vec<&Value>, Vec<&Value>) =
                list_of(&package["dependencies"]).iter().partition(|dependency| dependency["kind"] == "dev");
            let names = |dependencies: Vec<&Value>| {
                dependencies.iter().map(|dependency| text(&dependency["name"]).to_owned()).collect()
            };
            (text(&package["name"]).to_owned(), Package { folder, sees: names(code), tests_see: names(tests) })
        })
        .collect();
    assert!(packages.contains_key("raftkv-raft"), "cargo metadata shows no package raftkv-raft");
    packages
}

/// What a package may see, and whether it has to see all of it.
fn plan_of(name: &str) -> Option<(BTreeSet<&'static str>, bool)> {
    let find = |plan: &'static [(&str, &[&'static str])]| plan.iter().find(|(package, _)| *package == name);
    find(ARROWS)
        .map(|(_, sees)| (sees.iter().copied().collect(), true))
        .or_else(|| find(EDGES).map(|(_, sees)| (sees.iter().copied().collect(), false)))
}

/// `docs/architecture.md`.
struct Map {
    text: String,
}

impl Map {
    fn read() -> Map {
        let path = root().join("docs/architecture.md");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Map { text }
    }

    /// Each path it names in backticks outside of code blocks, with the line it is on.
    fn paths(&self) -> Vec<(usize, String)> {
        let mut paths = Vec::new();
        let mut in_block = false;
        for (number, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
            } else if !in_block {
                // Splitting at backticks leaves what was between a pair of them at the odd places.
                let words = line.split('`').skip(1).step_by(2).filter(|word| is_path(word));
                paths.extend(words.map(|word| (number + 1, word.to_owned())));
            }
        }
        paths
    }

    /// Whether it names the folder as a path, `raft/`, in a code block or in the text.
    fn speaks_of(&self, folder: &str) -> bool {
        let path = format!("{folder}/");
        self.text.split(|c: char| c.is_whitespace() || "`|*()[],:".contains(c)).any(|word| word == path)
    }
}

/// Whether a word in backticks is a path inside the workspace. Not one: an absolute path, a placeholder such as
/// `DIR/env`, a protocol's name such as `raftkv-peer/1`, a command or an expression, a URI.
fn is_path(word: &str) -> bool {
    let written_as_path = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-{,}*".contains(c));
    let looks_like_path =
        word.contains('/') || [".rs", ".md", ".toml"].iter().any(|ending| word.ends_with(ending) && word != *ending);
    let placeholder = |part: &str| part.chars().all(|c| c.is_ascii_uppercase());
    let protocol = word.rsplit_once('/').is_some_and(|(name, version)| {
        !name.contains('/') && !version.is_empty() && version.chars().all(|c| c.is_ascii_digit())
    });
    written_as_path
        && looks_like_path
        && !word.starts_with('/')
        && !placeholder(word.split('/').next().unwrap_or(""))
        && !protocol
}

/// The names of all files and folders below `folder`, without their paths.
fn file_names(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("a folder of the workspace is readable") {
        let entry = entry.expect("a folder of the workspace is readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().expect("a file of the workspace has a type").is_dir();
        if is_folder && !name.starts_with('.') && !FOLDERS_NOT_SEARCHED.contains(&name.as_str()) {
            names.append(&mut file_names(&entry.path()));
        }
        names.insert(name);
    }
    names
}

/// Runs cargo at the top of the workspace and returns what it prints.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo starts");
    assert!(
        output.status.success(),
        "cargo {} fails: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test"))
        .parent()
        .expect("the package is in a workspace")
        .to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("cargo metadata has {value} where a string belongs"))
}

fn list_of(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("cargo metadata has {value} where a list belongs"))
}

fn list(names: &BTreeSet<&str>) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.iter().copied().collect::<Vec<_>>().join(", ") }
}
