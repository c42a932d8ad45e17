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
    if arguments.shell == Shell::Bash {
        script = mended(&script);
    }
    let mut output = Output::standard();
    output.write(|out| out.write_all(&script))?;
    output.finish()
}

/// In its script for bash the generator gives the state of a subcommand two names if there is a dash in the program's: it goes to the one, and what is
/// completed there stands under the other.
fn mended(script: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(script).replace("raftkv__subcmd__cli__", "raftkv__cli__").into_bytes()
}
