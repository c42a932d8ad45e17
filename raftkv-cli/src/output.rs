//! Where data goes, and in which form.

use crate::failure::Failure;
use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 64 << 10;

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
}

impl Output {
    pub(crate) fn standard() -> Output {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Output { inner: BufWriter::with_capacity(BUFFER_BYTES, stdout), is_terminal }
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
    Failure::io("standard output", cause)
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

/// Bytes as they can be shown on a terminal: text as it is, control characters and other bytes escaped, cut at a length.
pub(crate) fn printable(bytes: &[u8], characters_max: usize) -> String {
    let mut shown = String::new();
    let mut characters = 0;
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid().chars().map(|character| match character {
            '\\' => "\\\\".to_owned(),
            _ if character.is_control() => character.escape_default().to_string(),
            _ => character.to_string(),
        });
        let other = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in text.chain(other) {
            characters += piece.chars().count();
            if characters > characters_max {
                shown.push('…');
                return shown;
            }
            shown.push_str(&piece);
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
        assert_eq!(printable(b"abcdef", 3), "abc…");
        assert_eq!(printable(b"abc", 3), "abc");
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
