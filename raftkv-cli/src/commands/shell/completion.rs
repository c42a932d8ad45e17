//! What Tab offers in the shell.
//!
//! Commands, options and their values come from the definition of the command line itself, so there is no second list to keep. Keys, members and
//! contexts are told by the names of arguments: wherever an argument is called `key` or `prefix`, keys of the cluster are offered.
//!
//! Keys are read with a bounded scan by the prefix that is typed, and a cluster that does not answer in a moment offers none. When there are more
//! than that, the last one is offered besides: what all keys have in common is what the first and the last have in common, so Tab never types
//! more than all of them begin with.
//!
//! Absent: keys that are no UTF-8 or hold control characters, which cannot be typed either; the FILE of `@FILE`; the lines of a transaction.

use super::line::{self, Typed};
use crate::arguments::{Arguments, Globals};
use crate::connect;
use crate::contexts::Contexts;
use clap::{Arg, Command, CommandFactory};
use client::{Client, Error, Range, Scan};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};
use std::time::Duration;
use tokio::runtime::Handle;

/// Keys that one Tab reads.
const KEYS_MAX: u64 = 100;
/// How long one Tab may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// A command.
    Command,
    /// A line of a transaction, whose quotes are its own.
    Transaction,
}

/// Completes and checks what is typed.
pub(super) struct Assistant {
    pub(super) reading: Reading,
    globals: Globals,
    runtime: Handle,
    /// With the global options in every command.
    root: Command,
}

impl Assistant {
    pub(super) fn new(globals: Globals, runtime: Handle) -> Assistant {
        Assistant { reading: Reading::Command, globals, runtime, root: root() }
    }

    /// The candidates of one source, whether they begin as the word does or not.
    fn candidates(&self, source: &Source, word: &str) -> Vec<String> {
        match source {
            Source::Words(words) => words.clone(),
            Source::Keys => self.ask(async |client| keys(client, word).await),
            Source::Members => {
                self.ask(async |client| Ok(client.member_list().await?.into_iter().map(|member| member.name).collect()))
            }
            Source::Contexts => Contexts::path()
                .and_then(|path| Contexts::read(&path))
                .map(|contexts| contexts.contexts.into_keys().collect())
                .unwrap_or_default(),
            Source::Files => Vec::new(),
        }
    }

    /// What the cluster answers in a moment; nothing where it does not.
    fn ask(&self, question: impl AsyncFnOnce(&Client) -> Result<Vec<String>, Error>) -> Vec<String> {
        let Ok(client) = connect::client(&self.globals) else { return Vec::new() };
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, question(&client)).await });
        answer.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// The command line's definition, ready to be looked at.
fn root() -> Command {
    let mut root = Arguments::command();
    root.build();
    root
}

/// The first keys with a prefix, and the last if there are more.
async fn keys(client: &Client, prefix: &str) -> Result<Vec<String>, Error> {
    let scan = || Scan::new(Range::prefix(prefix.to_owned())).keys_only();
    let mut first = client.scan(scan().limit(KEYS_MAX)).await?;
    let mut keys = Vec::new();
    while let Some(kv) = first.next().await? {
        keys.push(kv.key);
    }
    if keys.len() as u64 == KEYS_MAX {
        let mut last = client.scan(scan().reverse().limit(1)).await?;
        keys.extend(last.next().await?.map(|kv| kv.key).filter(|last| !keys.contains(last)));
    }
    let typeable = |key: &str| !key.chars().any(char::is_control);
    Ok(keys
        .iter()
        .filter_map(|key| std::str::from_utf8(key).ok())
        .filter(|key| typeable(key))
        .map(str::to_owned)
        .collect())
}

/// Where candidates come from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Words(Vec<String>),
    Keys,
    Members,
    Contexts,
    Files,
}

impl Source {
    /// What an argument takes; `None` where nothing is known of it.
    fn of_argument(argument: &Arg) -> Option<Source> {
        let possible = argument.get_possible_values();
        if !possible.is_empty() {
            return Some(Source::Words(possible.iter().map(|value| value.get_name().to_owned()).collect()));
        }
        match argument.get_id().as_str() {
            "key" | "prefix" | "from" | "to" | "range" => Some(Source::Keys),
            "member" => Some(Source::Members),
            "context" | "context_name" => Some(Source::Contexts),
            _ => {
                let names = argument.get_value_names().unwrap_or_default();
                let is_file = names.iter().any(|name| name.starts_with("FILE") || name.as_str() == "DIR");
                is_file.then_some(Source::Files)
            }
        }
    }
}

/// What may stand where the word is that is typed.
fn sources(root: &Command, words: &[String], word: &str) -> Vec<Source> {
    let mut command = root;
    let mut positionals = 0;
    let mut options_end = false;
    // The option whose values come next, and how many.
    let mut open: Option<(&Arg, usize)> = None;
    if words.first().is_some_and(|first| first == "help") {
        return sources(root, &words[1..], word);
    }
    for before in words {
        if let Some((argument, missing)) = open {
            open = (missing > 1).then(|| (argument, missing - 1));
        } else if before == "--" && !options_end {
            options_end = true;
        } else if before.starts_with('-') && before.len() > 1 && !options_end {
            open = option(command, before).and_then(|argument| Some((argument, values_of(argument)?)));
        } else if positionals == 0
            && !options_end
            && let Some(inner) = command.find_subcommand(before)
        {
            command = inner;
        } else {
            positionals += 1;
        }
    }
    if let Some((argument, _)) = open {
        return Source::of_argument(argument).into_iter().collect();
    }
    if word.starts_with('-') && !options_end {
        let options = command.get_arguments().filter(|argument| !argument.is_hide_set());
        let longs = options.filter_map(Arg::get_long).map(|long| format!("--{long}")).collect();
        return vec![Source::Words(longs)];
    }
    let mut sources = Vec::new();
    if positionals == 0 && !options_end && command.has_subcommands() {
        let commands = command.get_subcommands().filter(|inner| !inner.is_hide_set());
        sources.push(Source::Words(commands.map(|inner| inner.get_name().to_owned()).collect()));
    }
    sources.extend(command.get_positionals().nth(positionals).and_then(Source::of_argument));
    sources
}

/// The option that a word names; `None` for one with its value in the same word, and for unknown ones.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| match word.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long),
        None => argument.get_short().is_some_and(|short| word.strip_prefix('-') == Some(short.to_string().as_str())),
    })
}

/// How many words an option takes; `None` for a switch.
fn values_of(argument: &Arg) -> Option<usize> {
    let takes = argument.get_action().takes_values();
    takes.then(|| argument.get_num_args().map_or(1, |range| range.min_values().max(1)))
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, text: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        if self.reading == Reading::Transaction
            || line::transaction_of(&text[..cursor]).is_some_and(|(_, rest)| !rest.is_empty())
        {
            return Ok((cursor, Vec::new()));
        }
        let Typed { words, start, word } = Typed::of(&text[..cursor]);
        let sources = sources(&self.root, &words, &word);
        if sources.contains(&Source::Files) {
            return FilenameCompleter::new().complete_path(text, cursor);
        }
        let mut candidates: Vec<String> = sources
            .iter()
            .flat_map(|source| self.candidates(source, &word))
            .filter(|found| found.starts_with(&word))
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        let is_only = candidates.len() == 1;
        let pair = |candidate: String| {
            let quoted = shell_words::quote(&candidate);
            // The next word may follow at once.
            let replacement = if is_only { format!("{quoted} ") } else { quoted.into_owned() };
            Pair { display: candidate, replacement }
        };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

impl Validator for Assistant {
    /// A line with an open quote, or a backslash at its end, goes on below. The lines of a transaction are asked for one by one, but the history
    /// brings them back all at once.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let is_command = self.reading == Reading::Command && line::transaction_of(context.input()).is_none();
        let goes_on = is_command && line::open(context.input()).is_some();
        Ok(if goes_on { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sources after a line; what is typed of its last word is taken away from the line.
    fn after(text: &str) -> Vec<Source> {
        let Typed { words, word, .. } = Typed::of(text);
        sources(&root(), &words, &word)
    }

    fn words_after(text: &str) -> Vec<String> {
        let mut sources = after(text);
        let Some(Source::Words(words)) = sources.pop() else { panic!("{text:?} has {sources:?}") };
        words
    }

    #[test]
    fn commands_come_first_and_their_own_follow() {
        let commands = words_after("");
        for command in ["put", "get", "status", "member", "context", "shell"] {
            assert!(commands.iter().any(|known| known == command), "{command} is missing in {commands:?}");
        }
        assert_eq!(words_after("leader "), ["show", "transfer"]);
        assert_eq!(words_after("help leader "), ["show", "transfer"]);
        assert!(words_after("--timeout 3s ").contains(&"put".to_owned()));
    }

    #[test]
    fn options_are_those_of_the_command_and_of_all() {
        let options = words_after("put k v --");
        assert!(
            options.contains(&"--if-absent".to_owned()) && options.contains(&"--timeout".to_owned()),
            "{options:?}"
        );
        assert!(!options.contains(&"--reverse".to_owned()), "{options:?}");
        assert_eq!(words_after("get k -o "), ["table", "json", "plain"]);
        assert_eq!(words_after("completions ")[0], "bash");
    }

    #[test]
    fn keys_members_and_contexts_stand_where_they_belong() {
        for keys in
            ["get ", "get color", "put ", "del --prefix ", "del --range a ", "scan --from ", "get --meta ", "del -- -x"]
        {
            assert_eq!(after(keys), [Source::Keys], "{keys:?}");
        }
        assert_eq!(after("member remove "), [Source::Members]);
        assert_eq!(after("leader transfer "), [Source::Members]);
        for contexts in ["context use ", "get k --context ", "context remove p"] {
            assert_eq!(after(contexts).pop(), Some(Source::Contexts), "{contexts:?}");
        }
        assert_eq!(after("export "), [Source::Files]);
        assert_eq!(after("put k v "), []);
        assert_eq!(after("scan --limit "), []);
    }
}
