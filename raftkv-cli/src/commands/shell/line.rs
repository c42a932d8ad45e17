//! A line of the shell: into words as a POSIX shell does it, and into a command as the command line does it.

use crate::arguments::Arguments;
use crate::failure::Failure;
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
    if let Some(open) = open(text) {
        return Err(open.failure());
    }
    let mut words = shell_words::split(text).map_err(|_quote| Open::Quote.failure())?;
    if words.first().is_some_and(|word| word == PROGRAM) {
        words.remove(0);
    }
    match words.first().map(String::as_str) {
        None => return Ok(Line::Nothing),
        Some("exit" | "quit") if words.len() == 1 => return Ok(Line::Leave),
        Some("help") => {
            words.remove(0);
            words.push("--help".to_owned());
        }
        Some(_) => {}
    }
    let line = std::iter::once(PROGRAM.to_owned()).chain(words).map(Into::into);
    match Arguments::parse_line(line) {
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
    use crate::arguments::Command;
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
