//! `get`: read one key.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::{Failure, quoted};
use crate::output::{
    Format, Output, columns_of, printable, table, tell_if_escaped, text_room, write_table, write_value,
};
use crate::record::{self, Parts};
use crate::source::bytes_of;
use clap::Args;
use client::{Get, KeyValue, Level};
use std::ffi::OsString;
use std::io::{self, Write};

/// Characters of a value in a table.
const SHOWN_MAX: usize = 200;

/// Read one key
///
/// Writes exactly the stored bytes, unless a terminal reads them: there a line end comes after text, and what is no plain text is shown
/// escaped and cut to a page. Ends with 3 if the key does not exist.
///
/// Any node answers linearizable reads. With --level stale the first endpoint answers with what it has applied, even without a leader.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli get color
  raftkv-cli get photo > photo.jpg
  raftkv-cli get color -o json
  raftkv-cli get color --rev 12 --meta
  raftkv-cli get color --level stale=2s --endpoints n3:7420
  raftkv-cli get color --at-least-rev 12 --endpoints n3:7420")]
pub(crate) struct GetArguments {
    /// The key: any bytes
    #[arg(value_parser = arguments::key())]
    pub(crate) key: OsString,
    /// As it was at this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rev: Option<u64>,
    /// How current the answer has to be: linearizable (the default), lease, stale or stale=AGE
    #[arg(long, value_name = "LEVEL", value_parser = arguments::level)]
    pub(crate) level: Option<Level>,
    /// From a node whose state is at this revision or later; makes it a stale read
    #[arg(long, value_name = "REVISION")]
    pub(crate) at_least_rev: Option<u64>,
    /// Print revisions and version to standard error
    #[arg(long)]
    pub(crate) meta: bool,
}

pub(crate) async fn run(arguments: GetArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let level = arguments::level_at_least(arguments.level, arguments.at_least_rev)?;
    let mut get = Get::new(bytes_of(arguments.key.clone())).level(level);
    if let Some(revision) = arguments.at_least_rev {
        get = get.at_least_revision(revision);
    }
    if let Some(revision) = arguments.rev {
        get = get.at_revision(revision);
    }
    let found = client.get(get).await.map_err(|error| Failure::of_read(&error, "--rev"))?;
    let Some(kv) = found.kv else { return Err(Failure::key_not_found(&arguments.key, &found.endpoint)) };
    if arguments.meta {
        // The value counts; that standard error is closed does not.
        let _told = write_meta(&mut io::stderr(), &kv);
    }
    let mut output = Output::standard();
    let (is_terminal, width) = (output.is_terminal(), output.width());
    output.write(|out| print(out, &kv, globals.output, is_terminal, width))?;
    output.finish()?;
    if is_terminal && matches!(globals.output, None | Some(Format::Plain)) {
        tell_if_escaped(&kv.value, &format!("raftkv-cli get {} > FILE", quoted(&arguments.key)));
    }
    Ok(())
}

fn write_meta(out: &mut dyn Write, kv: &KeyValue) -> io::Result<()> {
    writeln!(out, "create_revision: {}", kv.create_revision)?;
    writeln!(out, "mod_revision: {}", kv.mod_revision)?;
    writeln!(out, "version: {}", kv.version)?;
    match kv.lease {
        Some(lease) => writeln!(out, "lease: {lease}"),
        None => writeln!(out, "lease: none"),
    }
}

fn print(
    out: &mut dyn Write,
    kv: &KeyValue,
    format: Option<Format>,
    is_terminal: bool,
    width: Option<usize>,
) -> io::Result<()> {
    match format {
        Some(Format::Json) => record::write_line(out, kv, Parts::KeyAndValue),
        Some(Format::Table) => {
            let numbers = [
                kv.create_revision.to_string(),
                kv.mod_revision.to_string(),
                kv.version.to_string(),
                kv.lease.map_or("-".to_owned(), |lease| lease.to_string()),
            ];
            let headers = ["KEY", "VALUE", "CREATED", "CHANGED", "VERSION", "LEASE"];
            let texts = [printable(&kv.key, SHOWN_MAX), printable(&kv.value, SHOWN_MAX)].map(|text| columns_of(&text));
            let taken = headers[2..].iter().zip(&numbers).map(|(header, number)| header.len().max(number.len()));
            let room = text_room(
                width,
                &taken.collect::<Vec<_>>(),
                [texts[0].max(headers[0].len()), texts[1].max(headers[1].len())],
            );
            let mut rows = table(&headers);
            rows.add_row([printable(&kv.key, room[0]), printable(&kv.value, room[1])].into_iter().chain(numbers));
            write_table(out, &rows)
        }
        Some(Format::Plain) | None => write_value(out, &kv.value, is_terminal),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use bytes::Bytes;

    fn printed(value: &'static [u8], format: Option<Format>, is_terminal: bool) -> Vec<u8> {
        printed_in(None, value, format, is_terminal)
    }

    fn printed_in(width: Option<usize>, value: &'static [u8], format: Option<Format>, is_terminal: bool) -> Vec<u8> {
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(value));
        let kv = KeyValue { key, value, create_revision: 1, mod_revision: 2, version: 2, lease: None };
        let mut out = Vec::new();
        print(&mut out, &kv, format, is_terminal, width).unwrap();
        out
    }

    #[test]
    fn a_program_gets_exactly_the_stored_bytes() {
        for value in [&b""[..], b"\n", b"a\0\xff"] {
            assert_eq!(printed(value, None, false), value);
            assert_eq!(printed(value, Some(Format::Plain), false), value);
        }
    }

    #[test]
    fn a_terminal_gets_a_line() {
        assert_eq!(printed(b"green", None, true), b"green\n");
        assert_eq!(printed(b"two\nlines\tand a tab\n", None, true), b"two\nlines\tand a tab\n");
        assert_eq!(printed(b"", None, true), b"\n");
    }

    #[test]
    fn nothing_stored_can_steer_a_terminal() {
        for format in [None, Some(Format::Plain)] {
            assert_eq!(printed(b"\x1b[2Jboo\x07", format, true), b"\\u{1b}[2Jboo\\u{7}\n");
            assert_eq!(printed(b"a\0\xff", format, true), b"a\\u{0}\\xff\n");
            assert_eq!(printed("\u{9b}31m".as_bytes(), format, true), b"\\u{9b}31m\n");
            assert_eq!(printed(b"over\rwritten", format, true), b"over\\rwritten\n");
        }
    }

    #[test]
    fn a_table_fits_a_terminal() {
        let text = String::from_utf8(printed_in(Some(80), &[b'v'; 500], Some(Format::Table), true)).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("vvvvvvvv…"), "{text}");
    }

    #[test]
    fn json_is_one_line() {
        let line = printed(b"a\nb", Some(Format::Json), false);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((object["value"].as_str(), object["mod_revision"].as_u64()), (Some("a\nb"), Some(2)));
    }

    #[test]
    fn metadata_is_complete() {
        let kv = KeyValue {
            key: Bytes::new(),
            value: Bytes::new(),
            create_revision: 1,
            mod_revision: 2,
            version: 3,
            lease: None,
        };
        let mut out = Vec::new();
        write_meta(&mut out, &kv).unwrap();
        assert_eq!(out, b"create_revision: 1\nmod_revision: 2\nversion: 3\nlease: none\n");
    }
}
