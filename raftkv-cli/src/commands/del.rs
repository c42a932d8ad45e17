//! `del`: delete one key or a range.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{Format, Output};
use crate::record::{self, Parts};
use crate::source::bytes_of;
use crate::steps;
use clap::{ArgGroup, Args};
use client::{Client, Delete, DeleteOutcome, Error, Range};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Write};

/// Delete one key, or all in a range
///
/// A range is deleted at one revision, all or nothing, if it holds no more than the cluster deletes at once (100,000 keys). A larger one is deleted in steps, in the order of the keys: each step is all or nothing, the whole is not. Others
/// may see a part of it deleted; a key that is put meanwhile may stay or go; and when a step fails, or Ctrl-C comes, the steps before it have happened, and
/// the message says how many keys they deleted. The revision that -o json prints is the last step's. With --prev there are no steps: a range that is too large, or holds more than 8 MiB, is refused.
///
/// Prints how many keys were deleted. With --prev it prints what they held instead: `KEY<tab>VALUE` lines, or one JSON object a line.
///
/// Ends with 3 if the one KEY does not exist. A prefix or range that holds nothing is no error: 0 is printed.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["key", "prefix", "range"]),
    after_help = "Examples:
  raftkv-cli del color
  raftkv-cli del --prefix session/
  raftkv-cli del --range a m --prev -o json"
)]
pub(crate) struct DelArguments {
    /// The key: any bytes
    #[arg(value_name = "KEY", value_parser = arguments::key())]
    pub(crate) key: Option<OsString>,
    /// Every key that begins with this; "" means every key
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<OsString>,
    /// Every key from the first, inclusive, to the second, exclusive
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"])]
    pub(crate) range: Option<Vec<OsString>>,
    /// Print what the keys held
    #[arg(long)]
    pub(crate) prev: bool,
}

pub(crate) async fn run(arguments: DelArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let outcome = delete(&client, arguments, globals).await;
    client.close_session().await;
    outcome
}

async fn delete(client: &Client, arguments: DelArguments, globals: &Globals) -> Result<(), Failure> {
    let range = range(&arguments)?;
    let mut delete = Delete::range(range.clone());
    if arguments.prev {
        delete = delete.with_previous();
    }
    let outcome = match (client.delete(delete).await, &arguments.key) {
        (Ok(outcome), _) => outcome,
        (Err(Error::RangeTooLarge { keys_max, .. }), None) if !arguments.prev => {
            interrupt::listen()?;
            steps::delete(client, range, keys_max, interrupt::has_come).await?
        }
        (Err(error @ Error::RangeTooLarge { .. }), None) => {
            return Err(
                Failure::from(error).with_next("without --prev, which deletes in steps; or a smaller prefix or range")
            );
        }
        (Err(error), Some(key)) => return Err(Failure::of_write(&error, key)),
        (Err(error), None) => return Err(Failure::from(error)),
    };
    if let Some(key) = arguments.key.filter(|_| outcome.deleted == 0) {
        return Err(Failure::key_not_found(&key, &outcome.endpoint));
    }
    let mut output = Output::standard();
    output.write(|out| print(out, &outcome, arguments.prev, globals.output))?;
    output.finish()
}

fn range(arguments: &DelArguments) -> Result<Range, Failure> {
    if let Some(key) = &arguments.key {
        return Ok(Range::key(bytes_of(key.clone())));
    }
    if let Some(prefix) = &arguments.prefix {
        return Ok(Range::prefix(bytes_of(prefix.clone())));
    }
    arguments::range(arguments.range.as_deref().expect("clap wants exactly one of key, prefix and range"))
}

fn print(out: &mut dyn Write, outcome: &DeleteOutcome, prev: bool, format: Option<Format>) -> io::Result<()> {
    let is_json = format == Some(Format::Json);
    if prev {
        for kv in &outcome.previous {
            if is_json {
                record::write_line(out, kv, Parts::KeyAndValue)?;
            } else {
                out.write_all(&kv.key)?;
                out.write_all(b"\t")?;
                out.write_all(&kv.value)?;
                out.write_all(b"\n")?;
            }
        }
        return Ok(());
    }
    if is_json {
        let object = json!({ "deleted": outcome.deleted, "revision": outcome.revision, "index": outcome.index });
        return writeln!(out, "{object}");
    }
    writeln!(out, "{}", outcome.deleted)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use bytes::Bytes;
    use client::KeyValue;

    fn outcome() -> DeleteOutcome {
        let kv = |key: &'static [u8]| KeyValue {
            key: Bytes::from_static(key),
            value: Bytes::from_static(b"v"),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            lease: None,
        };
        DeleteOutcome { revision: 5, index: 9, deleted: 2, previous: vec![kv(b"a"), kv(b"b")], endpoint: "n1:1".into() }
    }

    fn printed(prev: bool, format: Option<Format>) -> String {
        let mut out = Vec::new();
        print(&mut out, &outcome(), prev, format).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn prints_the_number_or_what_was_there() {
        assert_eq!(printed(false, None), "2\n");
        assert_eq!(printed(true, Some(Format::Plain)), "a\tv\nb\tv\n");
        assert_eq!(printed(true, Some(Format::Json)).lines().count(), 2);
        assert_eq!(printed(false, Some(Format::Json)), "{\"deleted\":2,\"revision\":5,\"index\":9}\n");
    }

    #[test]
    fn what_to_delete() {
        let of = |key: Option<&str>, prefix: Option<&str>, ends: Option<[&str; 2]>| {
            range(&DelArguments {
                key: key.map(Into::into),
                prefix: prefix.map(Into::into),
                range: ends.map(|ends| ends.map(Into::into).to_vec()),
                prev: false,
            })
            .unwrap()
        };
        assert_eq!(of(Some("k"), None, None), Range::key("k"));
        assert_eq!(of(None, Some("k/"), None), Range::prefix("k/"));
        assert_eq!(of(None, None, Some(["a", "m"])), Range::between("a", "m"));
    }
}
