//! `scan`: read a range as a stream, in bounded memory.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::{Failure, quoted};
use crate::output::{Format, Output, columns_of, printable, table, text_room, write_table};
use crate::record::{self, Parts};
use crate::source::bytes_of;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use client::{KeyValue, Level, Range, Scan, SortBy};
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

/// Rows that share the widths of their columns: what a table keeps in memory.
const ROWS_AT_ONCE: usize = 1000;
/// Characters of a key or a value in a table.
const SHOWN_MAX: usize = 72;

/// Read a range of keys, in order, all at one revision
///
/// Where --limit leaves some out, standard error says so, and how to go on: with --from and the next key, or backwards with --to, and with --rev if all pages
/// are to be of one revision. With -o json that is an object: {"more":true,"from":"KEY","revision":N} (or "to"), from_base64 where the key is no UTF-8,
/// and without a key where the order is not that of the keys.
///
/// A compaction of the revision does not end a scan that has begun: its node keeps what is left to read, for an hour at most.
///
/// Sorted by the key, a range of any size streams in little memory. By anything else the node sorts it in memory, and refuses what does not fit in 64 MiB unless
/// --limit says how many are wanted.
///
/// -o table shows keys and values shortened and escaped, and is what a terminal gets. -o plain writes `KEY<tab>VALUE` lines with the bytes
/// as they are. -o json writes one object a line and is exact for any bytes; it is what `import` reads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli scan --prefix service/
  raftkv-cli scan --from a --to m --limit 10 --reverse
  raftkv-cli scan --prefix service/ --from service/k --limit 100
  raftkv-cli scan --count
  raftkv-cli scan --prefix log/ --keys-only -o plain | head
  raftkv-cli scan --sort mod --reverse --limit 10
  raftkv-cli scan --min-mod-rev 1200
  raftkv-cli scan --rev 12 -o json")]
pub(crate) struct ScanArguments {
    /// Every key that begins with this; with --from or --to, those of them that lie there
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<OsString>,
    /// The first key, inclusive
    #[arg(long, value_name = "KEY")]
    pub(crate) from: Option<OsString>,
    /// The end, exclusive
    #[arg(long, value_name = "KEY")]
    pub(crate) to: Option<OsString>,
    /// At most so many; says whether there are more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Without values
    #[arg(long, conflicts_with = "count")]
    pub(crate) keys_only: bool,
    /// Only how many there are, whatever a limit or revisions would leave out
    #[arg(long)]
    pub(crate) count: bool,
    /// Tell in the end, on standard error, how many there are, those left out included
    #[arg(long, conflicts_with = "count")]
    pub(crate) total: bool,
    /// What they are sorted by; equal ones come in key order
    #[arg(long, value_enum, value_name = "BY", default_value = "key")]
    pub(crate) sort: Sort,
    /// From the last to the first, whatever they are sorted by
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Only keys last written at this revision or later
    #[arg(long, value_name = "REVISION")]
    pub(crate) min_mod_rev: Option<u64>,
    /// Only keys last written at this revision or earlier
    #[arg(long, value_name = "REVISION")]
    pub(crate) max_mod_rev: Option<u64>,
    /// Only keys created at this revision or later
    #[arg(long, value_name = "REVISION")]
    pub(crate) min_create_rev: Option<u64>,
    /// Only keys created at this revision or earlier
    #[arg(long, value_name = "REVISION")]
    pub(crate) max_create_rev: Option<u64>,
    /// As it was at this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rev: Option<u64>,
    /// How current the answer has to be: linearizable (the default), lease, stale or stale=AGE
    #[arg(long, value_name = "LEVEL", value_parser = arguments::level)]
    pub(crate) level: Option<Level>,
    /// From a node whose state is at this revision or later; makes it a stale read
    #[arg(long, value_name = "REVISION")]
    pub(crate) at_least_rev: Option<u64>,
}

/// What to sort by, as it is written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Sort {
    /// The key
    #[default]
    Key,
    /// How often it was written since it was created
    Version,
    /// When it was created
    Create,
    /// When it was last written
    Mod,
    /// The value, as bytes
    Value,
}

pub(crate) async fn run(arguments: ScanArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let failed = |error| Failure::of_read(&error, "--rev");
    let mut stream = client.scan(request(&arguments)?).await.map_err(failed)?;
    let mut output = Output::standard();
    let default = if output.is_terminal() { Format::Table } else { Format::Plain };
    let format = globals.output.unwrap_or(default);
    if arguments.count {
        while stream.next().await.map_err(failed)?.is_some() {}
        let summary = stream.summary().expect("a scan that has ended has a summary");
        output.write(|out| match format {
            Format::Json => writeln!(out, "{}", json!({ "count": summary.count, "revision": summary.revision })),
            Format::Table | Format::Plain => writeln!(out, "{}", summary.count),
        })?;
        return output.finish();
    }
    let parts = if arguments.keys_only { Parts::KeyOnly } else { Parts::KeyAndValue };
    let mut printer = Printer::new(format, parts, output.width());
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut last = None;
    let mut more = None;
    while let Some(kv) = stream.next().await.map_err(|error| Failure::of_broken_scan(&error))? {
        if left == 0 {
            more = Some(More { last: last.take(), next: kv.key, revision: stream.revision() });
            continue;
        }
        left -= 1;
        if left == 0 {
            last = Some(kv.key.clone());
        }
        output.write(|out| printer.print(out, kv))?;
    }
    output.write(|out| printer.finish(out))?;
    output.finish()?;
    if let Some(total) = stream.summary().and_then(|summary| summary.total) {
        // The pairs count; that standard error is closed does not.
        let _told = writeln!(io::stderr(), "total: {total}");
    }
    if let Some(more) = more {
        // As above.
        let _told = writeln!(io::stderr(), "{}", more.shown(&arguments, format));
    }
    Ok(())
}

/// What a limit has left out.
struct More {
    /// The last key that was shown.
    last: Option<Bytes>,
    /// The first that was not.
    next: Bytes,
    revision: u64,
}

impl More {
    /// As people, or with JSON programs, are told.
    fn shown(&self, arguments: &ScanArguments, format: Format) -> String {
        let More { last, next, revision } = self;
        // --to is exclusive, so backwards the key that was shown last is where the next page ends.
        let (flag, key) = match last {
            Some(last) if arguments.reverse => ("--to", last),
            Some(_) | None => ("--from", next),
        };
        // In another order than by key, a page does not end at a key.
        let is_by_key = arguments.sort == Sort::Key;
        if format == Format::Json {
            let mut object = json!({ "more": true });
            if is_by_key {
                let (name, key) = record::key_field(key);
                object[format!("{}{}", &flag[2..], &name["key".len()..])] = key.into();
            }
            object["revision"] = json!(revision);
            return object.to_string();
        }
        // No argument can hold a zero byte.
        if !is_by_key || key.contains(&0) {
            return "there are more; a greater --limit shows them".to_owned();
        }
        let key = quoted(OsStr::from_bytes(key));
        // What begins with a dash would be taken for a flag.
        let option = match key.strip_prefix("-- ") {
            Some(key) => format!("{flag}={key}"),
            None => format!("{flag} {key}"),
        };
        let rev = match arguments.rev {
            Some(_) => String::new(),
            None => format!(", and --rev {revision} if all of it is to be of one revision"),
        };
        format!("there are more; to go on, the same with {option}{rev}")
    }
}

/// What lies within the prefix and between the ends. Nothing can, if they were mistyped.
fn range(arguments: &ScanArguments) -> Result<Range, Failure> {
    let bytes = |argument: &Option<OsString>| argument.clone().map(bytes_of);
    let Range { start, end } = Range::prefix(bytes(&arguments.prefix).unwrap_or_default());
    let ends = [end, bytes(&arguments.to)];
    let range =
        Range { start: start.max(bytes(&arguments.from).unwrap_or_default()), end: ends.into_iter().flatten().min() };
    if !range.is_empty() {
        return Ok(range);
    }
    let flags = [("--prefix", &arguments.prefix), ("--from", &arguments.from), ("--to", &arguments.to)];
    let given = flags.into_iter().filter_map(|(flag, key)| Some(format!("{flag} {}", quoted(key.as_ref()?))));
    let given = given.collect::<Vec<_>>().join(" ");
    let failure = Failure::usage(format!("no key lies within {given}: --from is inclusive, --to is exclusive"));
    Err(failure.with_next(match (&arguments.prefix, &arguments.from, &arguments.to) {
        (None, Some(from), Some(to)) if from > to => {
            format!("--from {} --to {}, if the ends have changed places", quoted(to), quoted(from))
        }
        (Some(_), _, _) => "--prefix alone, or ends that begin with it".to_owned(),
        (None, _, _) => "a --to after --from; raftkv-cli get KEY, for one key".to_owned(),
    }))
}

impl From<Sort> for SortBy {
    fn from(sort: Sort) -> SortBy {
        match sort {
            Sort::Key => SortBy::Key,
            Sort::Version => SortBy::Version,
            Sort::Create => SortBy::CreateRevision,
            Sort::Mod => SortBy::ModRevision,
            Sort::Value => SortBy::Value,
        }
    }
}

/// An option of a scan that is a revision.
pub(crate) type WithRevision = fn(Scan, u64) -> Scan;

fn request(arguments: &ScanArguments) -> Result<Scan, Failure> {
    let range = range(arguments)?;
    let level = arguments::level_at_least(arguments.level, arguments.at_least_rev)?;
    // One more than is shown tells whether there is more, and where to go on.
    let limit = arguments.limit.map_or(0, |limit| limit.saturating_add(1));
    let mut scan = Scan::new(range).limit(limit).level(level).sort_by(arguments.sort.into());
    let with: [(Option<u64>, WithRevision); 6] = [
        (arguments.min_mod_rev, Scan::min_mod_revision),
        (arguments.max_mod_rev, Scan::max_mod_revision),
        (arguments.min_create_rev, Scan::min_create_revision),
        (arguments.max_create_rev, Scan::max_create_revision),
        (arguments.at_least_rev, Scan::at_least_revision),
        (arguments.rev, Scan::at_revision),
    ];
    for (revision, set) in with {
        if let Some(revision) = revision {
            scan = set(scan, revision);
        }
    }
    if arguments.total {
        scan = scan.count_total();
    }
    if arguments.keys_only {
        scan = scan.keys_only();
    }
    if arguments.count {
        scan = scan.count_only();
    }
    if arguments.reverse {
        scan = scan.reverse();
    }
    Ok(scan)
}

/// Writes pairs as they come.
struct Printer {
    format: Format,
    parts: Parts,
    /// Of the terminal.
    width: Option<usize>,
    /// Of a table: rows whose widths are not settled yet.
    rows: Vec<KeyValue>,
    headed: bool,
}

impl Printer {
    fn new(format: Format, parts: Parts, width: Option<usize>) -> Printer {
        Printer { format, parts, width, rows: Vec::new(), headed: false }
    }

    fn print(&mut self, out: &mut dyn Write, kv: KeyValue) -> io::Result<()> {
        match self.format {
            Format::Json => record::write_line(out, &kv, self.parts),
            Format::Plain => {
                out.write_all(&kv.key)?;
                if self.parts == Parts::KeyAndValue {
                    out.write_all(b"\t")?;
                    out.write_all(&kv.value)?;
                }
                out.write_all(b"\n")
            }
            Format::Table => {
                // Shortened at once: a thousand large values are not for keeping.
                self.rows.push(shortened(kv));
                if self.rows.len() >= ROWS_AT_ONCE { self.finish(out) } else { Ok(()) }
            }
        }
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let with_value = self.parts == Parts::KeyAndValue;
        let headers: &[&str] =
            if with_value { &["KEY", "VALUE", "CHANGED", "VERSION"] } else { &["KEY", "CHANGED", "VERSION"] };
        let mut rows = table(if self.headed { &[] } else { headers });
        self.headed = true;
        let [key_room, value_room] = self.room(with_value);
        for kv in self.rows.drain(..) {
            let mut row = vec![printable(&kv.key, key_room)];
            if with_value {
                row.push(printable(&kv.value, value_room));
            }
            row.extend([kv.mod_revision.to_string(), kv.version.to_string()]);
            rows.add_row(row);
        }
        write_table(out, &rows)
    }

    /// The columns for the keys and values of these rows, so that a row is a line of the terminal.
    fn room(&self, with_value: bool) -> [usize; 2] {
        let longest = |text: &dyn Fn(&KeyValue) -> String| self.rows.iter().map(|kv| columns_of(&text(kv))).max();
        let key = longest(&|kv| printable(&kv.key, SHOWN_MAX)).unwrap_or(0);
        let value = longest(&|kv| printable(&kv.value, SHOWN_MAX)).unwrap_or(0);
        let changed = longest(&|kv| kv.mod_revision.to_string()).unwrap_or(0).max("CHANGED".len());
        let version = longest(&|kv| kv.version.to_string()).unwrap_or(0).max("VERSION".len());
        // The headers need their room too.
        let value = if with_value { value.max("VALUE".len()) } else { 0 };
        text_room(self.width, &[changed, version], [key.max("KEY".len()), value])
    }
}

/// A character has at most four bytes; one more than is shown, so that the cut is seen.
fn shortened(mut kv: KeyValue) -> KeyValue {
    let bytes_max = 4 * (SHOWN_MAX + 1);
    if kv.value.len() > bytes_max {
        // A copy: a slice would keep the whole value.
        kv.value = bytes::Bytes::copy_from_slice(&kv.value[..bytes_max]);
    }
    kv
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::failure::Code;

    fn pair(key: &[u8], value: &[u8]) -> KeyValue {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        KeyValue { key, value, create_revision: 1, mod_revision: 4, version: 2, lease: None }
    }

    fn printed(format: Format, parts: Parts, pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        printed_in(None, format, parts, pairs)
    }

    fn printed_in(width: Option<usize>, format: Format, parts: Parts, pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut printer = Printer::new(format, parts, width);
        let mut out = Vec::new();
        for (key, value) in pairs {
            printer.print(&mut out, pair(key, value)).unwrap();
        }
        printer.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn plain_lines_hold_the_bytes_as_they_are() {
        assert_eq!(printed(Format::Plain, Parts::KeyAndValue, &[(b"a", b"\xff"), (b"b", b"")]), b"a\t\xff\nb\t\n");
        assert_eq!(printed(Format::Plain, Parts::KeyOnly, &[(b"a", b""), (b"b", b"")]), b"a\nb\n");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let out = printed(Format::Json, Parts::KeyAndValue, &[(b"a", b"1\n2"), (b"b", b"\xff")]);
        let lines: Vec<serde_json::Value> =
            out.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!((lines.len(), lines[0]["value"].as_str()), (2, Some("1\n2")));
        assert_eq!(lines[1]["value_base64"], "/w==");
    }

    #[test]
    fn a_table_has_one_header_however_long_it_is() {
        let pairs: Vec<(&[u8], &[u8])> = vec![(b"key", b"value"); 2 * ROWS_AT_ONCE + 1];
        let text = String::from_utf8(printed(Format::Table, Parts::KeyAndValue, &pairs)).unwrap();
        assert_eq!(text.lines().count(), pairs.len() + 1);
        assert_eq!(text.matches("KEY").count(), 1);
        assert!(printed(Format::Table, Parts::KeyAndValue, &[]).is_empty());
    }

    #[test]
    fn a_table_keeps_no_more_of_a_value_than_it_shows() {
        let kept = shortened(pair(b"k", &vec![b'v'; 8 << 20]));
        assert!(kept.value.len() <= 4 * (SHOWN_MAX + 1), "{} bytes are kept", kept.value.len());
        let text = String::from_utf8(printed(Format::Table, Parts::KeyAndValue, &[(b"k", &[b'v'; 5000])])).unwrap();
        assert!(text.contains('…'), "{text}");
    }

    #[test]
    fn each_row_is_one_line_of_the_terminal() {
        let (long, wide) = ([b'x'; 300], "漢".repeat(100));
        let pairs: [(&[u8], &[u8]); 4] =
            [(b"k", &long), (&long, b"v"), (&long, &long), (wide.as_bytes(), wide.as_bytes())];
        for (number, pair) in pairs.iter().enumerate() {
            for parts in [Parts::KeyAndValue, Parts::KeyOnly] {
                let text = String::from_utf8(printed_in(Some(80), Format::Table, parts, &[*pair])).unwrap();
                assert!(text.lines().all(|line| columns_of(line) <= 80), "pair {number}: {text}");
                assert_eq!(text.lines().count(), 2, "{text}");
            }
        }
        let text =
            String::from_utf8(printed_in(Some(80), Format::Table, Parts::KeyAndValue, &[(b"k", &long)])).unwrap();
        assert!(text.contains(&format!("{}…", "x".repeat(50))), "a short key leaves the room to the value: {text}");
    }

    /// The arguments of a command line that begins with `scan`.
    fn arguments(line: &[&str]) -> ScanArguments {
        let command = ScanArguments::augment_args(clap::Command::new("scan"));
        let matches = command.try_get_matches_from([&["scan"], line].concat()).unwrap();
        clap::FromArgMatches::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn what_a_limit_leaves_out_is_told_with_how_to_go_on() {
        let shown = |line: &[&str], last: &'static [u8], next: &'static [u8], format| {
            let more = More { last: Some(Bytes::from_static(last)), next: Bytes::from_static(next), revision: 9 };
            more.shown(&arguments(line), format)
        };
        let plain = |line: &[&str], last, next| shown(line, last, next, Format::Plain);
        assert_eq!(
            plain(&["--limit", "1"], b"a", b"b c"),
            "there are more; to go on, the same with --from 'b c', and --rev 9 if all of it is to be of one revision"
        );
        let at = ["--limit", "1", "--rev", "4"];
        assert_eq!(plain(&at, b"a", b"-b"), "there are more; to go on, the same with --from='-b'");
        assert!(plain(&at, b"a", b"b\x1b").ends_with("--from $'b\\033'"));
        assert!(plain(&["--limit", "1", "--reverse"], b"b", b"a").contains("the same with --to b,"));
        for line in [&["--limit", "1", "--sort", "mod"][..], &["--limit", "1"]] {
            assert_eq!(plain(line, b"a", b"b\0"), "there are more; a greater --limit shows them", "{line:?}");
        }
        let json = |line: &[&str], last, next| shown(&[&["--limit", "1"], line].concat(), last, next, Format::Json);
        assert_eq!(json(&[], b"a", b"b"), "{\"more\":true,\"from\":\"b\",\"revision\":9}");
        assert_eq!(json(&[], b"a", b"\xff"), "{\"more\":true,\"from_base64\":\"/w==\",\"revision\":9}");
        assert_eq!(json(&["--reverse"], b"b", b"a"), "{\"more\":true,\"to\":\"b\",\"revision\":9}");
        assert_eq!(json(&["--sort", "mod"], b"b", b"a"), "{\"more\":true,\"revision\":9}");
    }

    #[test]
    fn a_prefix_and_ends_together_are_what_lies_in_both() {
        let range = |line: &[&str]| request(&arguments(line)).unwrap();
        assert_eq!(range(&["--prefix", "p/", "--from", "p/k"]), Scan::new(Range::between("p/k", "p0")));
        assert_eq!(range(&["--prefix", "p/", "--from", "a", "--to", "z"]), Scan::new(Range::prefix("p/")));
        assert_eq!(range(&["--prefix", "p/", "--to", "p/k"]), Scan::new(Range::between("p/", "p/k")));
        assert_eq!(range(&["--from", "a"]), Scan::new(Range::from("a")));
        assert_eq!(range(&[]), Scan::new(Range::all()));
    }

    #[test]
    fn ends_between_which_nothing_can_lie_are_refused() {
        for (line, next) in [
            (&["--from", "b", "--to", "a"][..], "--from a --to b,"),
            (&["--from", "a", "--to", "a"], "get KEY"),
            (&["--to", ""], "after --from"),
            (&["--prefix", "p/", "--from", "q"], "--prefix alone"),
            (&["--prefix", "p/", "--to", "p/"], "--prefix alone"),
        ] {
            let failure = request(&arguments(line)).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{line:?}");
            assert!(
                line[1..].iter().filter(|word| !word.is_empty()).all(|word| failure.cause.contains(word)),
                "{failure}"
            );
            assert!(failure.next.as_ref().is_some_and(|text| text.contains(next)), "{failure}");
        }
    }

    #[test]
    fn flags_become_the_request() {
        let arguments = ScanArguments {
            prefix: None,
            from: Some("a".into()),
            to: None,
            limit: Some(3),
            keys_only: true,
            count: false,
            total: true,
            sort: Sort::Mod,
            reverse: true,
            min_mod_rev: Some(1),
            max_mod_rev: Some(2),
            min_create_rev: Some(3),
            max_create_rev: Some(4),
            rev: Some(9),
            level: None,
            at_least_rev: Some(5),
        };
        let sorted = Scan::new(Range::from("a")).limit(4).keys_only().count_total().sort_by(SortBy::ModRevision);
        let chosen = sorted.min_mod_revision(1).max_mod_revision(2).min_create_revision(3).max_create_revision(4);
        let stale = chosen.at_least_revision(5).level(Level::Stale { age_max: None });
        assert_eq!(request(&arguments).unwrap(), stale.reverse().at_revision(9));
    }
}
