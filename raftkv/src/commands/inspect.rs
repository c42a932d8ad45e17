//! `raftkv inspect`: looks at what a node has on disk, and changes nothing.

use super::Failure;
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use raft::GroupId;
use raftkv::config::{Config, FILE_NAME};
use raftkv::exit::{CORRUPTION, USAGE};
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use storage::identity::DataDirectory;
use storage::state::{RocksOptions, StateStore};
use storage::wal::{Inspection, RecordKind, RecordSummary, SegmentSummary, Verdict};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The log: its segments, its records, and whether it would open
    Wal(LogArguments),
    /// The state machine: what is applied and flushed, revision and hashes
    State(StateArguments),
}

#[derive(clap::Args)]
struct LogArguments {
    /// A node's directory, or its data directory
    #[arg(long)]
    dir: PathBuf,
    /// Leave the records out
    #[arg(long)]
    segments_only: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(clap::Args)]
struct StateArguments {
    /// A node's directory, or its data directory
    #[arg(long)]
    dir: PathBuf,
    /// Read everything and print the hash of all rows
    #[arg(long)]
    hash: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// One JSON object a line
    Json,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match &arguments.what {
        What::Wal(arguments) => inspect_log(arguments, &mut out),
        What::State(arguments) => inspect_state(arguments, &mut out),
    };
    let flushed = out.flush().context("cannot write").map_err(Failure::from);
    match written.and(flushed) {
        // Whoever reads has seen enough.
        Err(failure) if failure.is_broken_pipe() => Ok(()),
        other => other,
    }
}

/// The data directory that `dir` is, or that the configuration in it names.
fn data_directory(dir: &Path) -> Result<PathBuf, Failure> {
    let config = dir.join(FILE_NAME);
    let usage = |error| Failure::new(USAGE, error);
    let data = if config.exists() {
        Config::load(&config).map_err(|error| usage(error.into()))?.node.data_dir
    } else {
        dir.to_owned()
    };
    if !data.join("wal").exists() && !data.join("state").exists() {
        let data = data.display();
        return Err(usage(anyhow::anyhow!(
            "{data} holds neither a log nor a state; name a node's directory or its data directory"
        )));
    }
    Ok(data)
}

fn inspect_log(arguments: &LogArguments, out: &mut impl Write) -> Result<(), Failure> {
    let directory = data_directory(&arguments.dir)?.join("wal");
    let inspection = Inspection::open(&directory)?;
    for segment in inspection.segments() {
        match arguments.output {
            Output::Json => writeln!(out, "{}", segment_json(segment))?,
            Output::Table => writeln!(out, "{}", segment_line(segment))?,
        }
        if arguments.segments_only {
            continue;
        }
        for record in inspection.records(segment)? {
            let record = record?;
            match arguments.output {
                Output::Json => writeln!(out, "{}", record_json(&record))?,
                Output::Table => writeln!(out, "{}", record_line(&record))?,
            }
        }
    }
    report_verdict(&inspection.verdict(GroupId::ONLY), arguments.output, out)
}

fn segment_json(segment: &SegmentSummary) -> Value {
    let header = segment.header.as_ref().ok();
    json!({
        "type": "segment",
        "file": segment.file,
        "sequence": segment.sequence,
        "bytes": segment.bytes,
        "epoch": header.map(|header| format!("{:016x}", header.epoch)),
        "group": header.map(|header| header.group.0),
        "damage": segment.header.as_ref().err().map(ToString::to_string),
    })
}

fn segment_line(segment: &SegmentSummary) -> String {
    let about = match &segment.header {
        Ok(header) => format!("epoch {:016x}  group {}", header.epoch, header.group),
        Err(damage) => format!("DAMAGED: {damage}"),
    };
    format!("{}  {} bytes  {about}", segment.file.display(), segment.bytes)
}

fn kind_name(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Head => "head",
        RecordKind::HardState => "hard-state",
        RecordKind::Entries => "entries",
        RecordKind::Compact => "compact",
        RecordKind::Reset => "reset",
    }
}

fn record_json(record: &RecordSummary) -> Value {
    json!({
        "type": "record",
        "file": record.file,
        "offset": record.offset,
        "bytes": record.bytes,
        "kind": kind_name(record.kind),
        "write": record.write_sequence,
        "part": record.part,
        "last_of_write": record.last_of_write,
        "term": record.term.0,
        "first_index": record.first_index.0,
        "count": record.count,
        "damage": record.damage.map(|damage| damage.to_string()),
    })
}

fn record_line(record: &RecordSummary) -> String {
    let RecordSummary { offset, bytes, write_sequence, term, first_index, count, .. } = record;
    let end = if record.last_of_write { "" } else { " …" };
    let damage = record.damage.map(|damage| format!("  DAMAGED: {damage}")).unwrap_or_default();
    let kind = kind_name(record.kind);
    format!(
        "{offset:>12}  {kind:<12} write {write_sequence}.{}{end}  term {term}  first index {first_index}  count {count}  {bytes} bytes{damage}",
        record.part
    )
}

fn report_verdict(verdict: &Verdict, output: Output, out: &mut impl Write) -> Result<(), Failure> {
    let refusal = match verdict {
        Verdict::Refuses(error) => Some(error.to_string()),
        Verdict::Opens { .. } => None,
    };
    match (output, verdict) {
        (Output::Json, Verdict::Opens { recovered, end }) => {
            let torn = recovered
                .torn_tail
                .as_ref()
                .map(|torn| json!({ "file": torn.file, "offset": torn.offset, "bytes": torn.bytes }));
            let line = json!({
                "type": "verdict",
                "opens": true,
                "term": recovered.hard_state.term.0,
                "vote": recovered.hard_state.vote.map(|vote| vote.0),
                "starts_after": recovered.start.index.0,
                "last_index": recovered.last.0,
                "last_write": end.write_sequence,
                "torn_tail": torn,
            });
            writeln!(out, "{line}")?;
        }
        (Output::Json, Verdict::Refuses(_)) => {
            writeln!(out, "{}", json!({ "type": "verdict", "opens": false, "error": refusal }))?;
        }
        (Output::Table, Verdict::Opens { recovered, end }) => {
            let hard_state = recovered.hard_state;
            let vote = hard_state.vote.map_or("nobody".to_owned(), |vote| format!("node {vote}"));
            writeln!(
                out,
                "\nThe log opens: entries {} to {}, last write {}, term {}, voted for {vote}.",
                recovered.start.index.next(),
                recovered.last,
                end.write_sequence,
                hard_state.term
            )?;
            if let Some(torn) = &recovered.torn_tail {
                writeln!(
                    out,
                    "A torn tail of {} bytes in {} at offset {} was never acknowledged and will be dropped.",
                    torn.bytes,
                    torn.file.display(),
                    torn.offset
                )?;
            }
        }
        (Output::Table, Verdict::Refuses(_)) => writeln!(out, "\nThe log does not open.")?,
    }
    match refusal {
        // What was found is of use even if the verdict is bad, so it goes out first.
        Some(refusal) => {
            out.flush()?;
            Err(Failure::new(CORRUPTION, anyhow::anyhow!(refusal)))
        }
        None => Ok(()),
    }
}

fn inspect_state(arguments: &StateArguments, out: &mut impl Write) -> Result<(), Failure> {
    let directory = data_directory(&arguments.dir)?;
    let identity = DataDirectory::identity_of(&directory)?;
    let machine = StateStore::open_read_only(&directory.join("state"), &RocksOptions::default())?;
    let statistics = machine.statistics()?;
    let content_hash = if arguments.hash { Some(hexadecimal(&machine.reader().content_hash()?)) } else { None };
    let applied = machine.applied();
    let members: Vec<u64> = machine.membership().members().map(|id| id.0).collect();
    match arguments.output {
        Output::Json => {
            let line = json!({
                "cluster": machine.cluster(),
                "node": identity.node.0,
                "applied_index": applied.index.0,
                "applied_term": applied.term.0,
                "revision": machine.revision(),
                "state_hash": hexadecimal(&machine.state_hash()),
                "content_hash": content_hash,
                "members": members,
                "bytes": statistics.disk_bytes,
                "keys_about": statistics.keys_estimate,
            });
            writeln!(out, "{line}")?;
        }
        Output::Table => {
            writeln!(out, "cluster       {}", machine.cluster())?;
            writeln!(out, "node          {}", identity.node)?;
            writeln!(out, "applied       {applied}, as flushed to disk")?;
            writeln!(out, "revision      {}", machine.revision())?;
            writeln!(out, "state hash    {}", hexadecimal(&machine.state_hash()))?;
            if let Some(content_hash) = content_hash {
                writeln!(out, "content hash  {content_hash}")?;
            }
            writeln!(out, "members       {members:?}")?;
            writeln!(out, "size          {} bytes, about {} keys", statistics.disk_bytes, statistics.keys_estimate)?;
        }
    }
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
