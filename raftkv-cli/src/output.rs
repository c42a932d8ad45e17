//! Where data goes, and in which form.

use crate::failure::Failure;
use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use terminal_size::Width;
use unicode_width::UnicodeWidthChar;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 64 << 10;
/// Blanks around each column of a table.
pub(crate) const PADDING: usize = 2;
/// A column of text is not made narrower than this, however narrow the terminal.
const TEXT_MIN: usize = 8;
/// What a terminal gets of a value that is no plain text: about a page.
const ESCAPED_MAX: usize = 2000;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs: one object a line
    Json,
    /// For shells: tab-separated, or the bytes as they are
    Plain,
}

/// Standard output, buffered.
pub(crate) struct Output {
    inner: BufWriter<Stdout>,
    is_terminal: bool,
    width: Option<usize>,
}

impl Output {
    pub(crate) fn standard() -> Output {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let width = terminal_size::terminal_size_of(&stdout).map(|(Width(columns), _)| usize::from(columns));
        // A terminal that does not know its size says zero.
        let width = width.filter(|columns| *columns > 0);
        Output { inner: BufWriter::with_capacity(BUFFER_BYTES, stdout), is_terminal, width }
    }

    /// The columns of the terminal that reads this; none elsewhere, where lines may have any length.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes what `fill` writes.
    pub(crate) fn write(&mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        fill(&mut self.inner).map_err(|cause| failed(&cause))
    }

    /// Writes what is still gathered. A command that ends without it may have lost data without knowing.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.inner.flush().map_err(|cause| failed(&cause))
    }

    /// Writes what is gathered so far.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.inner.flush().map_err(|cause| failed(&cause))
    }
}

fn failed(cause: &io::Error) -> Failure {
    let failure = Failure::io("standard output", cause);
    if cause.kind() == io::ErrorKind::BrokenPipe {
        return failure;
    }
    failure.with_next(
        "see to where the output goes; if it was a write, it was done all the same, so look at the key before doing it again",
    )
}

/// A table without lines: it can be read, and cut into columns.
pub(crate) fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !headers.is_empty() {
        table.set_header(headers.iter().copied());
    }
    table
}

/// Writes a table without the blanks at the ends of lines.
pub(crate) fn write_table(out: &mut dyn Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// How much of a key and of a value fits beside columns of these widths. Whichever of the two is short leaves its room to the other.
pub(crate) fn text_room(width: Option<usize>, others: &[usize], longest: [usize; 2]) -> [usize; 2] {
    let Some(width) = width else { return longest };
    let taken = others.iter().map(|other| other + PADDING).sum::<usize>() + 2 * PADDING;
    let room = width.saturating_sub(taken).max(2 * TEXT_MIN);
    let half = room / 2;
    match longest {
        [key, value] if key + value <= room => [key, value],
        [key, _] if key <= half => [key, room - key],
        [_, value] if value <= half => [room - value, value],
        _ => [half, room - half],
    }
}

/// Writes a value as it is; for a terminal, with a line end, and escaped unless it is plain text: a stored value may hold what a terminal
/// takes for commands.
pub(crate) fn write_value(out: &mut dyn Write, value: &[u8], is_terminal: bool) -> io::Result<()> {
    if !is_terminal {
        return out.write_all(value);
    }
    if !is_plain_text(value) {
        return writeln!(out, "{}", printable(value, ESCAPED_MAX));
    }
    out.write_all(value)?;
    if value.ends_with(b"\n") { Ok(()) } else { out.write_all(b"\n") }
}

/// Says that [`write_value`] has escaped a value for a terminal, and how to get its bytes.
pub(crate) fn tell_if_escaped(value: &[u8], exactly: &str) {
    if !is_plain_text(value) {
        // The value counts; that standard error is closed does not.
        let _told = writeln!(
            io::stderr(),
            "{} that are no plain text, shown escaped and at most a page of them; the exact bytes: {exactly}",
            human_bytes(value.len() as u64)
        );
    }
}

/// UTF-8 without control characters but line ends and tabs.
fn is_plain_text(value: &[u8]) -> bool {
    let is_plain = |character: char| !character.is_control() || character == '\n' || character == '\t';
    std::str::from_utf8(value).is_ok_and(|text| text.chars().all(is_plain))
}

/// The columns that a text takes; at least one for each character, so that there is a bound to the characters too.
pub(crate) fn columns_of(text: &str) -> usize {
    text.chars().map(|character| character.width().unwrap_or(1).max(1)).sum()
}

/// Bytes as they can be shown on a terminal: text as it is, control characters and other bytes escaped, cut at so many columns.
pub(crate) fn printable(bytes: &[u8], columns_max: usize) -> String {
    let mut shown = String::new();
    let mut columns = 0;
    // Where the text ends if it has to be cut, with a column for the sign of that.
    let mut end_if_cut = 0;
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid().chars().map(|character| match character {
            '\\' => "\\\\".to_owned(),
            _ if character.is_control() => character.escape_default().to_string(),
            _ => character.to_string(),
        });
        let other = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in text.chain(other) {
            columns += columns_of(&piece);
            if columns > columns_max {
                shown.truncate(end_if_cut);
                shown.push('…');
                return shown;
            }
            shown.push_str(&piece);
            if columns < columns_max {
                end_if_cut = shown.len();
            }
        }
    }
    shown
}

/// A number of bytes as people say it.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_can_steer_a_terminal() {
        assert_eq!(printable("grün".as_bytes(), 80), "grün");
        assert_eq!(printable(b"a\x1b[31m\n\\\xff", 80), "a\\u{1b}[31m\\n\\\\\\xff");
        assert_eq!(printable(b"abcdef", 3), "ab…");
        assert_eq!(printable(b"abc", 3), "abc");
        assert_eq!(printable(b"ab\n", 3), "ab…");
        assert_eq!(printable("漢字漢字".as_bytes(), 6), "漢字…");
        assert_eq!(printable("漢字漢".as_bytes(), 6), "漢字漢");
    }

    #[test]
    fn a_short_text_leaves_its_room_to_the_other() {
        assert_eq!(text_room(None, &[7, 7], [72, 72]), [72, 72]);
        assert_eq!(text_room(Some(80), &[7, 7], [5, 10]), [5, 10]);
        assert_eq!(text_room(Some(80), &[7, 7], [5, 72]), [5, 53]);
        assert_eq!(text_room(Some(80), &[7, 7], [72, 5]), [53, 5]);
        assert_eq!(text_room(Some(80), &[7, 7], [72, 72]), [29, 29]);
        assert_eq!(text_room(Some(10), &[7, 7], [72, 72]), [8, 8]);
    }

    #[test]
    fn a_large_binary_value_is_a_page_on_a_terminal() {
        let mut out = Vec::new();
        write_value(&mut out, &[0; 8 << 20], true).expect("a vector takes everything");
        assert!(out.len() <= ESCAPED_MAX + "…\n".len(), "{} bytes", out.len());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1024), "1.0 KiB");
        assert_eq!(human_bytes(8 << 20), "8.0 MiB");
        assert_eq!(human_bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn tables_have_no_blanks_at_the_end() {
        let mut rows = table(&["KEY", "VALUE"]);
        rows.add_row(["a", ""]).add_row(["longer", "x"]);
        let mut out = Vec::new();
        write_table(&mut out, &rows).expect("a vector takes everything");
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert_eq!(text.lines().count(), 3);
    }
}
