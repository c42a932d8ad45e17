//! `export`: everything, or a prefix, as NDJSON at one revision.
//!
//! A file is written under another name beside it, synced, and renamed when complete: it is there whole or not at all.

use crate::arguments::Globals;
use crate::connect;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;
use crate::record::{self, Parts};
use crate::source::bytes_of;
use clap::Args;
use client::{Range, Scan, ScanStream};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 256 << 10;
/// Pairs between two movements of the progress bar.
const PROGRESS_EVERY: u64 = 256;

/// Write all pairs as NDJSON, consistent at one revision
///
/// Each line is an object as `scan -o json` prints it, and `import` reads it. A file appears when it is complete, readable by its owner only,
/// and replaces one of that name.
///
/// A compaction of the revision does not end an export that has begun: its node keeps what is left to read, for an hour at most.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli export backup.ndjson
  raftkv-cli export --prefix service/ | zstd > services.ndjson.zst")]
pub(crate) struct ExportArguments {
    /// The file, or - for standard output
    #[arg(value_name = "FILE|-", default_value = "-")]
    pub(crate) file: PathBuf,
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<OsString>,
}

pub(crate) async fn run(arguments: ExportArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let range = arguments.prefix.map_or_else(Range::all, |prefix| Range::prefix(bytes_of(prefix)));
    let scan = client.scan(Scan::new(range)).await?;
    if arguments.file == Path::new("-") {
        return to_standard_output(scan).await;
    }
    let (exported, revision) = tokio::select! {
        outcome = to_file(&arguments.file, scan) => outcome?,
        // The unfinished file goes with the future. Without a handler the signal ends the process by itself.
        Ok(()) = interrupt::interrupted() => return Err(Failure::new(Code::Interrupted, "interrupted; no file was written")),
    };
    let shown = arguments.file.display();
    // The file is the data; this is for people.
    let _told = writeln!(io::stderr(), "{exported} pairs at revision {revision} exported to {shown}");
    Ok(())
}

async fn to_standard_output(mut scan: ScanStream) -> Result<(), Failure> {
    let mut output = Output::standard();
    while let Some(kv) = scan.next().await.map_err(|error| Failure::of_broken_scan(&error))? {
        output.write(|out| record::write_line(out, &kv, Parts::KeyAndValue))?;
    }
    output.finish()
}

async fn to_file(path: &Path, mut scan: ScanStream) -> Result<(u64, u64), Failure> {
    let shown = path.display().to_string();
    let failed = |cause: io::Error| Failure::io(&shown, &cause);
    let mut destination = Destination::open(path).map_err(|cause| Failure::named_file(path, &cause))?;
    let bar = progress();
    let mut exported = 0;
    while let Some(kv) = scan.next().await.map_err(|error| Failure::of_broken_scan(&error))? {
        record::write_line(destination.out(), &kv, Parts::KeyAndValue).map_err(failed)?;
        exported += 1;
        if exported % PROGRESS_EVERY == 0 {
            bar.set_position(exported);
        }
    }
    destination.finish().map_err(failed)?;
    bar.finish_and_clear();
    Ok((exported, scan.revision()))
}

/// How many there will be is not known.
fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {human_pos} pairs ({rate})").expect("it is well-formed");
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A bar that cannot be drawn keeps nobody from exporting.
        let _drawn = write!(out, "{:.0}/s", state.per_sec());
    };
    ProgressBar::new_spinner().with_style(style.with_key("rate", rate))
}

/// Where the lines go.
enum Destination {
    File(AtomicFile),
    /// A device or a pipe: it is written to, for only a file can be replaced by one.
    Other(BufWriter<File>),
}

impl Destination {
    fn open(path: &Path) -> io::Result<Destination> {
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(path)?;
            return Ok(Destination::Other(BufWriter::with_capacity(BUFFER_BYTES, file)));
        }
        // A link stays a link.
        let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        AtomicFile::create(&file).map(Destination::File)
    }

    fn out(&mut self) -> &mut dyn Write {
        match self {
            Destination::File(file) => &mut file.out,
            Destination::Other(out) => out,
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Destination::File(file) => file.publish(),
            Destination::Other(mut out) => out.flush(),
        }
    }
}

/// A file that appears under its name when it is complete, and is removed if that never comes.
struct AtomicFile {
    out: BufWriter<NamedTempFile>,
    path: PathBuf,
    directory: File,
}

impl AtomicFile {
    fn create(path: &Path) -> io::Result<AtomicFile> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        // First of all, since its error is about the directory and not about a name that nobody knows.
        let directory = File::open(parent)?;
        let file = tempfile::Builder::new().prefix(".raftkv-export-").tempfile_in(parent)?;
        Ok(AtomicFile { out: BufWriter::with_capacity(BUFFER_BYTES, file), path: path.to_owned(), directory })
    }

    /// Data before name, name before success: a crash leaves the old file or the new one.
    fn publish(self) -> io::Result<()> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        self.directory.sync_all()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_complete_file_replaces_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup.ndjson");
        std::fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.out.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        file.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(directory.path()), ["backup.ndjson"]);
    }

    #[test]
    fn an_incomplete_file_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup.ndjson");
        let mut file = AtomicFile::create(&path).unwrap();
        file.out.write_all(b"half").unwrap();
        drop(file);
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_link_stays_a_link_and_a_device_a_device() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("backup.ndjson"), directory.path().join("latest"));
        std::fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut destination = Destination::open(&link).unwrap();
        destination.out().write_all(b"new").unwrap();
        destination.finish().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        // As a link, so that a mistake does not take the device away.
        let null = directory.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        let mut destination = Destination::open(&null).unwrap();
        assert!(matches!(destination, Destination::Other(_)));
        destination.out().write_all(b"lines").unwrap();
        destination.finish().unwrap();
        assert!(null.is_symlink());
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(AtomicFile::create(&directory.path().join("none/backup.ndjson")).is_err());
    }
}
