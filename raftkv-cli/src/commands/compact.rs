//! `compact`: let go of old revisions.

use crate::arguments::Globals;
use crate::connect;
use crate::failure::Failure;
use crate::output::{Format, Output};
use clap::Args;
use client::Error;
use serde_json::json;

/// Let go of what only revisions before this one need
///
/// What keys hold at this revision and later stays readable; what they held before, and deletes before it, do not. There is no way back. Nodes give the space
/// back in the background while they go on serving, so the disk's usage falls in the minutes afterwards. Scans and exports that have begun go on; what they have
/// still to read takes its space until they end, for an hour at most.
///
/// Prints the oldest revision that can be read. The newest one is shown by `status -o json`, and by `get --meta` for a key.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli compact 1200")]
pub(crate) struct CompactArguments {
    /// The oldest revision that can be read afterwards
    #[arg(value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) revision: u64,
}

pub(crate) async fn run(arguments: CompactArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let oldest = client.compact(arguments.revision).await.map_err(|error| {
        let next = if matches!(error, Error::OutcomeUnknown { .. }) {
            Some("the same command again: a second one does no harm")
        } else if matches!(error, Error::CompactedRevision { .. }) {
            Some("a later revision, to let go of more: what was before this one has gone already")
        } else if matches!(error, Error::FutureRevision { .. }) {
            Some("an earlier revision; the newest one lets go of all that is not current")
        } else {
            None
        };
        let failure = Failure::from(error);
        match next {
            Some(next) => failure.with_next(next),
            None => failure,
        }
    })?;
    let mut output = Output::standard();
    output.write(|out| match globals.output {
        Some(Format::Json) => writeln!(out, "{}", json!({ "compacted": oldest })),
        Some(Format::Table | Format::Plain) | None => writeln!(out, "{oldest}"),
    })?;
    output.finish()
}
