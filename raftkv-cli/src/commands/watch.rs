//! `watch`: what happens to keys, as it happens.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::Failure;
use crate::output::{Format, Output, printable};
use crate::record;
use crate::source::bytes_of;
use clap::{ArgGroup, Args, ValueEnum};
use client::{Range, Watch, WatchEvent};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Characters of a key or a value in a table.
const SHOWN_MAX: usize = 72;
/// Linux takes no environment variable of more than 128 KiB; name and room for others included.
const VARIABLE_BYTES_MAX: usize = 64 << 10;

/// Watch keys: print every change, in order, until interrupted
///
/// The watch goes on by itself when connections or nodes fail, with no change missed and none twice. Without --from-rev it begins after everything that was
/// acknowledged before.
///
/// -o plain writes `put<tab>KEY<tab>VALUE` and `delete<tab>KEY` lines with the bytes as they are. -o json writes one object a line, with `type`
/// put or delete, and is exact for any bytes. -o table, what a terminal gets, is as plain with keys and values shortened and escaped.
///
/// With --exec nothing is printed: the command is run by a shell for one change after the other. It gets the new value on standard input, and in its
/// environment RAFTKV_EVENT_TYPE, RAFTKV_EVENT_KEY, RAFTKV_EVENT_VALUE and RAFTKV_EVENT_REVISION; key and value only if they can be there, which zero
/// bytes and more than 64 KiB cannot. A command that fails ends the watch, and the message says how to go on.
///
/// If the revision to begin with is compacted the watch ends with 1, and the message names the oldest one that is left.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["key", "prefix", "range"]),
    after_help = "Examples:
  raftkv-cli watch color
  raftkv-cli watch --prefix service/ -o json
  raftkv-cli watch --prefix service/ --from-rev 120 --prev
  raftkv-cli watch --prefix service/ --only delete
  raftkv-cli watch config --exec 'cat > app.conf && systemctl reload app'
  raftkv-cli watch ready --count 1"
)]
pub(crate) struct WatchArguments {
    /// The key: any bytes
    #[arg(value_name = "KEY", value_parser = arguments::key())]
    pub(crate) key: Option<OsString>,
    /// Every key that begins with this; "" means every key
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<OsString>,
    /// Every key from the first, inclusive, to the second, exclusive
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"])]
    pub(crate) range: Option<Vec<OsString>>,
    /// Begin with the changes of this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from_rev: Option<u64>,
    /// Only changes of this kind
    #[arg(long, value_name = "KIND")]
    pub(crate) only: Option<Kind>,
    /// With what the key held before
    #[arg(long)]
    pub(crate) prev: bool,
    /// Run this command for each change
    #[arg(long, value_name = "COMMAND", conflicts_with = "prev")]
    pub(crate) exec: Option<OsString>,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Keys that are written
    Put,
    /// Keys that are deleted
    Delete,
}

pub(crate) async fn run(arguments: WatchArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let failed = |error| Failure::of_read(&error, "--from-rev");
    let mut watch = client.watch(request(&arguments)?).await.map_err(failed)?;
    let mut output = Output::standard();
    let default = if output.is_terminal() { Format::Table } else { Format::Plain };
    let format = globals.output.unwrap_or(default);
    let mut left = arguments.count;
    loop {
        let batch = watch.next().await.map_err(failed)?;
        for (place, event) in batch.events.iter().enumerate() {
            match &arguments.exec {
                Some(command) => {
                    let rest = batch.events[place + 1..].iter();
                    let left = rest.take_while(|later| later.revision() == event.revision()).count();
                    execute(command, event, left).await?;
                }
                None => output.write(|out| print(out, format, event))?,
            }
            if let Some(left) = &mut left {
                *left -= 1;
                if *left == 0 {
                    return output.finish();
                }
            }
        }
        // Whoever reads this waits for it.
        output.flush()?;
    }
}

fn request(arguments: &WatchArguments) -> Result<Watch, Failure> {
    let bytes = |argument: &OsString| bytes_of(argument.clone());
    let range = match (&arguments.key, &arguments.prefix, arguments.range.as_deref()) {
        (Some(key), _, _) => Range::key(bytes(key)),
        (None, Some(prefix), _) => Range::prefix(bytes(prefix)),
        (None, None, Some(ends)) => arguments::range(ends)?,
        (None, None, None) => unreachable!("clap wants exactly one of key, prefix and range"),
    };
    let mut watch = Watch::range(range);
    if arguments.prev {
        watch = watch.with_previous();
    }
    watch = match arguments.only {
        Some(Kind::Put) => watch.no_deletes(),
        Some(Kind::Delete) => watch.no_puts(),
        None => watch,
    };
    Ok(match arguments.from_rev {
        Some(revision) => watch.from_revision(revision),
        None => watch,
    })
}

fn print(out: &mut dyn Write, format: Format, event: &WatchEvent) -> io::Result<()> {
    let previous = event.previous().map(|kv| &kv.value[..]);
    let mut columns: Vec<&[u8]> = vec![kind(event).as_bytes(), event.key()];
    if let WatchEvent::Put { kv, .. } = event {
        columns.push(&kv.value);
    }
    columns.extend(previous);
    match format {
        Format::Json => record::write_event(out, event),
        Format::Plain => {
            out.write_all(&columns.join(&b'\t'))?;
            out.write_all(b"\n")
        }
        Format::Table => {
            let shown: Vec<String> = columns.iter().map(|column| printable(column, SHOWN_MAX)).collect();
            writeln!(out, "{}", shown.join("  "))
        }
    }
}

/// As JSON and the command's environment say it too.
fn kind(event: &WatchEvent) -> &'static str {
    match event {
        WatchEvent::Put { .. } => "put",
        WatchEvent::Delete { .. } => "delete",
    }
}

/// Runs the command for one event, and waits for its end. So many events of the same revision are `left`.
async fn execute(command: &OsStr, event: &WatchEvent, left: usize) -> Result<(), Failure> {
    let value = match event {
        WatchEvent::Put { kv, .. } => Some(&kv.value[..]),
        WatchEvent::Delete { .. } => None,
    };
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).kill_on_drop(true);
    shell.env("RAFTKV_EVENT_TYPE", kind(event)).env("RAFTKV_EVENT_REVISION", event.revision().to_string());
    for (name, bytes) in [("RAFTKV_EVENT_KEY", Some(&event.key()[..])), ("RAFTKV_EVENT_VALUE", value)] {
        match bytes.filter(|bytes| bytes.len() <= VARIABLE_BYTES_MAX && !bytes.contains(&0)) {
            Some(bytes) => shell.env(name, OsStr::from_bytes(bytes)),
            None => shell.env_remove(name),
        };
    }
    let failed = |cause: String| {
        let revision = event.revision();
        Failure::other(format!(
            "the command for the change of {} at revision {revision} {cause}",
            printable(event.key(), SHOWN_MAX)
        ))
        .with_next(match left {
            0 => format!(
                "the same watch with --from-rev {revision} to repeat it, or {} to go on after it",
                revision + 1
            ),
            // A watch begins at a revision, not in the middle of one.
            _ => format!(
                "the same watch with --from-rev {revision} to repeat it; {left} more of the same revision have not been told"
            ),
        })
    };
    let mut child = shell.spawn().map_err(|cause| failed(format!("cannot be run: {cause}")))?;
    let mut input = child.stdin.take().expect("it was asked for");
    let feed = async move {
        // A command that does not read its input need not.
        let _read = input.write_all(value.unwrap_or_default()).await;
    };
    let ((), ended) = tokio::join!(feed, child.wait());
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("failed: {status}"))),
        Err(cause) => Err(failed(format!("cannot be waited for: {cause}"))),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use bytes::Bytes;
    use client::KeyValue;

    fn put(key: &'static str, value: &'static [u8]) -> WatchEvent {
        let (key, value) = (Bytes::from(key), Bytes::from_static(value));
        let kv = KeyValue { key, value, create_revision: 2, mod_revision: 7, version: 3, lease: None };
        WatchEvent::Put { previous: None, kv }
    }

    fn delete(key: &'static str) -> WatchEvent {
        WatchEvent::Delete { key: key.into(), revision: 8, previous: None }
    }

    fn printed(format: Format, event: &WatchEvent) -> Vec<u8> {
        let mut out = Vec::new();
        print(&mut out, format, event).unwrap();
        out
    }

    #[test]
    fn a_change_is_one_line_in_each_form() {
        assert_eq!(printed(Format::Plain, &put("a", b"\xff")), b"put\ta\t\xff\n");
        assert_eq!(printed(Format::Plain, &delete("a")), b"delete\ta\n");
        assert_eq!(printed(Format::Table, &put("a", b"\x1b[31m")), b"put  a  \\u{1b}[31m\n");
        assert_eq!(
            String::from_utf8(printed(Format::Json, &put("a", b"1"))).unwrap(),
            "{\"type\":\"put\",\"key\":\"a\",\"value\":\"1\",\"create_revision\":2,\"mod_revision\":7,\"version\":3,\"lease\":null}\n"
        );
        assert_eq!(
            String::from_utf8(printed(Format::Json, &delete("a"))).unwrap(),
            "{\"type\":\"delete\",\"key\":\"a\",\"mod_revision\":8}\n"
        );
    }

    #[test]
    fn what_was_there_before_is_the_last_column() {
        let WatchEvent::Put { kv, .. } = put("a", b"old") else { panic!("a put is one") };
        let WatchEvent::Put { kv: new, .. } = put("a", b"new") else { panic!("a put is one") };
        let event = WatchEvent::Put { kv: new, previous: Some(kv) };
        assert_eq!(printed(Format::Plain, &event), b"put\ta\tnew\told\n");
        let line: serde_json::Value = serde_json::from_slice(&printed(Format::Json, &event)).unwrap();
        assert_eq!((&line["value"], &line["previous"]["value"]), (&"new".into(), &"old".into()));
    }

    #[tokio::test]
    async fn a_command_gets_the_change_and_its_failure_says_how_to_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out");
        let script = format!(
            "{{ cat; printf ' %s %s %s %s' \"$RAFTKV_EVENT_TYPE\" \"$RAFTKV_EVENT_KEY\" \"$RAFTKV_EVENT_VALUE\" \"$RAFTKV_EVENT_REVISION\"; }} > {}",
            file.display()
        );
        execute(OsStr::new(&script), &put("color", b"green"), 0).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "green put color green 7");
        execute(OsStr::new(&script), &delete("color"), 0).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), " delete color  8");
        execute(OsStr::new(&script), &put("color", b"a\0b"), 0).await.unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"a\0b put color  7");
        let amid = execute(OsStr::new("exit 3"), &delete("color"), 2).await.unwrap_err();
        assert_eq!(
            amid.next.as_deref(),
            Some("the same watch with --from-rev 8 to repeat it; 2 more of the same revision have not been told")
        );
        let failure = execute(OsStr::new("exit 3"), &delete("color"), 0).await.unwrap_err().to_string();
        assert!(
            failure.contains("revision 8") && failure.contains("--from-rev 8") && failure.contains('9'),
            "{failure}"
        );
    }
}
