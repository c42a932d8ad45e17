//! `txn`: compares, and one list of operations or the other, all at one revision.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::Failure;
use crate::output::{Format, Output, printable};
use crate::record;
use crate::source::Source;
use crate::transaction;
use bytes::Bytes;
use clap::Args;
use client::{Error, KeyValue, Level, OperationOutcome, Transaction, TransactionOutcome};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Columns of a key or a value on a terminal.
const SHOWN_MAX: usize = 72;

/// Compare, and then change or read several keys, all at one revision
///
/// Reads a transaction from FILE, or from standard input. If everything under "if" holds, what stands under "then" is carried out,
/// otherwise what stands under "else"; each may be left out. Ends with 0 either way: the first line of the output says which way it went,
/// "then" or "else". Then comes a line for each operation, with how many keys it found and which were meant, followed by the pairs that it
/// read, or, with --prev, that were there before. What a transaction in it came to is indented below its line.
///
/// A transaction that only reads goes where reads go, and takes no place in the log.
///
/// In `raftkv-cli shell`, the transaction stands on the lines after `txn`, and an empty line ends it; within its braces a line may be empty.
#[derive(Debug, Args)]
#[command(after_help = r#"The text form, one compare or operation a line, # for comments:
  if {
      value(color) = "dark green"           # also != < >
      version(color) < 3                    # also create, mod and lease, of numbers
      mod(--prefix jobs/) < 300             # of every key in a range
      lease(color) = 0                      # 0: none
      exists(config)
      absent(lock)
  }
  then {
      put color blue --prev                 # --prev: and what it held before
      put session/7 ann --ttl 60s           # or --lease ID, or --keep-lease
      put config --keep-value --keep-lease  # with a new revision
      del --prefix old/ --prev              # or KEY, --range A B, --from A, --from A --to B, --all
      get --prefix jobs/ --limit 10 --keys-only --reverse
      get --range a b --count
      get --prefix log/ --limit 1 --total   # and how many there are altogether
      get color --rev 12                    # as it was at this revision
      get --all --sort mod --min-mod-rev 7  # as by scan; also --max-mod-rev, --min-create-rev, --max-create-rev
      txn { if { exists(next) } then { get next } }
  }
  else {
      get color
  }
Words with blanks or signs stand in double quotes, with \n \t \r \0 \\ \" \xNN.

The same as JSON:
  {"if":   [{"value": {"key": "color", "op": "=", "value": "dark green"}},
            {"version": {"key": "color", "op": "<", "number": 3}},
            {"mod": {"prefix": "jobs/", "op": "<", "number": 300}},
            {"lease": {"key": "color", "op": "=", "number": 0}},
            {"exists": {"key": "config"}},
            {"absent": {"key": "lock"}}],
   "then": [{"put": {"key": "color", "value": "blue", "previous": true}},
            {"put": {"key": "session/7", "value": "ann", "ttl": "60s"}},
            {"put": {"key": "config", "keep_value": true, "keep_lease": true}},
            {"del": {"prefix": "old/", "previous": true}},
            {"get": {"prefix": "jobs/", "limit": 10, "keys_only": true, "reverse": true}},
            {"get": {"from": "a", "to": "b", "count_only": true}},
            {"get": {"prefix": "log/", "limit": 1, "count_total": true}},
            {"get": {"key": "color", "revision": 12}},
            {"get": {"prefix": "", "sort": "mod", "min_mod_revision": 7}},
            {"txn": {"if": [{"exists": {"key": "next"}}], "then": [{"get": {"key": "next"}}]}}],
   "else": [{"get": {"key": "color"}}]}
Compares of numbers are version, create, mod and lease; "op" is one of = != < >. Keys are "key", "prefix", or "from"
and "to", of which one may be left out; "prefix": "" is every key. A put may have "lease": ID. A get may have
"max_mod_revision", "min_create_revision" and "max_create_revision" too. What is no UTF-8 stands in base64, in
"key_base64", "value_base64" and so on.

Examples:
  raftkv-cli txn -f paint.txn
  echo 'if { absent(lock) } then { put lock me --ttl 30s } else { get lock }' | raftkv-cli txn
  echo '{"then": [{"get": {"prefix": "jobs/"}}, {"get": {"key": "color"}}]}' | raftkv-cli txn -o json"#)]
pub(crate) struct TxnArguments {
    /// Where the transaction stands; - for standard input
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    pub(crate) file: PathBuf,
    /// How current the answer has to be of a transaction that only reads: linearizable, lease, stale or stale=AGE
    #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = arguments::level)]
    pub(crate) level: Level,
    /// The transaction, where a shell has read it already.
    #[arg(skip)]
    pub(crate) typed: Option<Bytes>,
}

impl TxnArguments {
    /// Whether the transaction comes from where a shell reads its commands.
    pub(crate) fn reads_standard_input(&self) -> bool {
        self.file == Path::new("-")
    }
}

pub(crate) async fn run(arguments: TxnArguments, globals: &Globals) -> Result<(), Failure> {
    let (source, name) = match &arguments.typed {
        Some(typed) => (Source::Literal(typed.clone()), "the transaction".to_owned()),
        None if arguments.reads_standard_input() => (Source::Input, "standard input".to_owned()),
        None => (Source::File(arguments.file.clone()), arguments.file.display().to_string()),
    };
    let input = source.read().await?;
    let transaction = transaction::parse(&input).map_err(|problem| {
        Failure::usage(format!("{name}: {problem}")).with_next("raftkv-cli txn --help, for the form of a transaction")
    })?;
    let client = connect::client(globals)?;
    let outcome = client.transaction(transaction.clone().level(arguments.level)).await;
    client.close_session().await;
    let outcome = outcome.map_err(failure)?;
    let mut output = Output::standard();
    let default = if output.is_terminal() { Format::Table } else { Format::Plain };
    match globals.output.unwrap_or(default) {
        Format::Json => output.write(|out| writeln!(out, "{}", to_json(&outcome)))?,
        form @ (Format::Table | Format::Plain) => output.write(|out| print(out, &transaction, &outcome, form))?,
    }
    output.finish()
}

/// What is wrong with a transaction is to be mended where it is written.
fn failure(error: Error) -> Failure {
    let is_twice = |cause: &str| cause.contains("twice");
    let next = if matches!(&error, Error::Invalid { cause, .. } if is_twice(cause)) {
        // A node tells what is wrong in words only; with other words the advice is the one below.
        "a transaction that writes each key once, since all of it has one revision; or two of them, one after the other"
    } else if matches!(error, Error::Invalid { .. }) {
        "correct in the transaction what the message names; raftkv-cli txn --help, for what it takes"
    } else if matches!(error, Error::CompactedRevision { .. } | Error::FutureRevision { .. }) {
        "another revision in the get of the transaction; without one, it reads what there is now"
    } else if matches!(error, Error::OutcomeUnknown { .. } | Error::AnswerForgotten { .. }) {
        "raftkv-cli get KEY --meta, with a key that the transaction writes, to see whether it happened"
    } else {
        return error.into();
    };
    Failure::from(error).with_next(next)
}

fn branch(succeeded: bool) -> &'static str {
    if succeeded { "then" } else { "else" }
}

fn print(out: &mut dyn Write, transaction: &Transaction, outcome: &TransactionOutcome, form: Format) -> io::Result<()> {
    writeln!(out, "{}", branch(outcome.succeeded))?;
    print_branch(out, transaction, (outcome.succeeded, &outcome.operations), form, 0)
}

/// Plain lines, indented in nested transactions only; or lines that are indented throughout and cannot steer a terminal.
fn print_branch(
    out: &mut dyn Write,
    transaction: &Transaction,
    (succeeded, outcomes): (bool, &[OperationOutcome]),
    form: Format,
    depth: usize,
) -> io::Result<()> {
    let indent = "  ".repeat(if form == Format::Table { depth + 1 } else { depth });
    for (operation, outcome) in transaction.operations(succeeded).zip(outcomes) {
        let keys = operation.keys().map(|range| match form {
            Format::Table => transaction::shown(&range, SHOWN_MAX),
            Format::Plain | Format::Json => transaction::written(&range),
        });
        let keys = keys.unwrap_or_default();
        match outcome {
            OperationOutcome::Put { .. } => writeln!(out, "{indent}put {keys}")?,
            OperationOutcome::Delete { deleted, .. } => writeln!(out, "{indent}del {deleted} {keys}")?,
            OperationOutcome::Range { count, more, .. } => {
                writeln!(out, "{indent}get {count}{} {keys}", if *more { " more" } else { "" })?;
            }
            OperationOutcome::Transaction { succeeded, operations } => {
                writeln!(out, "{indent}txn {}", branch(*succeeded))?;
                let nested = operation.nested().unwrap_or_default();
                print_branch(out, &nested, (*succeeded, operations), form, depth + 1)?;
            }
        }
        for kv in outcome.pairs() {
            print_pair(out, kv, form, &indent)?;
        }
    }
    Ok(())
}

fn print_pair(out: &mut dyn Write, kv: &KeyValue, form: Format, indent: &str) -> io::Result<()> {
    if form == Format::Table {
        return writeln!(out, "{indent}  {} = {}", printable(&kv.key, SHOWN_MAX), printable(&kv.value, SHOWN_MAX));
    }
    out.write_all(indent.as_bytes())?;
    out.write_all(&kv.key)?;
    out.write_all(b"\t")?;
    out.write_all(&kv.value)?;
    out.write_all(b"\n")
}

fn to_json(outcome: &TransactionOutcome) -> Value {
    json!({
        "branch": branch(outcome.succeeded),
        "revision": outcome.revision,
        "index": outcome.index,
        "results": results(&outcome.operations),
    })
}

fn results(operations: &[OperationOutcome]) -> Vec<Value> {
    let pairs = |kvs: &[KeyValue]| kvs.iter().map(record::to_json).collect::<Vec<Value>>();
    let result = |operation: &OperationOutcome| match operation {
        OperationOutcome::Put { previous } => json!({ "put": { "previous": previous.as_ref().map(record::to_json) } }),
        OperationOutcome::Delete { deleted, previous } => {
            json!({ "del": { "deleted": deleted, "previous": pairs(previous) } })
        }
        OperationOutcome::Range { pairs: kvs, count, more } => {
            json!({ "get": { "kvs": pairs(kvs), "count": count, "more": more } })
        }
        OperationOutcome::Transaction { succeeded, operations } => {
            json!({ "txn": { "branch": branch(*succeeded), "results": results(operations) } })
        }
    };
    operations.iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use client::{Compare, Delete, Operation, Put, Range, Scan};

    fn outcome() -> TransactionOutcome {
        let kv = |key: &'static [u8], value: &'static [u8]| KeyValue {
            key: Bytes::from_static(key),
            value: Bytes::from_static(value),
            create_revision: 1,
            mod_revision: 2,
            version: 2,
            lease: None,
        };
        let inner = vec![OperationOutcome::Range { pairs: vec![kv(b"n", b"\x1b[2J")], count: 1, more: false }];
        TransactionOutcome {
            revision: 12,
            index: Some(40),
            succeeded: true,
            operations: vec![
                OperationOutcome::Put { previous: Some(kv(b"color", b"green")) },
                OperationOutcome::Delete { deleted: 3, previous: Vec::new() },
                OperationOutcome::Range { pairs: vec![kv(b"a", b"1"), kv(b"b", b"2")], count: 9, more: true },
                OperationOutcome::Transaction { succeeded: false, operations: inner },
            ],
        }
    }

    fn transaction() -> Transaction {
        let inner = Transaction::new().when(Compare::exists("m")).otherwise(Operation::get("n"));
        Transaction::new()
            .then(Operation::put(Put::new("color", "blue").with_previous()))
            .then(Operation::delete(Delete::range(Range::prefix("old\x1b/"))))
            .then(Operation::range(Scan::new(Range::between("a", "c")).limit(2)))
            .then(Operation::transaction(inner))
    }

    fn printed(form: Format) -> String {
        let mut out = Vec::new();
        print(&mut out, &transaction(), &outcome(), form).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Lines of the help after the one that begins with `first`, up to the one that begins with `end`.
    fn part(help: &str, first: &str, end: &str) -> String {
        let lines = help.lines().skip_while(|line| !line.starts_with(first)).skip(1);
        lines.take_while(|line| !line.starts_with(end)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_the_help_shows_is_taken_and_both_forms_say_the_same() {
        let help = TxnArguments::augment_args(clap::Command::new("txn")).get_after_help().unwrap().to_string();
        let text = part(&help, "The text form", "Words with");
        let json = part(&help, "The same as JSON", "Compares of");
        assert_eq!(transaction::parse(text.as_bytes()).unwrap(), transaction::parse(json.as_bytes()).unwrap());
        let piped = help.lines().filter_map(|line| line.trim().strip_prefix("echo '")?.split_once("' |"));
        let inputs: Vec<&str> = piped.map(|(input, _)| input).collect();
        assert_eq!(inputs.len(), 2, "{help}");
        for input in inputs {
            assert!(transaction::parse(input.as_bytes()).is_ok(), "{input}");
        }
    }

    #[test]
    fn the_help_shows_every_word_that_a_transaction_may_have() {
        let help = TxnArguments::augment_args(clap::Command::new("txn")).get_after_help().unwrap().to_string();
        // The messages about a mistyped word list those that are known.
        let listed = |input: &str, before: &str| {
            let message = transaction::parse(input.as_bytes()).unwrap_err().to_string();
            let (_, words) = message.split_once(before).unwrap();
            let end = words.find(" at line").unwrap_or(words.len());
            let words = words[..end].split(|sign: char| !sign.is_ascii_alphanumeric() && !"_-".contains(sign));
            words.map(str::to_owned).filter(|word| word.len() > 1 && word != "or").collect::<Vec<_>>()
        };
        let mut words = Vec::new();
        for (input, before) in [
            ("{\"when\": []}", "expected one of "),
            ("{\"if\": [{\"when\": {}}]}", "expected one of "),
            ("{\"then\": [{\"when\": {}}]}", "expected one of "),
            ("{\"then\": [{\"get\": {\"when\": 1}}]}", "expected one of "),
        ] {
            words.extend(listed(input, before).into_iter().map(|word| format!("\"{word}\"")));
        }
        assert!(words.len() > 30, "{words:?}");
        // One of these stands for all of them.
        words.retain(|word| !["prefix_base64", "from_base64", "to_base64"].contains(&word.trim_matches('"')));
        words.retain(|word| word != "\"create\"" || !help.contains("version, create, mod and lease"));
        let text = [
            ("if { when(k) = 1 }", "expected "),
            ("then { put k v --when }", "expected "),
            ("then { get k --when }", "expected "),
            ("then { get --when k }", "expected "),
        ];
        for (input, before) in text {
            let of_text = listed(&format!("{input} "), before).into_iter();
            words.extend(
                of_text.filter(|word| !["found", "when", "--when", "key", "ID", "BY"].contains(&word.as_str())),
            );
        }
        for word in words {
            assert!(help.contains(&word), "{word} is not shown: {help}");
        }
    }

    #[test]
    fn plain_output_names_the_branch_and_each_operation() {
        let wanted = "then\nput color\ncolor\tgreen\ndel 3 --prefix \"old\\x1b/\"\nget 9 more --range a c\na\t1\nb\t2\ntxn else\n  get 1 n\n  n\t\x1b[2J\n";
        assert_eq!(printed(Format::Plain), wanted);
    }

    #[test]
    fn a_terminal_gets_indented_lines_that_cannot_steer_it() {
        let wanted = "then\n  put color\n    color = green\n  del 3 --prefix old\\u{1b}/\n  get 9 more --range a c\n    a = 1\n    b = 2\n  txn else\n    get 1 n\n      n = \\u{1b}[2J\n";
        assert_eq!(printed(Format::Table), wanted);
    }

    #[test]
    fn json_has_its_fields_in_the_order_of_a_scan() {
        let outcome = outcome();
        let mut line = Vec::new();
        record::write_line(&mut line, &outcome.operations[0].pairs()[0], record::Parts::KeyAndValue).unwrap();
        let pair = String::from_utf8(line).unwrap();
        let object = to_json(&outcome).to_string();
        assert!(object.contains(&format!("{{\"put\":{{\"previous\":{}}}}}", pair.trim())), "{object}");
        assert!(object.starts_with("{\"branch\":\"then\",\"revision\":12,\"index\":40,\"results\":["), "{object}");
    }

    #[test]
    fn json_is_one_object() {
        let object = to_json(&outcome());
        assert_eq!(
            (object["branch"].as_str(), object["revision"].as_u64(), object["index"].as_u64()),
            (Some("then"), Some(12), Some(40))
        );
        assert_eq!(object["results"][0]["put"]["previous"]["value"], "green");
        assert_eq!(object["results"][1]["del"]["deleted"], 3);
        assert_eq!(object["results"][2]["get"]["more"], true);
        assert_eq!(object["results"][3]["txn"]["results"][0]["get"]["kvs"][0]["key"], "n");
    }
}
