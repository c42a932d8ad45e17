//! Holds what `deploy/` ships to systemd's own tools: the unit has to verify without a word and to be as closed as
//! promised, and the account's definition has to be readable.
//!
//! Where a tool is not installed the test says so on stderr and passes: raftkv builds and runs without systemd.

use raftkv::config::{Config, LoggingConfig, StorageConfig};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The exposure that the unit may have at most, in tenths, as `systemd-analyze security --threshold` wants it.
const EXPOSURE_TENTHS_MAX: u32 = 20;

/// Keys that the sample says have a default.
const DEFAULTED_KEYS: &[&str] = &[
    "key_bytes_max",
    "value_bytes_max",
    "election_timeout_ms",
    "heartbeat_interval_ms",
    "data_dir",
    "listen_client",
    "listen_peer",
    "ca",
    "cert",
    "key",
];

/// Where the unit says the server is installed.
const INSTALLED_SERVER: &str = "/usr/bin/raftkv";

#[test]
fn sample_configuration_is_taken_by_the_server_and_says_the_defaults() {
    let sample = Config::load(&deploy("raftkv.toml")).expect("the server takes the sample configuration");
    assert_eq!(sample.storage, StorageConfig::default(), "the sample shows the defaults");
    assert_eq!(sample.logging, LoggingConfig::default(), "the sample shows the defaults");
    let bare: String = fs::read_to_string(deploy("raftkv.toml"))
        .expect("the sample is readable")
        .lines()
        .filter(|line| !DEFAULTED_KEYS.iter().any(|key| line.starts_with(&format!("{key} ="))))
        .map(|line| format!("{line}\n"))
        .collect();
    let bare = Config::parse(&bare, Path::new("bare.toml")).expect("keys with a default can be left out");
    assert_eq!(bare.cluster, sample.cluster, "the sample shows the defaults");
    assert_eq!(bare.listen_client(), sample.listen_client(), "the sample shows the defaults");
    assert_eq!(bare.listen_peer(), sample.listen_peer(), "the sample shows the defaults");
}

#[test]
fn unit_verifies_without_a_word() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    // The server is not installed where the tests run, and systemd checks that what a unit starts exists.
    let unit = fs::read_to_string(deploy("raftkv.service")).expect("the unit is readable");
    assert_eq!(unit.matches(INSTALLED_SERVER).count(), 1, "the unit starts {INSTALLED_SERVER} in one place");
    let copy = directory.path().join("raftkv.service");
    fs::write(&copy, unit.replace(INSTALLED_SERVER, env!("CARGO_BIN_EXE_raftkv"))).expect("the copy is writable");

    let Some(output) = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy)) else { return };
    let words = text_of(&output);
    assert!(output.status.success(), "systemd-analyze verify refuses deploy/raftkv.service:\n{words}");
    // A misspelt setting is only a warning to systemd. It warns about other units of the machine too.
    let about_us: Vec<&str> = words.lines().filter(|line| line.contains("raftkv")).collect();
    assert!(about_us.is_empty(), "systemd-analyze verify warns about deploy/raftkv.service:\n{}", about_us.join("\n"));
}

#[test]
fn unit_is_as_closed_as_promised() {
    let Some(output) = run(Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={EXPOSURE_TENTHS_MAX}"))
        .arg(deploy("raftkv.service")))
    else {
        return;
    };
    let words = text_of(&output);
    // Parsed as well: a systemd that takes no threshold would succeed whatever the exposure.
    let exposure_tenths = exposure_tenths(&words).unwrap_or_else(|| panic!("no overall exposure level in:\n{words}"));
    assert!(
        exposure_tenths <= EXPOSURE_TENTHS_MAX,
        "deploy/raftkv.service has an exposure of {exposure_tenths} tenths, at most {EXPOSURE_TENTHS_MAX}:\n{words}"
    );
    assert!(output.status.success(), "systemd-analyze security fails on deploy/raftkv.service:\n{words}");
}

#[test]
fn account_is_the_one_the_unit_runs_as() {
    let unit = fs::read_to_string(deploy("raftkv.service")).expect("the unit is readable");
    let account = unit.lines().find_map(|line| line.strip_prefix("User=")).expect("the unit names a user");
    let definition = fs::read_to_string(deploy("raftkv.sysusers.conf")).expect("the account's definition is readable");
    assert!(
        definition.lines().any(|line| line.starts_with(&format!("u {account} "))),
        "deploy/raftkv.sysusers.conf does not create {account}, which deploy/raftkv.service runs as:\n{definition}"
    );

    let Some(output) = run(Command::new("systemd-sysusers").arg("--dry-run").arg(deploy("raftkv.sysusers.conf")))
    else {
        return;
    };
    let words = text_of(&output);
    assert!(output.status.success(), "systemd-sysusers refuses deploy/raftkv.sysusers.conf:\n{words}");
    assert!(!words.contains("ignoring"), "systemd-sysusers ignores part of deploy/raftkv.sysusers.conf:\n{words}");
}

/// Reads "→ Overall exposure level for raftkv.service: 1.1 OK" as 11.
fn exposure_tenths(words: &str) -> Option<u32> {
    let line = words.lines().find(|line| line.contains("Overall exposure level"))?;
    let (whole, tenth) = line.rsplit_once(": ")?.1.split_whitespace().next()?.split_once('.')?;
    Some(whole.parse::<u32>().ok()? * 10 + tenth.parse::<u32>().ok()?)
}

/// Runs one of systemd's tools, or says that it is not installed and returns `None`.
fn run(command: &mut Command) -> Option<Output> {
    match command.env("LC_ALL", "C").output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skip(&command.get_program().to_string_lossy());
            None
        }
        Err(error) => panic!("{command:?} does not start: {error}"),
    }
}

/// Writes past the test harness, which keeps to itself what a passing test prints.
fn skip(tool: &str) {
    writeln!(io::stderr(), "SKIPPED: {tool} is not installed, so what deploy/ ships is not checked with it")
        .expect("stderr is open");
}

fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn deploy(file: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test")).join("../deploy").join(file)
}
