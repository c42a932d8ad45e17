//! What a command that fails comes to: an exit code for programs, two lines for people.

use client::{Error, LeaseLoss};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Exit codes: a contract, since scripts act on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Nobody reads what we write, like `head` after its last line: a quiet end, and no failure.
    ReaderGone,
    /// None of the others.
    Other,
    /// Arguments that make no sense, or over a limit.
    Usage,
    /// The key, or the lease, does not exist.
    NotFound,
    /// The write's condition did not hold, or what was to be made is there already.
    PreconditionFailed,
    /// Nobody answered, or overloaded. A write was certainly not applied.
    Unavailable,
    /// A write may or may not have been applied.
    OutcomeUnknown,
    /// Certificates or permissions.
    Permission,
    /// Refused, because the cluster could not go on afterwards. Nothing was changed.
    Unsafe,
    /// Damaged data.
    Corruption,
    /// Ctrl-C, where there was something to tidy up first.
    Interrupted,
    /// A command was to be run that is not there.
    CommandNotFound,
    /// A command was to be run that is there and cannot be.
    CommandNotExecutable,
    /// What a command came to that was run on behalf of the caller; it has said itself what there is to say.
    OfCommand(u8),
}

impl Code {
    /// The number that the process ends with.
    pub(crate) fn number(self) -> u8 {
        match self {
            Code::ReaderGone => 0,
            Code::Other => 1,
            Code::Usage => 2,
            Code::NotFound => 3,
            Code::PreconditionFailed => 4,
            Code::Unavailable => 5,
            Code::OutcomeUnknown => 6,
            Code::Permission => 7,
            Code::Unsafe => 8,
            Code::Corruption => 9,
            // These three as a shell has them: no command of that name, one that cannot be run, and one that the signal has ended.
            Code::CommandNotFound => 127,
            Code::CommandNotExecutable => 126,
            Code::Interrupted => 130,
            Code::OfCommand(code) => code,
        }
    }

    /// Whether there is nothing to say beside the number.
    pub(crate) fn is_quiet(self) -> bool {
        matches!(self, Code::ReaderGone | Code::OfCommand(_))
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the process ends with.
    pub(crate) code: Code,
    /// What happened.
    pub(crate) cause: String,
    /// Where.
    pub(crate) endpoint: Option<String>,
    /// What to try next.
    pub(crate) next: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.cause)?;
        if let Some(endpoint) = &self.endpoint {
            write!(f, " (endpoint {endpoint})")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  try: {next}")?;
        }
        Ok(())
    }
}

impl Failure {
    pub(crate) fn new(code: Code, cause: impl Into<String>) -> Failure {
        Failure { code, cause: cause.into(), endpoint: None, next: None }
    }

    pub(crate) fn other(cause: impl Into<String>) -> Failure {
        Failure::new(Code::Other, cause)
    }

    pub(crate) fn usage(cause: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, cause)
    }

    pub(crate) fn with_next(mut self, next: impl Into<String>) -> Failure {
        self.next = Some(next.into());
        self
    }

    /// Who said so; nobody did if that is empty: the client itself refused.
    pub(crate) fn at(mut self, endpoint: impl Into<String>) -> Failure {
        self.endpoint = Some(endpoint.into()).filter(|endpoint| !endpoint.is_empty());
        self
    }

    /// A failed read or write of a local file, or of a standard stream.
    pub(crate) fn io(what: &str, cause: &io::Error) -> Failure {
        if cause.kind() == io::ErrorKind::BrokenPipe {
            return Failure::new(Code::ReaderGone, "nobody reads the output any more");
        }
        Failure::other(format!("{what}: {cause}")).with_next(next_after(cause.kind()))
    }

    /// A file that was named on the command line and cannot be read or written. That there is none under this name, or something else than a
    /// file, is a slip of whoever wrote the command, as with any other argument: usage. Whatever else fails, such as permissions or the disk,
    /// is not to be mended in the command.
    pub(crate) fn named_file(path: &Path, cause: &io::Error) -> Failure {
        let failure = Failure::io(&path.display().to_string(), cause);
        let is_slip = matches!(
            cause.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
        );
        if is_slip { Failure { code: Code::Usage, ..failure } } else { failure }
    }

    /// A command that was to be run does not begin.
    pub(crate) fn cannot_run(program: &OsStr, cause: &io::Error) -> Failure {
        let kind = cause.kind();
        let (code, next) = if kind == io::ErrorKind::NotFound && program.as_bytes().contains(&b'/') {
            (Code::CommandNotFound, "check the path, and in a script the one on its first line")
        } else if kind == io::ErrorKind::NotFound {
            (Code::CommandNotFound, "check the name and $PATH, or give the command's path")
        } else if matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory) {
            // There is no room for another process at this moment.
            (Code::Other, next_after(kind))
        } else if kind == io::ErrorKind::PermissionDenied {
            (Code::CommandNotExecutable, next_after(kind))
        } else {
            (Code::CommandNotExecutable, "a program, or a script whose first line is #! and the path of one")
        };
        Failure::new(code, format!("{}: {cause}", quoted(program))).with_next(next)
    }

    /// A command ended with this code.
    pub(crate) fn of_command(code: u8) -> Failure {
        Failure::new(Code::OfCommand(code), format!("the command ended with {code}"))
    }

    /// The one key that was asked for does not exist, says the node at `endpoint`.
    pub(crate) fn key_not_found(key: &OsStr, endpoint: &str) -> Failure {
        Failure::new(Code::NotFound, format!("key not found: {}", quoted(key)))
            .at(endpoint)
            .with_next("raftkv-cli scan --keys-only, to see which keys exist")
    }

    /// Something was held by a lease, and that was lost. Those who were `asked` have to do with it, unless it was this process that stood still.
    pub(crate) fn of_loss(what: &str, loss: &LeaseLoss, asked: String) -> Failure {
        let code = match loss {
            LeaseLoss::NotKeptAlive { .. } | LeaseLoss::StoodStill { .. } => Code::Unavailable,
            LeaseLoss::Ended { .. } | LeaseLoss::KeyGone { .. } => Code::NotFound,
        };
        let next = match loss {
            LeaseLoss::NotKeptAlive { .. } => {
                "raftkv-cli status, to see which nodes answer; then the same command again, with a longer --ttl if there is one"
            }
            LeaseLoss::StoodStill { .. } => {
                "find out what stopped it, such as SIGSTOP, Ctrl-Z, a debugger or a machine that was suspended; then the same command again"
            }
            LeaseLoss::Ended { .. } => {
                "raftkv-cli lease list, to see which leases there are; a new one has to be granted"
            }
            LeaseLoss::KeyGone { .. } => "find out who wrote or deleted the key; then the same command again",
        };
        let endpoint = if matches!(loss, LeaseLoss::StoodStill { .. }) { String::new() } else { asked };
        Failure::new(code, format!("{what} is lost: {loss}")).at(endpoint).with_next(next)
    }

    /// A place in the line of a lock or an election was lost. It has a lease of its own, which the command takes.
    pub(crate) fn of_lost_place(what: &str, loss: &LeaseLoss, asked: String) -> Failure {
        let failure = Failure::of_loss(what, loss, asked);
        match loss {
            LeaseLoss::Ended { .. } => failure.with_next(
                "find out who revoked the lease, or what kept this machine from keeping it alive; then the same command again",
            ),
            LeaseLoss::NotKeptAlive { .. } | LeaseLoss::StoodStill { .. } | LeaseLoss::KeyGone { .. } => failure,
        }
    }

    /// The failure of a read, whose revision is given with `flag`.
    pub(crate) fn of_read(error: &Error, flag: &str) -> Failure {
        let failure = Failure::from(error.clone());
        if let Error::CompactedRevision { compacted: Some(oldest), .. } = error {
            return failure.with_next(format!(
                "{flag} {oldest}, the oldest revision that is left; without {flag}, what there is now"
            ));
        }
        if matches!(error, Error::CompactedRevision { .. } | Error::FutureRevision { .. }) {
            return failure
                .with_next(format!("{flag} with a revision that is there; without {flag}, what there is now"));
        }
        failure
    }

    /// The failure of a scan that had begun: all of it is of one revision, which its node keeps for it, but not for ever.
    pub(crate) fn of_broken_scan(error: &Error) -> Failure {
        let failure = Failure::from(error.clone());
        if matches!(error, Error::CompactedRevision { .. }) {
            return failure.with_next(
                "the same again. A compaction has overtaken it, and it went on at another node, or for more than an hour, or room is short: where that happens \
                 again, let `cluster.compact_revisions` or `cluster.compact_age` keep more",
            );
        }
        failure
    }

    /// The failure of a write to one key: the next command looks at that key.
    pub(crate) fn of_write(error: &Error, key: &OsStr) -> Failure {
        let failure = Failure::from(error.clone());
        if matches!(
            error,
            Error::OutcomeUnknown { .. } | Error::PreconditionFailed { .. } | Error::AnswerForgotten { .. }
        ) {
            failure.with_next(format!("raftkv-cli get --meta {}", quoted(key)))
        } else {
            failure
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = code_of(&error);
        let next = match error {
            Error::Unavailable { .. } | Error::TimedOut { .. } => {
                "raftkv-cli status, to see which nodes answer; --timeout 30s, to wait longer".to_owned()
            }
            Error::OutcomeUnknown { .. } => "raftkv-cli get KEY --meta, to see whether the write happened".to_owned(),
            Error::Tls { .. } | Error::Permission { .. } => {
                ". DIR/env, or --ca, --cert and --key with files issued for this cluster's clients".to_owned()
            }
            Error::PreconditionFailed { .. } => "raftkv-cli get KEY --meta, and decide anew".to_owned(),
            Error::CompactedRevision { compacted: Some(oldest), .. } => {
                format!("revision {oldest} or a later one; none, for what there is now")
            }
            Error::CompactedRevision { compacted: None, .. } => {
                "a later revision; none, for what there is now".to_owned()
            }
            Error::FutureRevision { .. } => "an earlier revision; none, for what there is now".to_owned(),
            Error::Invalid { .. } => {
                "correct what the message names; raftkv-cli version, to see whether this program and the nodes differ"
                    .to_owned()
            }
            Error::Unsafe { .. } => "raftkv-cli status, to see which nodes do not answer".to_owned(),
            Error::LeaseUnknown { .. } => {
                "raftkv-cli lease list, to see which leases there are; lease grant TTL, for a new one".to_owned()
            }
            Error::LeaseExists { .. } => {
                "raftkv-cli lease grant TTL, without --id: then the cluster chooses".to_owned()
            }
            Error::KeyUnknown { .. } => "raftkv-cli scan --keys-only, to see which keys exist".to_owned(),
            Error::NoSpace { .. } => {
                "raftkv-cli del --prefix PREFIX, or raftkv-cli compact REV; reads and deletes go on".to_owned()
            }
            Error::AnswerForgotten { .. } => "raftkv-cli get KEY --meta, to see what became of the write".to_owned(),
            Error::SessionUnknown { .. } | Error::TooMany { .. } | Error::Unsupported { .. } => {
                error.next_step().to_owned()
            }
            Error::TooLarge { .. } | Error::RangeTooLarge { .. } | Error::Internal { .. } | Error::Corrupt { .. } => {
                error.next_step().to_owned()
            }
        };
        Failure::new(code, error.to_string()).at(error.endpoint()).with_next(next)
    }
}

/// What to do about a local file, or a standard stream.
fn next_after(kind: io::ErrorKind) -> &'static str {
    if kind == io::ErrorKind::NotFound {
        "check the path: nothing is there under this name"
    } else if kind == io::ErrorKind::PermissionDenied {
        "check its owner and mode, and those of the directories above it"
    } else if kind == io::ErrorKind::IsADirectory {
        "give a file: this is a directory"
    } else if kind == io::ErrorKind::NotADirectory {
        "give another path: a part of this one is no directory"
    } else if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        "free some space on that file system, then the same command again"
    } else {
        "the same command again; if it stays, check the disk or the program at the other end"
    }
}

fn code_of(error: &Error) -> Code {
    match error {
        // A read that had no answer changed nothing, so it counts as unavailable.
        Error::Unavailable { .. } | Error::TimedOut { .. } => Code::Unavailable,
        // The cluster cannot take it as it is at this moment, and later it may.
        Error::NoSpace { .. } | Error::TooMany { .. } | Error::SessionUnknown { .. } => Code::Unavailable,
        Error::OutcomeUnknown { .. } | Error::AnswerForgotten { .. } => Code::OutcomeUnknown,
        Error::Tls { .. } | Error::Permission { .. } => Code::Permission,
        Error::TooLarge { .. } | Error::RangeTooLarge { .. } | Error::Invalid { .. } | Error::Unsupported { .. } => {
            Code::Usage
        }
        Error::KeyUnknown { .. } | Error::LeaseUnknown { .. } => Code::NotFound,
        Error::PreconditionFailed { .. } | Error::LeaseExists { .. } => Code::PreconditionFailed,
        Error::CompactedRevision { .. } | Error::FutureRevision { .. } | Error::Internal { .. } => Code::Other,
        Error::Unsafe { .. } => Code::Unsafe,
        Error::Corrupt { .. } => Code::Corruption,
    }
}

/// An argument as a shell takes it back. What is no text, or would steer a terminal, is written as bash, ksh and zsh read it: `$'a\033'`.
pub(crate) fn quoted(argument: &OsStr) -> String {
    let bytes = argument.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-:=@%+,".contains(byte);
    if !argument.is_empty() && bytes.iter().all(is_plain) && !bytes.starts_with(b"-") {
        return argument.to_string_lossy().into_owned();
    }
    let dashes = if bytes.starts_with(b"-") { "-- " } else { "" };
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => format!("{dashes}'{}'", text.replace('\'', r"'\''")),
        Ok(_) | Err(_) => format!("{dashes}$'{}'", escaped(bytes)),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut escaped = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '\\' => escaped.extend(['\\', character]),
                '\n' => escaped.push_str("\\n"),
                '\t' => escaped.push_str("\\t"),
                _ if character.is_control() => {
                    let mut utf8 = [0; 4];
                    // Three octal digits: a fourth digit after them is none of the escape.
                    escaped.extend(character.encode_utf8(&mut utf8).bytes().map(|byte| format!("\\{byte:03o}")));
                }
                _ => escaped.push(character),
            }
        }
        escaped.extend(chunk.invalid().iter().map(|byte| format!("\\{byte:03o}")));
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Part;
    use std::time::Duration;

    #[test]
    fn exit_codes_are_the_contract() {
        let endpoint = || "n1:1".to_owned();
        let cause = || "because".to_owned();
        let cases = [
            (Error::Unavailable { endpoint: endpoint(), cause: cause() }, 5),
            (Error::TimedOut { endpoint: endpoint(), after: Duration::from_secs(5), cause: cause() }, 5),
            (Error::OutcomeUnknown { endpoint: endpoint(), cause: cause() }, 6),
            (Error::Tls { endpoint: endpoint(), cause: cause() }, 7),
            (Error::Permission { endpoint: endpoint(), cause: cause() }, 7),
            (Error::TooLarge { endpoint: endpoint(), part: Part::Value, bytes: None, limit: 8 }, 2),
            (Error::RangeTooLarge { endpoint: endpoint(), cause: cause(), keys_max: 10, bytes_max: 8 }, 2),
            (Error::Invalid { endpoint: endpoint(), cause: cause() }, 2),
            (Error::PreconditionFailed { endpoint: endpoint(), existing: None }, 4),
            (Error::LeaseExists { endpoint: endpoint(), cause: cause() }, 4),
            (Error::LeaseUnknown { endpoint: endpoint(), cause: cause() }, 3),
            (Error::KeyUnknown { endpoint: endpoint(), cause: cause() }, 3),
            (Error::NoSpace { endpoint: endpoint(), cause: cause() }, 5),
            (Error::TooMany { endpoint: endpoint(), cause: cause() }, 5),
            (Error::SessionUnknown { endpoint: endpoint(), cause: cause() }, 5),
            (Error::AnswerForgotten { endpoint: endpoint(), cause: cause() }, 6),
            (Error::Unsupported { endpoint: endpoint(), cause: cause() }, 2),
            (Error::CompactedRevision { endpoint: endpoint(), cause: cause(), compacted: Some(9) }, 1),
            (Error::FutureRevision { endpoint: endpoint(), cause: cause() }, 1),
            (Error::Internal { endpoint: endpoint(), cause: cause() }, 1),
            (Error::Corrupt { endpoint: endpoint(), cause: cause() }, 9),
        ];
        for (error, number) in cases {
            let failure = Failure::from(error);
            assert_eq!(failure.code.number(), number, "{failure}");
            let text = failure.to_string();
            assert!(text.starts_with("error: ") && text.contains("(endpoint n1:1)"), "{text}");
            assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("  try: ")), "{text}");
        }
        assert_eq!(Code::NotFound.number(), 3);
        assert_eq!(Code::ReaderGone.number(), 0);
    }

    #[test]
    fn what_a_command_came_to_is_passed_on() {
        let failure = Failure::of_command(7);
        assert_eq!((failure.code.number(), failure.code.is_quiet()), (7, true));
        let ended = LeaseLoss::Ended { cause: "no lease 7".into() };
        let of_loss = |loss: &LeaseLoss| Failure::of_loss("lease 7", loss, "n1:1".into());
        assert_eq!(of_loss(&ended).code.number(), 3);
        let ttl = Duration::from_secs(10);
        let alone = of_loss(&LeaseLoss::NotKeptAlive { ttl, cause: "unreachable".into() });
        assert_eq!((alone.code.number(), alone.endpoint.as_deref()), (5, Some("n1:1")));
        let stopped = of_loss(&LeaseLoss::StoodStill { ttl, standstill: Duration::from_millis(12_345) });
        assert_eq!((stopped.code.number(), stopped.endpoint), (5, None), "the cluster has nothing to do with it");
        assert!(stopped.cause.contains("stood still for 12 s"), "{}", stopped.cause);
    }

    #[test]
    fn a_missing_key_names_who_was_asked() {
        let failure = Failure::key_not_found(OsStr::new("a b"), "n1:7420");
        let wanted = "error: key not found: 'a b' (endpoint n1:7420)\n  try: raftkv-cli scan --keys-only, to see which keys exist";
        assert_eq!((failure.code, failure.to_string().as_str()), (Code::NotFound, wanted));
    }

    #[test]
    fn what_the_client_itself_refuses_names_no_endpoint() {
        let refused = Error::Invalid { endpoint: String::new(), cause: "the name of a lock is empty".into() };
        let text = Failure::from(refused).to_string();
        assert!(text.contains("the name of a lock is empty") && !text.contains("endpoint"), "{text}");
    }

    #[test]
    fn a_limit_is_in_the_message() {
        let error = Error::TooLarge { endpoint: "n1:1".into(), part: Part::Key, bytes: Some(5000), limit: 4096 };
        assert!(Failure::from(error).to_string().contains("the limit is 4096 bytes"));
    }

    #[test]
    fn an_unknown_write_points_at_its_own_key() {
        let error = Error::OutcomeUnknown { endpoint: "n1:1".into(), cause: "the connection broke".into() };
        let failure = Failure::of_write(&error, OsStr::new("it's here"));
        assert_eq!(failure.next.as_deref(), Some(r"raftkv-cli get --meta 'it'\''s here'"));
        assert_eq!(Failure::of_write(&error, OsStr::new("-x")).next.as_deref(), Some("raftkv-cli get --meta -- '-x'"));
    }

    #[test]
    fn what_is_quoted_comes_back_from_a_shell_as_it_was() {
        let of = |bytes: &[u8]| quoted(OsStr::from_bytes(bytes));
        assert_eq!(of(b"a/b"), "a/b");
        assert_eq!(of("grün".as_bytes()), "'grün'");
        assert_eq!(of(b"a\x1b[2J"), "$'a\\033[2J'");
        assert_eq!(of(b"it's\n\xff7"), "$'it\\'s\\n\\3777'");
        assert_eq!(of(b"-\x01"), "-- $'-\\001'");
        for bytes in [&b"a\x1b[2J"[..], b"it's\n\xff7\\", "a\u{9b}b 'c'".as_bytes(), b"\xfe\t'"] {
            let script = format!("printf %s {}", of(bytes));
            let printed = std::process::Command::new("bash").args(["-c", &script]).output().expect("there is a bash");
            assert_eq!(printed.stdout, bytes, "{script}");
        }
    }

    #[test]
    fn a_read_of_what_is_gone_or_to_come_points_at_what_is_there() {
        let (endpoint, cause) = (|| "n1:1".to_owned(), || "because".to_owned());
        let next = |error: &Error| Failure::of_read(error, "--rev").next.unwrap_or_default();
        let gone = |compacted| Error::CompactedRevision { endpoint: endpoint(), cause: cause(), compacted };
        assert!(next(&gone(Some(7))).starts_with("--rev 7, the oldest"));
        assert!(next(&gone(None)).starts_with("--rev with a revision that is there"));
        assert!(next(&Error::FutureRevision { endpoint: endpoint(), cause: cause() }).contains("without --rev"));
        assert!(next(&Error::Unavailable { endpoint: endpoint(), cause: cause() }).contains("status"));
        let broken = Failure::of_broken_scan(&gone(Some(7))).next.unwrap_or_default();
        assert!(broken.contains("the same again") && broken.contains("compact_revisions"), "{broken}");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::io("standard output", &broken).code.number(), 0);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::io("standard output", &full).code.number(), 1);
    }

    #[test]
    fn a_mistyped_path_is_a_usage_error_and_a_file_that_cannot_be_read_is_none() {
        for (kind, code) in [
            (io::ErrorKind::NotFound, Code::Usage),
            (io::ErrorKind::IsADirectory, Code::Usage),
            (io::ErrorKind::NotADirectory, Code::Usage),
            (io::ErrorKind::PermissionDenied, Code::Other),
            (io::ErrorKind::StorageFull, Code::Other),
            (io::ErrorKind::BrokenPipe, Code::ReaderGone),
            (io::ErrorKind::Other, Code::Other),
        ] {
            assert_eq!(Failure::named_file(Path::new("/some/file"), &io::Error::from(kind)).code, code, "{kind}");
        }
    }

    #[test]
    fn a_file_that_fails_has_a_next_step() {
        for (kind, wanted) in [
            (io::ErrorKind::NotFound, "check the path"),
            (io::ErrorKind::PermissionDenied, "owner and mode"),
            (io::ErrorKind::IsADirectory, "a directory"),
            (io::ErrorKind::NotADirectory, "another path"),
            (io::ErrorKind::StorageFull, "free some space"),
            (io::ErrorKind::Other, "again"),
        ] {
            let text = Failure::io("/some/file", &io::Error::from(kind)).to_string();
            let next = text.lines().nth(1).unwrap_or_default();
            assert!(text.contains("/some/file") && next.starts_with("  try: ") && next.contains(wanted), "{text}");
        }
    }
}
