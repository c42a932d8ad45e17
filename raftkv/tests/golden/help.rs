//! What the program says of itself: the help of every command, manual pages, completions. And that each command has a transcript.
//!
//! Commands are found in the help itself, so none can be forgotten.

use crate::common::cli_binary;
use crate::transcript::Transcript;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The command line with nothing of this test's own environment.
fn cli(arguments: &[&str]) -> Output {
    let mut command = Command::new(cli_binary());
    let variables = ["ENDPOINTS", "CA", "CERT", "KEY", "TIMEOUT", "CONTEXT"].map(|name| format!("RAFTKV_{name}"));
    for variable in &variables {
        command.env_remove(variable);
    }
    // Help is as wide as a terminal; without one, as wide as this.
    command.env("COLUMNS", "120").args(arguments).output().expect("the command line starts")
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("help is UTF-8")
}

/// A command, and what its help says.
struct Page {
    /// Empty for the program itself.
    command: Vec<String>,
    help: String,
    /// Whether it has commands below it.
    is_group: bool,
}

/// All commands.
fn pages() -> Vec<Page> {
    let mut pages = Vec::new();
    let mut waiting = vec![Vec::new()];
    while let Some(command) = waiting.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = stdout(cli(&arguments));
        let below: Vec<&str> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            // A longer indentation is a description that goes on.
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .collect();
        waiting.extend(below.iter().map(|name| [&command[..], &[(*name).to_owned()]].concat()));
        let is_group = !below.is_empty();
        pages.push(Page { command, help, is_group });
    }
    assert!(pages.len() > 10, "the commands are not found in the help");
    pages
}

/// The global options, as the program's own help shows them.
fn globals(help: &str) -> &str {
    let start = help.find("Global options:").expect("there are global options");
    let end = help.find("Exit codes:").expect("the exit codes come after them");
    help[start..end].trim_end()
}

#[test]
fn every_command_has_help() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        let pages = pages();
        let globals = globals(&pages[0].help).to_owned();
        for Page { command, help, .. } in pages {
            let name = [&["help".to_owned()], &command[..]].concat().join("-");
            // They are the same everywhere, and shown once.
            assert!(help.contains(&globals), "{command:?} lacks the global options: {help}");
            let shown = if command.is_empty() { help } else { help.replace(&globals, "Global options: as always") };
            let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
            insta::assert_snapshot!(name, lines.join("\n"));
        }
    });
}

#[test]
fn every_command_has_a_transcript() {
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test"))
        .join("tests/golden/snapshots");
    let entries = fs::read_dir(folder).expect("there are snapshots").map(|entry| entry.expect("it can be read").path());
    let transcripts: String = entries
        .filter(|path| path.extension().is_some_and(|ending| ending == "snap"))
        .map(|path| fs::read_to_string(path).expect("a snapshot is text"))
        .collect();
    // A run that succeeds shows no exit code.
    let succeeds = |run: &&str| !run.lines().any(|line| line.starts_with("exit "));
    let runs = transcripts.split("\n$ ").filter(succeeds);
    let lines: Vec<&str> = runs.filter_map(|run| run.lines().next()).collect();
    let missing: Vec<String> = pages()
        .into_iter()
        .filter(|page| !page.is_group)
        .map(|page| format!("raftkv-cli {}", page.command.join(" ")))
        .filter(|command| !lines.iter().any(|line| line.contains(&format!("{command} ")) || line.ends_with(command)))
        .collect();
    assert!(
        missing.is_empty(),
        "no transcript shows how {missing:?} succeeds; add one beside the others in raftkv/tests/golden/"
    );
}

#[test]
fn every_exit_code_has_a_transcript() {
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test"))
        .join("tests/golden/snapshots");
    let table = stdout(cli(&["--help"]));
    let listed = table.lines().skip_while(|line| *line != "Exit codes:").skip(1).take_while(|line| !line.is_empty());
    let mut codes: Vec<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(codes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let named = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("exit-"));
    for entry in fs::read_dir(folder).expect("there are snapshots") {
        let path = entry.expect("it can be read").path();
        if named(&path) && path.extension().is_some_and(|ending| ending == "snap") {
            let text = fs::read_to_string(path).expect("a snapshot is text");
            let shown = |run: &str| run.lines().find_map(|line| line.strip_prefix("exit ")).unwrap_or("0").to_owned();
            let found: Vec<String> = text.split("\n$ ").skip(1).map(shown).collect();
            codes.retain(|code| !found.iter().any(|found| found == code));
        }
    }
    assert!(
        codes.is_empty(),
        "no transcript shows the exit codes {codes:?}; add one to raftkv/tests/golden/exit_codes.rs"
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().expect("there is room");
    let pages_dir = folder.path().join("man1");
    let written = cli(&["man", &pages_dir.display().to_string()]);
    assert_eq!(stdout(written), "", "with a directory nothing is printed");
    let entries = fs::read_dir(&pages_dir).expect("the command made it").map(|entry| entry.expect("it can be read"));
    let found: BTreeSet<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for Page { command, .. } in pages() {
        let name = format!("{}.1", [&["raftkv-cli".to_owned()], &command[..]].concat().join("-"));
        assert!(found.contains(&name), "{name} is not among {found:?}");
        let page = fs::read_to_string(pages_dir.join(&name)).expect("it was just found");
        assert!(page.contains(".TH") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let one = stdout(cli(&["man"]));
    assert_eq!(one, fs::read_to_string(pages_dir.join("raftkv-cli.1")).expect("it was just found"));
    let mut transcript = Transcript::default();
    transcript.replace(folder.path().display().to_string(), "DIR");
    transcript.run(Command::new(cli_binary()), &["man", &pages_dir.display().to_string()]);
    transcript.run(Command::new(cli_binary()), &["man", "/dev/null/man1"]);
    // The rest is the completion library's.
    let mut script = cli(&["completions", "bash"]);
    script.stdout.truncate(script.stdout.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    transcript.write("raftkv-cli completions bash | head -n 1", "", &script);
    transcript.run(Command::new(cli_binary()), &["completions", "tcsh"]);
    transcript.check("man-and-completions");
}

#[test]
fn completions_are_scripts_that_shells_take() {
    let folder = tempfile::tempdir().expect("there is room");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(cli(&["completions", shell]));
        for word in ["raftkv-cli", "put", "if-absent"] {
            assert!(script.contains(word), "{shell}: {word} is missing");
        }
        // The others are checked where they are installed; bash is everywhere.
        if let ("bash" | "fish" | "zsh", Ok(path)) = (shell, which(shell)) {
            let file = folder.path().join(shell);
            fs::write(&file, &script).expect("there is room");
            let checked = Command::new(path).arg("-n").arg(&file).output().expect("the shell starts");
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        } else {
            assert_ne!(shell, "bash", "there is no bash to check the script with");
        }
    }
}

/// A real bash completes these, as when Tab is pressed at their ends.
#[test]
fn bash_completes_subcommands_options_and_values() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("completions");
    fs::write(&file, stdout(cli(&["completions", "bash"]))).expect("there is room");
    for (line, expected) in [
        (&["raftkv-cli", "le"][..], "lease"),
        (&["raftkv-cli", "lease", ""], "grant"),
        (&["raftkv-cli", "lease", "keep"], "keep-alive"),
        (&["raftkv-cli", "lease", "keep-alive", "--on"], "--once"),
        (&["raftkv-cli", "bench", "put", "--sec"], "--seconds"),
        (&["raftkv-cli", "put", "--if-v"], "--if-value"),
        (&["raftkv-cli", "scan", "--sort", "m"], "mod"),
        (&["raftkv-cli", "get", "-o", "j"], "json"),
    ] {
        let place = line.len() - 1;
        let script = format!(
            "source {} && COMP_WORDS=({}) && COMP_CWORD={place} && _raftkv__cli raftkv-cli '{}' '{}' && printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.display(),
            line.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            line[place],
            line[place - 1]
        );
        let completed = Command::new("bash").args(["--norc", "-c", &script]).output().expect("bash starts");
        let found = String::from_utf8_lossy(&completed.stdout);
        let errors = String::from_utf8_lossy(&completed.stderr);
        assert!(found.lines().any(|word| word == expected), "{line:?}: {found:?} {errors}");
    }
}

/// Where a program is.
fn which(program: &str) -> Result<std::path::PathBuf, std::env::VarError> {
    let path = std::env::var("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.ok_or(std::env::VarError::NotPresent)
}
