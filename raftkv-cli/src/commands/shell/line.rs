//! A line of the shell: into words as a POSIX shell does it, and into a command as the command line does it.
//!
//! A `txn` that would read standard input outside has its transaction on the lines that follow. They are no lines of the shell: an empty one ends
//! them, unless it stands within braces or quotes of the transaction.

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;
use crate::transaction;
use clap::builder::StyledStr;
use clap::error::ErrorKind;

/// What a line says.
#[derive(Debug)]
pub(super) enum Line {
    /// Blank, or a comment.
    Nothing,
    /// A command of the command line.
    Command(Box<Arguments>),
    /// Help, or the version: to be shown.
    Help(StyledStr),
    /// Leave the shell.
    Leave,
}

/// Why a line goes on in the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// A quote is not closed.
    Quote,
    /// A backslash is the last character, and no part of a comment: it and the end of the line count for nothing.
    Backslash,
}

impl Open {
    /// What it is to the line that comes last.
    fn failure(self) -> Failure {
        match self {
            Open::Quote => {
                Failure::usage("a quote is not closed").with_next("a \\ before a quote that stands for itself")
            }
            Open::Backslash => Failure::usage("a \\ at its end says that the line goes on, and no other comes")
                .with_next("without the \\; or \\\\, for one that stands for itself"),
        }
    }
}

/// Whether what has been read of a command goes on in the next line.
pub(super) fn goes_on(text: &str) -> bool {
    match transaction_of(text) {
        Some((_, transaction)) => {
            let is_ended = transaction.lines().next_back().is_some_and(|last| last.trim().is_empty());
            !is_ended || transaction::is_open(transaction)
        }
        None => open(text).is_some(),
    }
}

/// Of a `txn` that has its transaction on the lines that follow: the command, and what there is of those lines.
pub(super) fn transaction_of(text: &str) -> Option<(Arguments, &str)> {
    let line_ends = text.match_indices('\n').map(|(position, end)| position + end.len());
    let end = line_ends.chain([text.len()]).find(|end| open(&text[..*end]).is_none())?;
    let words = words(&text[..end]).ok()?;
    let mut arguments = parse(words).ok()?;
    let Command::Txn(transaction) = &mut arguments.command else { return None };
    transaction.reads_standard_input().then_some((arguments, &text[end..]))
}

/// Whether a line goes on in the next one.
pub(super) fn open(text: &str) -> Option<Open> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let Ok(words) = shell_words::split(text) else { return Some(Open::Quote) };
    let backslashes = text.bytes().rev().take_while(|byte| *byte == b'\\').count();
    // To a comment, more characters make no difference.
    let is_comment = || shell_words::split(&format!("{text}x")).is_ok_and(|longer| longer == words);
    (backslashes % 2 == 1 && !is_comment()).then_some(Open::Backslash)
}

/// Reads a line. The program's name may stand before the command, as in what an error message says to try.
///
/// # Errors
/// Usage, with what is wrong as the command line would say it.
pub(super) fn read(text: &str) -> Result<Line, Failure> {
    if let Some((mut arguments, transaction)) = transaction_of(text) {
        if let Command::Txn(command) = &mut arguments.command {
            command.typed = Some(transaction.to_owned().into());
        }
        return Ok(Line::Command(Box::new(arguments)));
    }
    if let Some(open) = open(text) {
        return Err(open.failure());
    }
    let mut words = words(text).map_err(|_quote| Open::Quote.failure())?;
    match words.first().map(String::as_str) {
        None => return Ok(Line::Nothing),
        Some("exit" | "quit") if words.len() == 1 => return Ok(Line::Leave),
        Some("help") => {
            words.remove(0);
            words.push("--help".to_owned());
        }
        Some(_) => {}
    }
    match parse(words) {
        Ok(arguments) => Ok(Line::Command(Box::new(arguments))),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Line::Help(error.render()))
        }
        Err(error) => {
            let text = error.render().to_string();
            Err(Failure::usage(text.trim_start_matches("error: ").trim_end()))
        }
    }
}

const PROGRAM: &str = "raftkv-cli";

/// The words of a line, without the program's name.
fn words(text: &str) -> Result<Vec<String>, shell_words::ParseError> {
    let mut words = shell_words::split(text)?;
    if words.first().is_some_and(|word| word == PROGRAM) {
        words.remove(0);
    }
    Ok(words)
}

fn parse(words: Vec<String>) -> Result<Arguments, clap::Error> {
    Arguments::parse_line(std::iter::once(PROGRAM.to_owned()).chain(words).map(Into::into))
}

/// A line as far as the cursor: the words before the one that is typed, where that begins, and what it stands for so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Typed {
    pub(super) words: Vec<String>,
    pub(super) start: usize,
    pub(super) word: String,
}

impl Typed {
    /// Takes apart what is before the cursor. A quote that is open there is taken as closed.
    pub(super) fn of(text: &str) -> Typed {
        let start = last_word(text);
        let mut words = shell_words::split(&text[..start]).unwrap_or_default();
        if words.first().is_some_and(|word| word == PROGRAM) {
            words.remove(0);
        }
        let raw = &text[start..];
        let closed = ["", "'", "\""].iter().find_map(|quote| shell_words::split(&format!("{raw}{quote}")).ok());
        Typed { words, start, word: closed.unwrap_or_default().concat() }
    }
}

/// Where the word begins that reaches to the end; the end if a blank is there.
fn last_word(text: &str) -> usize {
    let (mut start, mut quote, mut is_escaped) = (None, None, false);
    for (position, character) in text.char_indices() {
        let begins_with_it = start.is_some_and(|start| start + '\\'.len_utf8() == position);
        // A line end after a backslash is none, and parts words no more than the two together do before one.
        let is_joint = character == '\n' && is_escaped && begins_with_it;
        if is_joint || (character.is_ascii_whitespace() && quote.is_none() && !is_escaped) {
            (start, is_escaped) = (None, false);
            continue;
        }
        start = start.or(Some(position));
        match (quote, character) {
            _ if is_escaped => is_escaped = false,
            (None | Some('"'), '\\') => is_escaped = true,
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (_, _) => {}
        }
    }
    start.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::failure::Code;

    fn put(text: &str) -> (String, String) {
        let Line::Command(arguments) = read(text).unwrap() else { panic!("{text:?} is no command") };
        let Command::Put(put) = arguments.command else { panic!("{text:?} is no put") };
        (put.key.into_string().unwrap(), put.value.unwrap().into_string().unwrap())
    }

    #[test]
    fn words_are_quoted_as_in_a_shell() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(put("put a b"), pair("a", "b"));
        assert_eq!(put("put 'a b' \"it's\" # a remark"), pair("a b", "it's"));
        assert_eq!(put(r"put a\ b c\'d"), pair("a b", "c'd"));
        assert_eq!(put("put a 'two\nlines'"), pair("a", "two\nlines"));
        assert_eq!(put("raftkv-cli put a b"), pair("a", "b"));
    }

    #[test]
    fn what_is_no_command_is_told_apart() {
        for nothing in ["", "  ", "# a remark", "raftkv-cli"] {
            assert!(matches!(read(nothing).unwrap(), Line::Nothing), "{nothing:?}");
        }
        assert!(matches!(read(" exit ").unwrap(), Line::Leave));
        assert!(matches!(read("quit").unwrap(), Line::Leave));
        let Line::Help(all) = read("help").unwrap() else { panic!("no help") };
        assert!(all.to_string().contains("Exit codes"));
        let Line::Help(one) = read("help put").unwrap() else { panic!("no help") };
        assert!(one.to_string().contains("--if-absent"));
    }

    #[test]
    fn what_cannot_be_read_is_a_usage_error() {
        for (bad, wanted) in [
            ("put 'a", "not closed"),
            ("put a \\", "no other comes"),
            ("put a \\\n", "no other comes"),
            ("nonsense", "nonsense"),
            ("get", "<KEY>"),
        ] {
            let failure = read(bad).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{bad}");
            assert!(failure.cause.contains(wanted) && !failure.cause.starts_with("error"), "{bad}: {failure}");
        }
    }

    #[test]
    fn a_line_goes_on_after_an_open_quote_and_after_a_backslash() {
        for (text, wanted) in [
            ("put 'a", Some(Open::Quote)),
            ("put \"a\\", Some(Open::Quote)),
            ("put 'a'", None),
            ("put a \\", Some(Open::Backslash)),
            ("put a\\", Some(Open::Backslash)),
            ("\\", Some(Open::Backslash)),
            ("put a\\\n", Some(Open::Backslash)),
            (r"put a \\\", Some(Open::Backslash)),
            (r"put a \\", None),
            (r"put 'a\'", None),
            ("put a b # remark \\", None),
            ("# remark \\", None),
            ("put a \\\nb", None),
            ("put a b # remark \\\nget \\", Some(Open::Backslash)),
        ] {
            assert_eq!(open(text), wanted, "{text:?}");
        }
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(put("put a \\\n  b"), pair("a", "b"));
        assert_eq!(put("put lo\\\nng b"), pair("long", "b"));
        assert_eq!(put("put a \"two \\\nwords\""), pair("a", "two words"));
    }

    fn typed(text: &str) -> Option<String> {
        let Line::Command(arguments) = read(text).unwrap() else { panic!("{text:?} is no command") };
        let Command::Txn(txn) = arguments.command else { panic!("{text:?} is no transaction") };
        txn.typed.map(|typed| String::from_utf8(typed.to_vec()).unwrap())
    }

    #[test]
    fn a_transaction_stands_on_the_lines_after_its_command_up_to_an_empty_one() {
        for more in [
            "txn",
            "txn\n",
            "raftkv-cli txn -o json # remark\n",
            "txn -f -\nthen { get a }\n",
            "txn \\\n-o json\nthen { get a }\n",
            "txn\nif {\n",
            "txn\nif {\n\n",
            "txn\nthen { put a \"}\n\n",
            "txn\nthen { # }\n\n",
            "txn\n{\"then\": [{\"put\":\n\n",
        ] {
            assert!(goes_on(more), "{more:?}");
        }
        for ended in [
            "txn\n\n",
            "txn\nthen { get a }\n  \n",
            "txn\nthen {\n\n get a\n}\n\n",
            "txn\nthen { put a \"{\" }\n\n",
            "txn\n{\"then\": [{\"put\": {\"key\": \"#\", \"value\": \"\\\"\"}}]}\n\n",
            "txn -f file\n",
            "txn --nonsense\n",
            "txn --help\n",
            "get a\n",
        ] {
            assert!(!goes_on(ended), "{ended:?}");
        }
        assert_eq!(typed("txn \\\n-o json\nthen {\n put a 'b\n}\n").as_deref(), Some("then {\n put a 'b\n}\n"));
        assert_eq!(typed("txn -f file\n"), None);
    }

    #[test]
    fn the_word_under_the_cursor_is_found_in_and_out_of_quotes() {
        let typed = |text: &str| {
            let Typed { words, start, word } = Typed::of(text);
            (words.join("|"), start, word)
        };
        let of = |words: &str, start, word: &str| (words.to_owned(), start, word.to_owned());
        assert_eq!(typed(""), of("", 0, ""));
        assert_eq!(typed("ge"), of("", 0, "ge"));
        assert_eq!(typed("get "), of("get", 4, ""));
        assert_eq!(typed("get 'a b"), of("get", 4, "a b"));
        assert_eq!(typed("get \"a b\" c\\ "), of("get|a b", 10, "c "));
        assert_eq!(typed("get --level=st"), of("get", 4, "--level=st"));
        assert_eq!(typed("raftkv-cli get k"), of("get", 15, "k"));
        assert_eq!(typed("get grün"), of("get", 4, "grün"));
        assert_eq!(typed("get \\\nco"), of("get", 6, "co"));
        assert_eq!(typed("get co\\\nlor"), of("get", 4, "color"));
    }
}
