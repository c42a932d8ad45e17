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
            let mut page = Vec::new();
            let made = Man::new(Arguments::command()).render(&mut page);
            made.map_err(|cause| Failure::other(format!("the page cannot be made: {cause}")))?;
            let mut output = Output::standard();
            output.write(|out| out.write_all(mended(&String::from_utf8_lossy(&page)).as_bytes()))?;
            output.finish()
        }
    }
}

fn write_all(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let made = tempfile::tempdir()?;
    clap_mangen::generate_to(Arguments::command(), made.path())?;
    for page in std::fs::read_dir(made.path())? {
        let page = page?;
        std::fs::write(dir.join(page.file_name()), mended(&std::fs::read_to_string(page.path())?))?;
    }
    Ok(())
}

/// A page as people need it: what follows the options (examples, forms of a transaction) is laid out already and must not be filled, or it cannot be copied;
/// and what comes after `--` is shown to.
fn mended(page: &str) -> String {
    let page = page.replace("[\\fICMD\\fR]", "[\\-\\- \\fICMD\\fR...]");
    let Some((before, extra)) = page.split_once(".SH EXTRA\n") else { return page };
    let (extra, after) = match extra.split_once("\n.SH ") {
        Some((extra, after)) => (extra, format!(".SH {after}")),
        None => (extra.trim_end(), String::new()),
    };
    let (title, extra) = match extra.strip_prefix("Examples:\n") {
        Some(examples) => ("EXAMPLES", examples),
        None => ("NOTES", extra),
    };
    format!("{before}.SH {title}\n.nf\n{extra}\n.fi\n{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_out_is_not_filled() {
        let page = ".SH NAME\nx\n.SH EXTRA\nExamples:\n  x \\-\\- y\n  x  z\n.SH VERSION\nv1\n";
        assert_eq!(mended(page), ".SH NAME\nx\n.SH EXAMPLES\n.nf\n  x \\-\\- y\n  x  z\n.fi\n.SH VERSION\nv1\n");
        assert_eq!(mended("a\n.SH EXTRA\nThe form\n  b\n"), "a\n.SH NOTES\n.nf\nThe form\n  b\n.fi\n");
        assert_eq!(mended("lock [\\fICMD\\fR]\n"), "lock [\\-\\- \\fICMD\\fR...]\n");
    }
}
