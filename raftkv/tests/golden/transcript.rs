//! Runs commands and writes down what they print.
//!
//! Replaced everywhere: the nodes' addresses (`N1`, `N1-PEER`), the folder of the test (`DIR`), the cluster's name (`CLUSTER`), how long was
//! waited for an answer (`TIME`), and the index in the log (`INDEX`), which depends on how elections went. In a table a word takes the room of
//! what it replaces. Where a command prints measurements, a test asks for [`Transcript::numbers_vary`] besides.

use crate::common::Cluster;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// What a person would have seen.
#[derive(Default)]
pub(crate) struct Transcript {
    text: String,
    replacements: Vec<(String, String)>,
    numbers_vary: bool,
}

impl Transcript {
    pub(crate) fn of(cluster: &Cluster) -> Transcript {
        let mut replacements = Vec::new();
        for node in &cluster.nodes {
            let member = node.config.own_member();
            let name = node.name.to_uppercase();
            replacements.push((member.client.clone(), name.clone()));
            replacements.push((member.peer.clone(), format!("{name}-PEER")));
            replacements.push((node.config.cluster.id.clone(), "CLUSTER".to_owned()));
        }
        replacements.push((cluster.folder.path().display().to_string(), "DIR".to_owned()));
        Transcript { replacements, ..Transcript::default() }
    }

    /// Replaces something else that differs from run to run.
    pub(crate) fn replace(&mut self, from: impl Into<String>, to: impl Into<String>) {
        self.replacements.push((from.into(), to.into()));
    }

    /// From here on, numbers, sizes and hashes in what commands print vary, and with them how wide columns are.
    pub(crate) fn numbers_vary(&mut self) {
        self.numbers_vary = true;
    }

    /// Runs a command and writes it down.
    pub(crate) fn run(&mut self, command: Command, arguments: &[&str]) -> Output {
        self.run_with_input(command, arguments, "")
    }

    /// The same, with something on standard input.
    pub(crate) fn run_with_input(&mut self, mut command: Command, arguments: &[&str], input: &str) -> Output {
        let spawned =
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.expect("the command line starts");
        // A command that does not read may have ended before: that is its business.
        let _written = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it is our child");
        let line: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        self.write(&format!("raftkv-cli {}", line.join(" ")), input, &output);
        output
    }

    /// Writes down a command that was run elsewhere, what it read and what it came to.
    pub(crate) fn write(&mut self, command: &str, input: &str, output: &Output) {
        let mut shown = if self.text.is_empty() { String::new() } else { "\n".to_owned() };
        let command = self.with_words(command);
        writeln!(shown, "$ {command}").expect("a string takes everything");
        for line in input.lines() {
            writeln!(shown, "< {line}").expect("a string takes everything");
        }
        let stdout = self.with_words(&escaped(&output.stdout));
        shown.push_str(&stdout);
        if !stdout.is_empty() && !stdout.ends_with('\n') {
            shown.push_str("⏎ no line end\n");
        }
        for line in self.with_words(&escaped(&output.stderr)).lines() {
            writeln!(shown, "{}", format!("! {line}").trim_end()).expect("a string takes everything");
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => writeln!(shown, "exit {code}").expect("a string takes everything"),
            None => writeln!(shown, "{}", output.status).expect("a string takes everything"),
        }
        self.text.push_str(&shown);
    }

    /// Compares it with the one that is kept under this name.
    #[track_caller]
    pub(crate) fn check(self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, self.text));
    }

    /// Words for what differs from run to run.
    fn with_words(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.replacements {
            let width = from.len();
            text = text.replace(&format!("{from}  "), &format!("{to:width$}  ")).replace(from, to);
        }
        let text =
            after(&text, "\"index\":", |rest| rest.trim_start_matches(|digit: char| digit.is_ascii_digit()), "INDEX");
        let text = after(
            &text,
            "no answer within ",
            |rest| &rest[rest.find([':', '(']).map_or(rest.len(), |end| end - 1)..],
            "TIME",
        );
        if self.numbers_vary { without_numbers(&text) } else { text }
    }
}

/// Replaces by `word` what `rest` leaves out, wherever `marker` is followed by something that it leaves out.
fn after(text: &str, marker: &str, rest: impl Fn(&str) -> &str, word: &str) -> String {
    let mut parts = text.split(marker);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |shown, part| {
        let kept = rest(part);
        let word = if kept.len() < part.len() { word } else { "" };
        shown + marker + word + kept
    })
}

/// Replaces numbers with their units, and hashes. Several blanks in a line become two, since columns are as wide as what they hold.
fn without_numbers(text: &str) -> String {
    let is_word = |character: char| character.is_alphanumeric() || "_.-".contains(character);
    let mut shown = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|character| is_word(character) != is_word(first)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        match piece {
            "B" | "KiB" | "MiB" | "ms" if shown.ends_with("# ") => shown.truncate(shown.len() - " ".len()),
            blanks if blanks.starts_with("  ") && !shown.ends_with('\n') => shown.push_str("  "),
            number if number.parse::<f64>().is_ok() => shown.push('#'),
            hash if [12, 32, 64].contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                shown.push_str("HASH")
            }
            other => shown.push_str(other),
        }
    }
    shown
}

/// Text as it is; other bytes and control characters escaped.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' | '\t' => text.push(character),
                _ if character.is_control() => text.extend(character.escape_default()),
                _ => text.push(character),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) { word.to_owned() } else { format!("'{word}'") }
}
