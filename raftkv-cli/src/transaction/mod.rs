//! What `txn` reads: a transaction as text ([`text`]), or as JSON ([`json`]).
//!
//! JSON begins with a brace, which no text does, so the input says itself which of the two it is. Whatever is wrong with it is told with
//! its line and column, both counted from 1.

mod json;
mod lexer;
mod text;

use crate::arguments;
use crate::commands::scan::Sort;
use crate::output::printable;
use clap::ValueEnum;
use client::{LEASE_TTL_MAX, LEASE_TTL_MIN, Range, SortBy, Transaction};
use std::fmt;
use std::time::Duration;

/// Transactions in one another, the outermost included: deeper ones no cluster takes, and this bounds the stack.
const DEPTH_MAX: usize = 4;

/// Columns of the input that a message quotes: enough to find the place by, however much stands there.
const QUOTED_MAX: usize = 40;

const KEY_IS_EMPTY: &str = "the key is empty; a key has at least one byte";

/// What a range may be sorted by.
const SORTS: &str = "key, version, create, mod or value";

/// As [`SORTS`] has it.
fn sort_by(word: &str) -> Option<SortBy> {
    Sort::from_str(word, false).ok().map(SortBy::from)
}

/// What a message quotes of the input, which may be any length and may hold what a terminal takes for commands.
fn quoted(input: &[u8]) -> String {
    format!("\"{}\"", printable(input, QUOTED_MAX))
}

/// A range, unless its ends leave room for no key: they have been mistyped then.
fn not_empty(range: Range) -> Result<Range, String> {
    if range.is_empty() {
        let (from, to) = (quoted(&range.start), quoted(range.end.as_deref().unwrap_or_default()));
        return Err(format!("no key lies from {from} (inclusive) to {to} (exclusive): the lower end comes first"));
    }
    Ok(range)
}

/// A time to live that nodes take; otherwise what is wanted in its place.
fn ttl(text: &str) -> Result<Duration, String> {
    match arguments::duration(text) {
        Ok(short) if short < LEASE_TTL_MIN => {
            Err(format!("a time to live of {} or more", humantime::format_duration(LEASE_TTL_MIN)))
        }
        Ok(long) if long > LEASE_TTL_MAX => Err(format!("a time to live of {}s or less", LEASE_TTL_MAX.as_secs())),
        Ok(ttl) => Ok(ttl),
        Err(_) => Err("a duration like 5s, 1m or 1h".to_owned()),
    }
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    line: usize,
    /// In characters.
    column: usize,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// Reads a transaction in either form.
pub(crate) fn parse(input: &[u8]) -> Result<Transaction, Problem> {
    let input = std::str::from_utf8(input).map_err(|error| not_text(input, error.valid_up_to()))?;
    let transaction = if is_json(input) { json::parse(input) } else { text::parse(input) }?;
    if transaction == Transaction::new() {
        // Rather a file that was not written, or the wrong one, than what somebody wants to be carried out.
        let message = "there is nothing to compare and nothing to do".to_owned();
        return Err(Problem { line: 1, column: 1, message });
    }
    Ok(transaction)
}

/// Keys as the text form names them in an operation, on one line.
pub(crate) fn written(range: &Range) -> String {
    text::written(range, |key| lexer::written(key))
}

/// The same for people: keys are cut at so many columns, and cannot steer a terminal.
pub(crate) fn shown(range: &Range, columns_max: usize) -> String {
    text::written(range, |key| printable(key, columns_max))
}

fn is_json(input: &str) -> bool {
    input.trim_start().starts_with('{')
}

/// Whether the input ends within braces or quotes, in either form: then more of it has to come.
pub(crate) fn is_open(input: &str) -> bool {
    let has_comments = !is_json(input);
    let (mut depth, mut is_quoted, mut is_comment) = (0_i64, false, false);
    let (mut characters, mut before) = (input.chars(), ' ');
    while let Some(character) = characters.next() {
        // Right after a word it begins no comment, and is an error.
        let is_in_word = !lexer::is_special(std::mem::replace(&mut before, character));
        match character {
            '\n' => is_comment = false,
            _ if is_comment => {}
            // Whatever is escaped ends no quotes.
            '\\' if is_quoted => drop(characters.next()),
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '#' if has_comments && !is_in_word => is_comment = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    is_quoted || depth > 0
}

fn not_text(input: &[u8], at: usize) -> Problem {
    let before = String::from_utf8_lossy(&input[..at]);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    Problem {
        line,
        column,
        message: "this is no UTF-8; write such bytes as \\xNN in quotes, or as base64 in JSON".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use client::{Compare, Operation};

    #[test]
    fn both_forms_say_the_same() {
        let wanted = Transaction::new().when(Compare::value("k").equals("v")).then(Operation::put(("k", "w")));
        let text = b"if { value(k) = v }\nthen { put k w }";
        let json = br#" {"if": [{"value": {"key": "k", "op": "=", "value": "v"}}], "then": [{"put": {"key": "k", "value": "w"}}]}"#;
        assert_eq!(parse(text), Ok(wanted.clone()));
        assert_eq!(parse(json), Ok(wanted));
    }

    #[test]
    fn braces_and_quotes_are_open_until_they_are_closed() {
        for open in ["then {", "then { put a \"}", "then { # }\n", "then { put a \"\\\"}", "{\"then\": [{\"get\": {"] {
            assert!(is_open(open), "{open}");
        }
        for closed in [
            "",
            "then { }",
            "then",
            "} then {",
            "then { put a \"{\" }",
            "# {",
            "{\"then\": [{\"get\": {\"key\": \"#\"}}]}",
            "then { put url http://x#y }",
        ] {
            assert!(!is_open(closed), "{closed}");
        }
    }

    #[test]
    fn nothing_is_no_transaction() {
        for nothing in ["", "# only a remark\n", "then { }", "{}", r#"{"if": [], "then": []}"#] {
            let problem = parse(nothing.as_bytes()).unwrap_err();
            assert_eq!(problem.to_string(), "line 1, column 1: there is nothing to compare and nothing to do");
        }
    }

    #[test]
    fn a_message_quotes_a_piece_of_the_input_and_nothing_that_steers_a_terminal() {
        let long = "ü".repeat(5000);
        for input in [
            format!("{long} {{ }}"),
            format!("if {{ {long}(k) = 1 }}"),
            format!("if {{ value(k) {long} }}"),
            format!("if {{ version(k) = {long} }}"),
            format!("if {{ version(k) = \"{long}\" }}"),
            format!("then {{ {long} k }}"),
            format!("then {{ put k v {long} }}"),
            format!("then {{ put k v --{long} }}"),
            format!("then {{ put k v --ttl {long} }}"),
            format!("then {{ get --{long} k }}"),
            format!("then {{ get k --limit {long} }}"),
            format!("{{\"{long}\": []}}"),
            format!("{{\"then\": [{{\"{long}\": 1}}]}}"),
            format!("{{\"then\": \"{long}\"}}"),
            format!("{{\"then\": [{{\"put\": {{\"key\": \"k\", \"value\": \"v\", \"{long}\": 1}}}}]}}"),
            format!("{{\"then\": [{{\"put\": {{\"key\": \"k\", \"value\": \"v\", \"lease\": \"{long}\"}}}}]}}"),
            format!("{{\"then\": [{{\"put\": {{\"key\": \"k\", \"value\": \"v\", \"ttl\": \"1{long}\"}}}}]}}"),
        ] {
            let message = parse(input.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("üüü") && message.contains('…') && message.chars().count() < 500, "{message}");
        }
        for input in [
            "if { version(k) = \"\x1b[2J\" }",
            "then { put k v \x1b[2J }",
            "{\"\\u001b[2J\": []}",
            "{\"then\": [{\"\\u001b[2J\": 1}]}",
            "{\"then\": \"\\u001b[2J\"}",
            "{\"then\": [{\"get\": {\"\\u009b2J\": 1}}]}",
        ] {
            let message = parse(input.as_bytes()).unwrap_err().to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
            assert!(message.contains("\\u{"), "{message:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_found() {
        let problem = parse(b"then {\n put k \xff }");
        assert_eq!(problem.map_err(|problem| (problem.line, problem.column)), Err((2, 8)));
    }
}
