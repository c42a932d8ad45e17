//! Where a value comes from: the command line, a file, or standard input.
//!
//! Values are bytes. On the command line they may be anything that the system lets through, UTF-8 or not. In a shell of ours standard
//! input is where the commands come from, so no command may read it.

use crate::failure::Failure;
use bytes::Bytes;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Stdin, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the commands themselves come from standard input.
static INPUT_IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The most that is read from a file or standard input: more than any node can be configured to take in one request.
pub(crate) const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The argument itself.
    Literal(Bytes),
    /// `@FILE`.
    File(PathBuf),
    /// `-`, or no argument.
    Input,
}

impl Source {
    /// Reads the argument: `-` is standard input, `@FILE` a file, `@@x` the literal `@x`.
    pub(crate) fn of_value(argument: Option<&OsStr>) -> Source {
        match argument {
            None => Source::Input,
            Some(argument) if argument == "-" => Source::Input,
            Some(argument) => Source::of_argument(argument),
        }
    }

    /// The same without standard input: `-` is a dash.
    pub(crate) fn of_argument(argument: &OsStr) -> Source {
        match argument.as_bytes() {
            [b'@', rest @ ..] if rest.first() == Some(&b'@') => Source::Literal(Bytes::copy_from_slice(rest)),
            [b'@', rest @ ..] => Source::File(PathBuf::from(OsStr::from_bytes(rest))),
            bytes => Source::Literal(Bytes::copy_from_slice(bytes)),
        }
    }

    /// The bytes, without holding up the runtime meanwhile.
    pub(crate) async fn read(self) -> Result<Bytes, Failure> {
        match self {
            Source::Literal(bytes) => Ok(bytes),
            Source::File(_) | Source::Input => tokio::task::spawn_blocking(|| self.read_blocking())
                .await
                .unwrap_or_else(|cause| Err(Failure::other(format!("the value could not be read: {cause}")))),
        }
    }

    fn read_blocking(self) -> Result<Bytes, Failure> {
        match self {
            Source::Literal(bytes) => Ok(bytes),
            Source::File(path) if path.as_os_str().is_empty() => Err(Failure::usage("no file is named after @")
                .with_next("@FILE for the contents of a file, @@ for the value @")),
            Source::File(path) => {
                let file = open(&path)?;
                read_at_most(file, &path.display().to_string(), INPUT_BYTES_MAX)
            }
            Source::Input => {
                let input = standard_input()?;
                if input.is_terminal() {
                    // Only a courtesy: whoever types knows what to do without it.
                    let _told = writeln!(io::stderr(), "reading the value from the terminal; Ctrl-D ends it");
                }
                read_at_most(input.lock(), "standard input", INPUT_BYTES_MAX)
            }
        }
    }
}

/// Keeps standard input for the shell, for as long as this process lives.
pub(crate) fn take_standard_input() {
    INPUT_IS_TAKEN.store(true, Ordering::Relaxed);
}

/// Standard input, unless the shell reads its commands from there.
pub(crate) fn standard_input() -> Result<Stdin, Failure> {
    if INPUT_IS_TAKEN.load(Ordering::Relaxed) {
        return Err(Failure::usage("standard input is where the shell's commands come from")
            .with_next("the value as an argument, or a file: @FILE for a value, FILE for an import"));
    }
    Ok(io::stdin())
}

/// Opens a file to read.
pub(crate) fn open(path: &Path) -> Result<File, Failure> {
    let opened = File::open(path).and_then(|file| {
        // A directory can be opened; only reading it fails.
        let is_directory = file.metadata()?.is_dir();
        if is_directory { Err(rustix::io::Errno::ISDIR.into()) } else { Ok(file) }
    });
    opened.map_err(|cause| Failure::named_file(path, &cause))
}

fn read_at_most(input: impl Read, what: &str, bytes_max: u64) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    input.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|cause| Failure::io(what, &cause))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::usage(format!("{what} is too large: the limit is {bytes_max} bytes"))
            .with_next("a smaller value, or several keys"));
    }
    Ok(bytes.into())
}

/// The bytes of an argument.
pub(crate) fn bytes_of(argument: OsString) -> Bytes {
    argument.into_vec().into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::failure::Code;

    fn literal(bytes: &'static [u8]) -> Source {
        Source::Literal(Bytes::from_static(bytes))
    }

    #[test]
    fn an_argument_says_where_the_value_is() {
        let of = |argument: &str| Source::of_value(Some(OsStr::new(argument)));
        assert_eq!(Source::of_value(None), Source::Input);
        assert_eq!(of("-"), Source::Input);
        assert_eq!(of("--"), literal(b"--"));
        assert_eq!(of("@photo.jpg"), Source::File("photo.jpg".into()));
        assert_eq!(of("@@home"), literal(b"@home"));
        assert_eq!(of("@@@home"), literal(b"@@home"));
        assert_eq!(of("a@b"), literal(b"a@b"));
        assert_eq!(of(""), literal(b""));
        assert_eq!(Source::of_argument(OsStr::new("-")), literal(b"-"));
    }

    #[test]
    fn bytes_that_are_no_text_pass() {
        assert_eq!(Source::of_value(Some(OsStr::from_bytes(b"\xff\x01"))), literal(b"\xff\x01"));
        assert_eq!(bytes_of(OsString::from_vec(vec![0xfe, 0xff])), Bytes::from_static(b"\xfe\xff"));
    }

    #[test]
    fn files_are_read_byte_by_byte_and_missing_ones_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value");
        std::fs::write(&path, b"a\0\xff\n").unwrap();
        assert_eq!(Source::File(path).read_blocking().unwrap(), Bytes::from_static(b"a\0\xff\n"));
        let missing = directory.path().join("missing");
        let failure = Source::File(missing.clone()).read_blocking().unwrap_err();
        assert!(failure.cause.contains(&missing.display().to_string()), "{failure}");
        assert!(failure.to_string().contains("\n  try: check the path"), "{failure}");
        assert_eq!(failure.code, Code::Usage);
        assert_eq!(Source::File(directory.path().to_owned()).read_blocking().unwrap_err().code, Code::Usage);
        let nameless = Source::of_value(Some(OsStr::new("@"))).read_blocking().unwrap_err();
        assert_eq!((nameless.code, nameless.cause.as_str()), (Code::Usage, "no file is named after @"));
        assert!(nameless.to_string().contains("\n  try: @FILE"), "{nameless}");
    }

    #[test]
    fn input_has_a_limit() {
        assert_eq!(read_at_most([0_u8; 8].as_slice(), "it", 8).unwrap().len(), 8);
        let failure = read_at_most([0_u8; 9].as_slice(), "it", 8).unwrap_err();
        assert_eq!((failure.code, failure.cause.as_str()), (Code::Usage, "it is too large: the limit is 8 bytes"));
    }
}
