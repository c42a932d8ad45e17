//! `man`: the manual pages, made from the same words as the help.

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::output::Output;
use clap::{Args, CommandFactory};
use clap_mangen::Man;
use std::io;
use std::path::{Path, PathBuf};

/// Write the manual pages
///
/// With DIR, every command's page is written there as raftkv-cli-COMMAND.1; without it, the page of the program goes to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli man | man -l -
  raftkv-cli man ~/.local/share/man/man1 && man raftkv-cli-put")]
pub(crate) struct ManArguments {
    /// The directory for all pages; it is made if it does not exist
    pub(crate) dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &ManArguments) -> Result<(), Failure> {
    match &arguments.dir {
        Some(dir) => write_all(dir).map_err(|cause| Failure::named_file(dir, &cause)),
        None => {
            let mut output = Output::standard();
            output.write(|out| Man::new(Arguments::command()).render(out))?;
            output.finish()
        }
    }
}

fn write_all(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Arguments::command(), dir)
}
