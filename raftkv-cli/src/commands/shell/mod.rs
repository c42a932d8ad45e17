//! `shell`: the commands of the command line, one after another, over the same connections.
//!
//! A line is what stands after `raftkv-cli`, quoted as in a POSIX shell ([`mod@line`]). It has the settings of the session, which are settled when
//! the shell starts, but for the flags that it gives itself. What a command prints and comes to is the same as outside.
//!
//! At a terminal there are editing, history ([`history`]) and completion ([`completion`]); Ctrl-C ends the command that runs, or empties the
//! line, and Ctrl-D leaves. A failure is shown with its exit code, and the shell goes on. Without a terminal, lines come from standard input:
//! then the first failure ends the shell, with that failure's exit code, so that a script does not go on after something went wrong.
//!
//! A `txn` has its transaction on the lines that follow, up to an empty one; at a terminal another prompt asks for them.
//!
//! Absent: variables, pipes, redirections, several commands on a line: a shell that calls `raftkv-cli` has them. No other command reads
//! standard input here, since lines come from there; `@FILE` takes its place. `--verbose` is for the whole session, and without effect on a line.

mod completion;
mod history;
mod line;

use crate::arguments::{Arguments, Globals};
use crate::connect;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::settings;
use crate::source::take_standard_input;
use clap::Args;
use completion::{Assistant, Reading};
use history::History;
use line::Line;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::block_in_place;

/// Lines that are kept in the history.
const HISTORY_LINES_MAX: usize = 1000;
/// Asks for the next line of a transaction.
const TRANSACTION_PROMPT: &str = "txn> ";

/// Run commands one after another over one connection, with history and completion
///
/// A line is a command as it stands after raftkv-cli, quoted as in a shell; with a \ at its end it goes on in the next one. Tab completes commands, options, keys, members and contexts.
/// Ctrl-C ends the command that runs, Ctrl-D leaves; `help` and `help COMMAND` help. An exit code that is not zero is shown.
///
/// The transaction of a `txn` stands on the lines after it. An empty line ends it, unless braces are open; Ctrl-C gives it up.
///
/// Where standard input is no terminal, commands are read from there, and the first that fails ends the shell with its exit code. Empty lines and
/// what follows a # are passed over.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli shell
  raftkv-cli --context prod shell
  printf 'put a 1\\nput b 2\\n' | raftkv-cli shell
  printf 'txn\\nif { absent(a) } then { put a 1 }\\n\\nget a\\n' | raftkv-cli shell

Files:
  $XDG_STATE_HOME/raftkv/history, or ~/.local/state/raftkv/history; lines that begin with a blank are not kept")]
pub(crate) struct ShellArguments {
    /// Neither read nor write the history
    #[arg(long)]
    pub(crate) no_history: bool,
}

pub(crate) async fn run(arguments: ShellArguments, globals: &Globals) -> Result<(), Failure> {
    if globals.session.is_some() {
        return Err(Failure::usage("this is a shell of raftkv-cli already").with_next("exit, or Ctrl-D, to leave it"));
    }
    let globals = Globals { session: Some(Arc::default()), ..globals.clone() };
    // Wrong settings are told at once, and not with every command.
    connect::client(&globals)?;
    take_standard_input();
    if io::stdin().is_terminal() { interactive(&arguments, &globals).await } else { script(&globals).await }
}

/// Runs the lines of standard input until one fails.
async fn script(globals: &Globals) -> Result<(), Failure> {
    let mut lines = io::stdin().lines();
    let mut number = 0_u64;
    loop {
        let mut text = String::new();
        let first = number + 1;
        while text.is_empty() || line::goes_on(&text) {
            match block_in_place(|| lines.next()) {
                Some(read) => {
                    number += 1;
                    let read = read.map_err(|cause| Failure::io(&format!("line {number} of the input"), &cause))?;
                    text.push_str(&read);
                    text.push('\n');
                }
                None if text.is_empty() => return Ok(()),
                None => break,
            }
        }
        let at_line = |failure: Failure| {
            // Of a script it is a failure: the lines that come after this one are not carried out.
            let code = if failure.code == Code::ReaderGone { Code::Other } else { failure.code };
            Failure { code, cause: format!("line {first}: {}", failure.cause), ..failure }
        };
        match line::read(&text).map_err(at_line)? {
            Line::Nothing => {}
            Line::Leave => return Ok(()),
            Line::Command(arguments) => run_line(*arguments, globals).await.map_err(at_line)?,
            Line::Help(text) => show_help(&text)?,
        }
    }
}

/// Runs what is typed until Ctrl-D.
async fn interactive(arguments: &ShellArguments, globals: &Globals) -> Result<(), Failure> {
    // Once there is a handler, Ctrl-C never ends the process, whatever moment it comes in.
    let _handler = signal(SignalKind::interrupt()).map_err(|cause| Failure::io("the signal handler", &cause))?;
    let assistant = Assistant::new(globals.clone(), tokio::runtime::Handle::current());
    let mut editor =
        editor(assistant).map_err(|cause| Failure::other(format!("the terminal cannot be used: {cause}")))?;
    let mut history = if arguments.no_history { None } else { History::open(&mut editor) };
    // For people; where standard error is closed nobody reads it.
    let _told =
        writeln!(io::stderr(), "raftkv-cli {}: help helps, Tab completes, Ctrl-D leaves", env!("CARGO_PKG_VERSION"));
    let prompt = format!("{}> ", globals.context.as_deref().unwrap_or("raftkv"));
    loop {
        let text = match block_in_place(|| read_command(&mut editor, &prompt)) {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(cause) => return Err(Failure::other(format!("the terminal cannot be read: {cause}"))),
        };
        if let Some(history) = &mut history {
            history.keep(&mut editor);
        }
        let outcome = match line::read(&text) {
            Ok(Line::Nothing) => Ok(()),
            Ok(Line::Leave) => return Ok(()),
            Ok(Line::Command(arguments)) => run_until_interrupted(*arguments, globals).await,
            Ok(Line::Help(text)) => show_help(&text),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = outcome {
            crate::report(&failure);
            if failure.code.number() != 0 {
                // For whoever learns what scripts see.
                let _told = writeln!(io::stderr(), "exit code {}", failure.code.number());
            }
        }
    }
}

/// Reads a line, and of a transaction those that follow. All of it is one entry of the history.
fn read_command(editor: &mut Editor<Assistant, FileHistory>, prompt: &str) -> rustyline::Result<String> {
    let mut text = editor.readline(prompt)? + "\n";
    while line::goes_on(&text) {
        set_reading(editor, Reading::Transaction);
        let read = editor.readline(TRANSACTION_PROMPT);
        set_reading(editor, Reading::Command);
        match read {
            Ok(line) => text.extend([&line, "\n"]),
            // As where a transaction is typed without a shell.
            Err(ReadlineError::Eof) => break,
            Err(other) => return Err(other),
        }
    }
    editor.add_history_entry(text.trim_end_matches('\n'))?;
    Ok(text)
}

fn set_reading(editor: &mut Editor<Assistant, FileHistory>, reading: Reading) {
    editor.helper_mut().expect("an editor of the shell has an assistant").reading = reading;
}

fn editor(assistant: Assistant) -> rustyline::Result<Editor<Assistant, FileHistory>> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(HISTORY_LINES_MAX)?
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(assistant));
    editor.set_history_ignore_dups(true)?;
    Ok(editor)
}

/// One command of the session.
async fn run_line(arguments: Arguments, session: &Globals) -> Result<(), Failure> {
    let globals = settings::of_line(session, arguments.globals);
    // Boxed, since this is part of what it calls.
    Box::pin(crate::run(arguments.command, globals)).await
}

/// The same; Ctrl-C ends it. A command that tidies up by itself has time for that until Ctrl-C comes again.
async fn run_until_interrupted(arguments: Arguments, session: &Globals) -> Result<(), Failure> {
    interrupt::begin_command();
    let mut command = std::pin::pin!(run_line(arguments, session));
    let interrupted = || Err(Failure::new(Code::Interrupted, "interrupted"));
    tokio::select! {
        biased;
        outcome = &mut command => return outcome,
        _ = tokio::signal::ctrl_c() => {}
    }
    if !interrupt::is_handled() {
        return interrupted();
    }
    tokio::select! {
        biased;
        outcome = &mut command => outcome,
        _ = tokio::signal::ctrl_c() => interrupted(),
    }
}

fn show_help(text: &clap::builder::StyledStr) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let shown = if stdout.is_terminal() { text.ansi().to_string() } else { text.to_string() };
    stdout.write_all(shown.as_bytes()).map_err(|cause| Failure::io("standard output", &cause))
}
