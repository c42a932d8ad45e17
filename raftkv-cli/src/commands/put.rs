//! `put`: write one key.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::Failure;
use crate::output::{Format, Output, tell_if_escaped, write_value};
use crate::record;
use crate::source::{Source, bytes_of};
use bytes::Bytes;
use clap::Args;
use client::{Condition, Put, PutOutcome};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

/// Write one key
///
/// The value is the argument, the contents of FILE with @FILE, or standard input with - or no argument; @@x means the literal @x. It is
/// stored byte by byte. Ends with 4 if a condition does not hold, and with 3 if there is no such lease; then nothing is written.
///
/// Prints the new revision. With --prev it prints what the key held before instead, as `get` would; -o json prints both. -o table is the
/// same as -o plain.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli put color green
  raftkv-cli put photo @photo.jpg
  tar c etc | raftkv-cli put backup/etc -
  raftkv-cli put lock me --if-absent --ttl 30s
  raftkv-cli put counter 8 --if-value 7 --prev")]
pub(crate) struct PutArguments {
    /// The key: any bytes
    #[arg(value_parser = arguments::key())]
    pub(crate) key: OsString,
    /// The value, @FILE, or - for standard input
    #[arg(value_name = "VALUE|@FILE|-", allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// Only if the key does not exist
    #[arg(long, group = "condition")]
    pub(crate) if_absent: bool,
    /// Only if the key was last changed at this revision
    #[arg(long, group = "condition", value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) if_rev: Option<u64>,
    /// Only if the key holds this value; @FILE as above
    #[arg(long, group = "condition", value_name = "VALUE|@FILE", allow_negative_numbers = true)]
    pub(crate) if_value: Option<OsString>,
    /// Let the key live by this lease: it is deleted when the lease ends
    #[arg(long, group = "lifetime", value_name = "ID", value_parser = arguments::lease_id)]
    pub(crate) lease: Option<u64>,
    /// Let the key live for so long, like 60s; putting it anew without this makes it live until it is deleted
    #[arg(long, group = "lifetime", value_name = "DURATION", value_parser = arguments::ttl)]
    pub(crate) ttl: Option<Duration>,
    /// Print what the key held before
    #[arg(long)]
    pub(crate) prev: bool,
}

pub(crate) async fn run(arguments: PutArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let condition = condition(&arguments).await?;
    let value = Source::of_value(arguments.value.as_deref()).read().await?;
    let key = bytes_of(arguments.key.clone());
    let mut put = Put::new(key.clone(), value);
    if let Some(condition) = condition {
        put = put.only_if(condition);
    }
    if arguments.prev {
        put = put.with_previous();
    }
    put = match (arguments.lease, arguments.ttl) {
        (Some(id), _) => put.lease(id),
        (None, Some(ttl)) => put.ttl(ttl),
        (None, None) => put,
    };
    let outcome = client.put(put).await;
    client.close_session().await;
    let outcome = outcome.map_err(|error| Failure::of_write(&error, &arguments.key))?;
    let mut output = Output::standard();
    let is_terminal = output.is_terminal();
    output.write(|out| print(out, &key, &outcome, arguments.prev, globals.output, is_terminal))?;
    output.finish()?;
    if let Some(previous) = outcome.previous.filter(|_| is_terminal && globals.output != Some(Format::Json)) {
        tell_if_escaped(&previous.value, "-o json shows them exactly");
    }
    Ok(())
}

async fn condition(arguments: &PutArguments) -> Result<Option<Condition>, Failure> {
    if arguments.if_absent {
        return Ok(Some(Condition::Absent));
    }
    if let Some(revision) = arguments.if_rev {
        return Ok(Some(Condition::Revision(revision)));
    }
    match &arguments.if_value {
        Some(value) => Ok(Some(Condition::Value(Source::of_argument(value).read().await?))),
        None => Ok(None),
    }
}

fn print(
    out: &mut dyn Write,
    key: &Bytes,
    outcome: &PutOutcome,
    prev: bool,
    format: Option<Format>,
    is_terminal: bool,
) -> io::Result<()> {
    match (format, &outcome.previous) {
        (Some(Format::Json), previous) => {
            let (name, key) = record::key_field(key);
            let mut object = json!({ name: key, "revision": outcome.revision, "index": outcome.index });
            if prev {
                object["previous"] = previous.as_ref().map_or(serde_json::Value::Null, record::to_json);
            }
            writeln!(out, "{object}")
        }
        (_, Some(previous)) if prev => write_value(out, &previous.value, is_terminal),
        (_, _) if prev => Ok(()),
        (_, _) => writeln!(out, "{}", outcome.revision),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use client::KeyValue;

    fn printed(previous: Option<&'static [u8]>, prev: bool, format: Option<Format>, is_terminal: bool) -> Vec<u8> {
        let key = Bytes::from_static(b"k");
        let previous = previous.map(|value| KeyValue {
            key: key.clone(),
            value: Bytes::from_static(value),
            create_revision: 1,
            mod_revision: 2,
            version: 2,
            lease: None,
        });
        let outcome = PutOutcome { revision: 3, index: 7, previous };
        let mut out = Vec::new();
        print(&mut out, &key, &outcome, prev, format, is_terminal).unwrap();
        out
    }

    #[test]
    fn prints_the_revision_or_exactly_what_was_there() {
        assert_eq!(printed(None, false, None, false), b"3\n");
        assert_eq!(printed(Some(b"a\xff\n"), true, None, false), b"a\xff\n");
        assert_eq!(printed(Some(b"a"), true, None, true), b"a\n");
        assert_eq!(printed(Some(b"a\x1b"), true, None, true), b"a\\u{1b}\n");
        assert_eq!(
            printed(Some(b"a"), false, Some(Format::Table), true),
            printed(Some(b"a"), false, Some(Format::Plain), true)
        );
        assert_eq!(printed(None, true, None, false), b"");
    }

    #[test]
    fn json_has_both() {
        let object: serde_json::Value =
            serde_json::from_slice(&printed(Some(b"\xff"), true, Some(Format::Json), false)).unwrap();
        assert_eq!(object["key"], "k");
        assert_eq!(object["revision"], 3);
        assert_eq!(object["previous"]["value_base64"], "/w==");
        let nothing: serde_json::Value =
            serde_json::from_slice(&printed(None, true, Some(Format::Json), false)).unwrap();
        assert!(nothing["previous"].is_null() && nothing.get("previous").is_some());
    }
}
