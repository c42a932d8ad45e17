//! `import`: write many pairs from NDJSON.
//!
//! A thread reads and parses lines; a window of puts is under way at the same time. Two lines with the same key never are: the second
//! waits for the first, so that the last line of a key wins as it would one by one. After the first error no more is sent, what is under
//! way is waited for, and the report says how many pairs are certainly in.

use crate::arguments::Globals;
use crate::connect;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::{Format, Output};
use crate::record::{Pair, parse_line};
use crate::source::{INPUT_BYTES_MAX, open, standard_input};
use bytes::Bytes;
use clap::Args;
use client::{Client, Error, Put};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Puts under way at the same time.
const WINDOW: usize = 256;
/// Bytes of keys and values under way at the same time; a single larger pair goes alone.
const WINDOW_BYTES: usize = 32 << 20;
/// Parsed lines that wait for their turn.
const LINES_AHEAD: usize = 64;
/// The longest line: the largest value, escaped or in base64, and a key. Control characters take six bytes each.
const LINE_BYTES_MAX: u64 = 6 * INPUT_BYTES_MAX;

/// Write pairs from NDJSON, as `export` and `scan -o json` print it
///
/// Each line is an object with `key` or `key_base64`, and `value` or `value_base64`; other fields are ignored. Prints how many pairs were
/// imported. Stops at the first error and says which line it was and how many pairs are certainly imported; at Ctrl-C it says that too. Importing again from
/// there, or from the start, is safe.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli export backup.ndjson && raftkv-cli import backup.ndjson
  jq -c '.[] | {key, value}' pairs.json | raftkv-cli import")]
pub(crate) struct ImportArguments {
    /// The file, or - for standard input
    #[arg(value_name = "FILE|-", default_value = "-")]
    pub(crate) file: PathBuf,
}

pub(crate) async fn run(arguments: ImportArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let (input, bytes_all): (Box<dyn Read + Send>, Option<u64>) = if arguments.file == Path::new("-") {
        (Box::new(standard_input()?), None)
    } else {
        let file = open(&arguments.file)?;
        let length = file.metadata().ok().filter(|metadata| metadata.is_file()).map(|metadata| metadata.len());
        (Box::new(file), length)
    };
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || read_lines(BufReader::new(input), &sender));
    let bar = progress(bytes_all);
    interrupt::listen()?;
    let outcome = Import::new(client.clone()).run(receiver, &bar, interrupt::interrupted()).await;
    bar.finish_and_clear();
    client.close_session().await;
    let Import { imported, leases, .. } = outcome?;
    if leases > 0 {
        // A remark beside the data.
        let _told = writeln!(io::stderr(), "imported without their leases: {leases}");
    }
    let mut output = Output::standard();
    output.write(|out| match globals.output {
        Some(Format::Json) => writeln!(out, "{}", json!({ "imported": imported })),
        Some(Format::Plain) => writeln!(out, "{imported}"),
        Some(Format::Table) | None => writeln!(out, "{imported} imported"),
    })?;
    output.finish()
}

fn progress(bytes_all: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes_all {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:32} {percent}% {bytes}/{total_bytes} {msg} ({eta} left)"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
}

/// A line, parsed.
#[derive(Debug)]
struct Line {
    number: u64,
    bytes: usize,
    pair: Result<Pair, Failure>,
}

/// Parses lines until the end, an error, or until nobody wants them any more. Empty lines are passed over.
fn read_lines(mut input: impl BufRead, sender: &mpsc::Sender<Line>) {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let pair = match (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(read) if read as u64 == LINE_BYTES_MAX && !line.ends_with(b"\n") => {
                Err(Failure::usage(format!("longer than {LINE_BYTES_MAX} bytes")))
            }
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => parse_line(&line).map_err(Failure::usage),
            Err(cause) => Err(Failure::io("it cannot be read", &cause)),
        };
        let is_last = pair.is_err();
        if sender.blocking_send(Line { number, bytes: line.len(), pair }).is_err() || is_last {
            return;
        }
    }
}

/// A put that has ended.
struct Ended {
    number: u64,
    key: Bytes,
    bytes: usize,
    outcome: Result<(), Error>,
}

struct Import {
    client: Client,
    puts: JoinSet<Ended>,
    keys: HashSet<Bytes>,
    bytes: usize,
    imported: u64,
    leases: u64,
    unknown: u64,
    /// The failure of the lowest line.
    failed: Option<(u64, Failure)>,
}

impl Import {
    fn new(client: Client) -> Import {
        let (puts, keys) = (JoinSet::new(), HashSet::new());
        Import { client, puts, keys, bytes: 0, imported: 0, leases: 0, unknown: 0, failed: None }
    }

    /// Until the lines are over, one of them fails, or `interrupted` returns: what has been sent is awaited then.
    async fn run(
        mut self,
        mut lines: mpsc::Receiver<Line>,
        bar: &ProgressBar,
        interrupted: impl Future<Output = Result<(), Failure>>,
    ) -> Result<Import, Failure> {
        let mut interrupted = std::pin::pin!(interrupted);
        let mut is_interrupted = false;
        while self.failed.is_none() {
            let line = tokio::select! {
                biased;
                Ok(()) = &mut interrupted => {
                    is_interrupted = true;
                    break;
                }
                line = lines.recv() => line,
            };
            let Some(Line { number, bytes, pair }) = line else { break };
            match pair {
                Ok(pair) => self.send(number, pair).await,
                Err(failure) => self.fail(number, failure),
            }
            bar.inc(bytes as u64);
            bar.set_message(format!("{} pairs", self.imported));
        }
        while let Some(ended) = self.puts.join_next().await {
            self.take(ended.expect("a put neither panics nor is cancelled"));
        }
        match self.failed.take() {
            None if is_interrupted => {
                let interrupt = Failure::new(Code::Interrupted, "interrupted");
                Err(report(None, interrupt, self.imported, self.unknown))
            }
            None => Ok(self),
            Some((number, failure)) => Err(report(Some(number), failure, self.imported, self.unknown)),
        }
    }

    /// Sends one pair when there is room, unless an earlier one fails meanwhile.
    async fn send(&mut self, number: u64, pair: Pair) {
        let Pair { key, value, had_lease } = pair;
        let bytes = key.len() + value.len();
        while self.failed.is_none() && !self.has_room(&key, bytes) {
            let ended = self.puts.join_next().await.expect("without puts under way there is room");
            self.take(ended.expect("a put neither panics nor is cancelled"));
        }
        if self.failed.is_some() {
            return;
        }
        self.leases += u64::from(had_lease);
        self.bytes += bytes;
        self.keys.insert(key.clone());
        let client = self.client.clone();
        self.puts.spawn(async move {
            let outcome = client.put(Put::new(key.clone(), value)).await.map(|_| ());
            Ended { number, key, bytes, outcome }
        });
    }

    fn has_room(&self, key: &Bytes, bytes: usize) -> bool {
        self.puts.is_empty()
            || (self.puts.len() < WINDOW && self.bytes + bytes <= WINDOW_BYTES && !self.keys.contains(key))
    }

    fn take(&mut self, ended: Ended) {
        self.bytes -= ended.bytes;
        self.keys.remove(&ended.key);
        match ended.outcome {
            Ok(()) => self.imported += 1,
            Err(error) => {
                self.unknown += u64::from(!error.is_certainly_not_applied());
                self.fail(ended.number, error.into());
            }
        }
    }

    fn fail(&mut self, number: u64, failure: Failure) {
        if self.failed.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
            self.failed = Some((number, failure));
        }
    }
}

/// The failure of a line, or of all, with what is known of the others.
fn report(line: Option<u64>, failure: Failure, imported: u64, unknown: u64) -> Failure {
    let pairs = if imported == 1 { "pair is" } else { "pairs are" };
    let place = line.map_or(String::new(), |number| format!("line {number}: "));
    let mut cause = format!("{place}{}; {imported} {pairs} certainly imported", failure.cause);
    if unknown > 0 {
        cause.push_str(&format!(", of {unknown} it is not known"));
    }
    let first = match &failure.next {
        _ if failure.code == Code::Usage => {
            line.map_or(String::new(), |number| format!("correct line {number}, then "))
        }
        // Such as to make room first.
        Some(next) if failure.code == Code::Unavailable => format!("{next}; then "),
        _ => String::new(),
    };
    let next = format!("{first}import again: pairs that are in already are written again, with the same values");
    Failure { cause, next: Some(next), ..failure }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn lines(input: &[u8]) -> Vec<Line> {
        let (sender, mut receiver) = mpsc::channel(LINES_AHEAD);
        read_lines(input, &sender);
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    #[test]
    fn lines_keep_their_numbers_and_empty_ones_are_passed_over() {
        let found = lines(b"{\"key\":\"a\",\"value\":\"1\"}\n\n  \r\n{\"key\":\"b\",\"value_base64\":\"/w==\"}");
        let shown: Vec<_> = found.iter().map(|line| (line.number, line.pair.as_ref().unwrap().key.as_ref())).collect();
        assert_eq!(shown, [(1, b"a".as_slice()), (4, b"b".as_slice())]);
    }

    #[test]
    fn reading_ends_with_the_first_bad_line() {
        let found = lines(b"{\"key\":\"a\",\"value\":\"1\"}\nnonsense\n{\"key\":\"b\",\"value\":\"2\"}\n");
        assert_eq!((found.len(), found[1].number), (2, 2));
        assert_eq!(found[1].pair.as_ref().unwrap_err().code, Code::Usage);
    }

    #[test]
    fn the_report_names_the_line_and_what_is_certain() {
        let failure = || Failure::new(Code::OutcomeUnknown, "the outcome of the write is unknown").at("n1:1");
        let reported = report(Some(17), failure(), 16, 2);
        assert_eq!((reported.code, reported.endpoint.as_deref()), (Code::OutcomeUnknown, Some("n1:1")));
        assert_eq!(
            reported.cause,
            "line 17: the outcome of the write is unknown; 16 pairs are certainly imported, of 2 it is not known"
        );
        assert!(!report(Some(17), failure(), 16, 0).cause.contains("not known"));
    }
}
