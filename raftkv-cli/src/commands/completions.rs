//! `completions`: what a shell needs to complete command lines.

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::output::Output;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print a script that completes commands and options in a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli completions bash > ~/.local/share/bash-completion/completions/raftkv-cli
  raftkv-cli completions zsh > ~/.zfunc/_raftkv-cli
  raftkv-cli completions fish > ~/.config/fish/completions/raftkv-cli.fish")]
pub(crate) struct CompletionsArguments {
    /// The shell
    pub(crate) shell: Shell,
}

pub(crate) fn run(arguments: &CompletionsArguments) -> Result<(), Failure> {
    // Into memory first: the generator panics where its output cannot be written.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "raftkv-cli", &mut script);
    let mut output = Output::standard();
    output.write(|out| out.write_all(&script))?;
    output.finish()
}
