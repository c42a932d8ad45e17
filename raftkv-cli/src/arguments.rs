//! The command line: what can be said, and its help.

use crate::commands::{
    bench, compact, completions, context, del, elect, export, get, import, leader, lease, lock, man, member, put, scan,
    shell, status, txn, watch,
};
use crate::failure::{Code, Failure, quoted};
use crate::output::Format;
use crate::session::Session;
use crate::settings::Given;
use crate::source::bytes_of;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use client::{LEASE_TTL_MAX, LEASE_TTL_MIN, Level, Range};
use humantime::format_duration;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  other error
  2  usage, a file that is not there included; or a key or value over the limit
  3  key or lease not found
  4  precondition failed, or there already
  5  unavailable or overloaded: certainly not applied
  6  timed out: the outcome of the write is unknown
  7  TLS or permission
  8  refused as unsafe
  9  corruption or failed verification

lock NAME -- CMD ends as CMD does, or with 127 if there is no such command and 126 if it cannot be run.

Examples:
  . /tmp/demo/env                                set endpoints and certificates
  raftkv-cli context add demo --from /tmp/demo   or keep them under a name
  raftkv-cli put color green
  raftkv-cli get color
  raftkv-cli put photo @photo.jpg && raftkv-cli get photo > copy.jpg
  raftkv-cli scan --prefix service/
  raftkv-cli watch --prefix service/
  raftkv-cli status
  raftkv-cli shell";

/// Read and write a raftkv cluster.
#[derive(Debug, Parser)]
#[command(name = "raftkv-cli", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Parses a command line, the program's name first, and notes which global options stood on it.
    pub(crate) fn parse_line(line: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
        let line: Vec<OsString> = line.into_iter().collect();
        let mut command = Arguments::command();
        let matches = command.try_get_matches_from_mut(&line).map_err(|error| {
            // A usage names what was given, and should not name what only the environment gave.
            let without = Arguments::command().mut_args(|argument| argument.env(None));
            without.try_get_matches_from(&line).err().unwrap_or(error)
        })?;
        let mut arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        arguments.globals.given = Given::of(&matches);
        Ok(arguments)
    }
}

/// Flags of every command. A flag wins over its environment variable, and that over the context.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Client addresses of one or more nodes; one is enough
    #[arg(long, global = true, env = "RAFTKV_ENDPOINTS", value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub(crate) endpoints: Vec<String>,
    /// The cluster's CA certificate
    #[arg(long, global = true, env = "RAFTKV_CA", value_name = "FILE", value_parser = path())]
    pub(crate) ca: Option<PathBuf>,
    /// The client's certificate
    #[arg(long, global = true, env = "RAFTKV_CERT", value_name = "FILE", value_parser = path())]
    pub(crate) cert: Option<PathBuf>,
    /// The client's private key
    // The name of its own keeps it apart from the positional KEY of commands.
    #[arg(id = "key_file", long = "key", global = true, env = "RAFTKV_KEY", value_name = "FILE", value_parser = path())]
    pub(crate) key: Option<PathBuf>,
    /// The context to use instead of the current one; see `raftkv-cli context`. Given here, it wins over the variables of the environment
    #[arg(long, global = true, env = "RAFTKV_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// How long a request may take, like 500ms, 5s or 1m
    #[arg(long, global = true, env = "RAFTKV_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    pub(crate) timeout: Duration,
    /// The form of the output; the default depends on the command and on whether a terminal reads it. Where there is no table to show,
    /// as with put, table is the same as plain
    #[arg(short, long, global = true, value_enum, value_name = "FORM")]
    pub(crate) output: Option<Format>,
    /// Log what happens to standard error; RUST_LOG chooses what
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Which of these stood on the command line.
    #[arg(skip)]
    pub(crate) given: Given,
    /// The connections of a shell, for the commands that it runs.
    #[arg(skip)]
    pub(crate) session: Option<Arc<Session>>,
}

#[cfg(test)]
impl Globals {
    /// Endpoints and nothing else.
    pub(crate) fn of(endpoints: &[&str]) -> Globals {
        Globals {
            endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
            ca: None,
            cert: None,
            key: None,
            context: None,
            timeout: Duration::from_secs(1),
            output: None,
            verbose: false,
            given: Given::default(),
            session: None,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Put(put::PutArguments),
    Get(get::GetArguments),
    Del(del::DelArguments),
    Scan(scan::ScanArguments),
    Watch(watch::WatchArguments),
    Txn(txn::TxnArguments),
    /// What keys live by: grant, revoke, keep alive, show
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    Lock(lock::LockArguments),
    Elect(elect::ElectArguments),
    /// Show every member: role, term, log and state
    ///
    /// All members are asked, not only the endpoints given. Ends with 0 if a leader is known and a majority of the voters answers, else
    /// with 5. `-o json` prints one object a line for each node.
    ///
    /// On a terminal each node has one line, and columns for which there is no room are left out. From 120 characters on, and where no
    /// terminal reads it, the table has the first digits of the state's hash: nodes with the same APPLIED must have the same HASH. `-o json`
    /// has all of it.
    Status(status::StatusArguments),
    /// The members of the cluster: list them, add, promote, remove
    ///
    /// A change after which fewer voters would answer than decide is refused with 8, and shown.
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Who leads: show it, hand it over
    #[command(subcommand)]
    Leader(leader::LeaderCommand),
    Compact(compact::CompactArguments),
    Import(import::ImportArguments),
    Export(export::ExportArguments),
    /// Measure operations per second and latency
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Clusters by name: add, use, list, show, remove
    ///
    /// A context keeps the endpoints and the paths of the certificates of one cluster. Flags and variables of the environment win over the
    /// context in use. They are kept in $RAFTKV_CONTEXTS, or else in raftkv/contexts.toml under $XDG_CONFIG_HOME or ~/.config.
    #[command(subcommand)]
    Context(context::ContextCommand),
    Shell(shell::ShellArguments),
    Completions(completions::CompletionsArguments),
    Man(man::ManArguments),
    /// Show the version of this program, and of the nodes if endpoints are given
    ///
    /// Ends with 5 if endpoints are given and no node answers.
    Version,
}

/// A duration above zero.
fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("give more than zero".to_owned()),
        more => Ok(more),
    }
}

/// A duration with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|cause| format!("{cause}; write it like 500ms, 5s or 1m"))
}

/// How long a lease, or a key with one of its own, lives: no node takes less or more.
pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        short if short < LEASE_TTL_MIN => {
            Err(format!("the shortest time to live is {}", format_duration(LEASE_TTL_MIN)))
        }
        long if long > LEASE_TTL_MAX => Err(format!("the longest time to live is {}s", LEASE_TTL_MAX.as_secs())),
        ttl => Ok(ttl),
    }
}

/// A path, which may be empty: as a variable of the environment that is as good as none, and [`settings`](crate::settings) sees to the rest.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A key: any bytes, but some. Nothing is stored under an empty one, so whoever gives that has a variable that is not set.
pub(crate) fn key() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|key| if key.is_empty() { Err("a key has at least one byte") } else { Ok(key) })
}

/// The keys of `--range FROM TO`. One that can hold none is a slip, and looks as if there were nothing to find.
pub(crate) fn range(ends: &[OsString]) -> Result<Range, Failure> {
    let [from, to] = ends else { unreachable!("clap takes two values for a range, not {}", ends.len()) };
    let range = Range::between(bytes_of(from.clone()), bytes_of(to.clone()));
    if !range.is_empty() {
        return Ok(range);
    }
    let (from, to) = (quoted(from), quoted(to));
    let failure = Failure::usage(format!("no key lies from {from} (inclusive) to {to} (exclusive)"));
    Err(failure.with_next(if from == to {
        "an end after the beginning; KEY alone, for one key; --prefix, for all that begin with it".to_owned()
    } else {
        format!("--range {to} {from}, if the ends have changed places")
    }))
}

/// The name of a lock or an election, which is what its keys begin with.
pub(crate) fn name() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new()
        .try_map(|name| if name.is_empty() { Err("a name has at least one byte") } else { Ok(name) })
}

/// The greatest number of a lease: etcd's are signed, and nodes make none beyond that.
pub(crate) const LEASE_ID_MAX: u64 = i64::MAX.unsigned_abs();

/// The number of a lease.
pub(crate) fn lease_id(text: &str) -> Result<u64, String> {
    let in_range = text.parse().ok().filter(|id| (1..=LEASE_ID_MAX).contains(id));
    in_range.ok_or_else(|| format!("leases have numbers from 1 to {LEASE_ID_MAX}"))
}

/// `linearizable`, `lease`, `stale` or `stale=AGE`. What a node has at hand, however old, is also called `local`.
pub(crate) fn level(text: &str) -> Result<Level, String> {
    match text.split_once('=') {
        None if text == "linearizable" => Ok(Level::Linearizable),
        None if text == "lease" => Ok(Level::Lease),
        None if text == "stale" || text == "local" => Ok(Level::Stale { age_max: None }),
        Some(("stale", age)) => Ok(Level::Stale { age_max: Some(duration(age)?) }),
        None | Some(_) => Err("it is one of linearizable, lease, stale, stale=AGE (such as stale=2s)".to_owned()),
    }
}

/// The level of a read that may also say from which revision on a state will do: then it is a stale one, and no other can be named.
pub(crate) fn level_at_least(level: Option<Level>, revision: Option<u64>) -> Result<Level, Failure> {
    match (level, revision) {
        (None, None) => Ok(Level::Linearizable),
        (None, Some(_)) => Ok(Level::Stale { age_max: None }),
        (Some(level), None) | (Some(level @ Level::Stale { .. }), Some(_)) => Ok(level),
        (Some(Level::Linearizable | Level::Lease), Some(_)) => {
            let message = "--at-least-rev is for stale reads; the others see every acknowledged write anyway";
            Err(Failure::new(Code::Usage, message).with_next("without --level, or without --at-least-rev"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use clap::error::ErrorKind;

    fn parse(line: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from([&["raftkv-cli"], line].concat())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        let help = Arguments::command().render_help().to_string();
        for code in 0..=9 {
            assert!(help.lines().any(|line| line.starts_with(&format!("  {code}  "))), "{code} is missing: {help}");
        }
    }

    #[test]
    fn levels() {
        assert_eq!(level("linearizable"), Ok(Level::Linearizable));
        assert_eq!(level("stale"), Ok(Level::Stale { age_max: None }));
        assert_eq!(level("stale=1500ms"), Ok(Level::Stale { age_max: Some(Duration::from_millis(1500)) }));
        assert_eq!(level("lease"), Ok(Level::Lease));
        for bad in ["", "lease=1s", "stale=", "stale=5", "linearizable=1s"] {
            assert!(level(bad).is_err(), "{bad:?} was taken for a level");
        }
    }

    #[test]
    fn a_range_that_can_hold_nothing_is_refused_with_both_its_ends() {
        let of = |from: &str, to: &str| range(&[from.into(), to.into()]);
        assert_eq!(of("a", "b").unwrap(), Range::between("a", "b"));
        let inverted = of("b c", "a").unwrap_err();
        assert_eq!(inverted.code, Code::Usage);
        assert_eq!(inverted.cause, "no key lies from 'b c' (inclusive) to a (exclusive)");
        assert_eq!(inverted.next.as_deref(), Some("--range a 'b c', if the ends have changed places"));
        assert!(of("a", "a").unwrap_err().next.is_some_and(|next| next.contains("KEY alone")));
        assert_eq!(of("a", "").unwrap_err().code, Code::Usage);
    }

    #[test]
    fn a_least_revision_makes_a_read_stale() {
        let stale = Level::Stale { age_max: None };
        assert_eq!(level_at_least(None, None).unwrap(), Level::Linearizable);
        assert_eq!(level_at_least(Some(Level::Linearizable), None).unwrap(), Level::Linearizable);
        assert_eq!(level_at_least(None, Some(3)).unwrap(), stale);
        let aged = Level::Stale { age_max: Some(Duration::from_secs(1)) };
        assert_eq!(level_at_least(Some(aged), Some(3)).unwrap(), aged);
        for other in [Level::Lease, Level::Linearizable] {
            assert_eq!(level_at_least(Some(other), Some(3)).unwrap_err().code, Code::Usage);
        }
    }

    #[test]
    fn global_flags_may_stand_before_and_after_the_command() {
        for line in [["--timeout", "2s", "get", "k"], ["get", "k", "--timeout", "2s"]] {
            assert_eq!(parse(&line).unwrap().globals.timeout, Duration::from_secs(2), "{line:?}");
        }
        let endpoints = parse(&["--endpoints", "a:1,b:2", "status"]).unwrap().globals.endpoints;
        assert_eq!(endpoints, ["a:1", "b:2"]);
    }

    #[test]
    fn bad_values_are_usage_errors() {
        for line in [
            vec!["get", "k", "--timeout", "0s"],
            vec!["get", "k", "--timeout", "5"],
            vec!["get", "k", "--rev", "-1"],
            vec!["get"],
            vec!["put"],
            vec!["put", "", "v"],
            vec!["get", ""],
            vec!["del", ""],
            vec!["watch", ""],
            vec!["lock", ""],
            vec!["elect", "", "v"],
            vec!["del"],
            vec!["del", "k", "--prefix", "p"],
            vec!["del", "k", "--range", "a", "b"],
            vec!["del", "--range", "a"],
            vec!["scan", "--keys-only", "--count"],
            vec!["scan", "--sort", "colour"],
            vec!["scan", "--count", "--total"],
            vec!["compact"],
            vec!["compact", "0"],
            vec!["put", "k", "v", "--if-absent", "--if-rev", "3"],
            vec!["bench", "put", "--clients", "0"],
            vec!["watch"],
            vec!["watch", "k", "--prefix", "p"],
            vec!["watch", "k", "--from-rev", "0"],
            vec!["watch", "k", "--count", "0"],
            vec!["put", "k", "v", "--lease", "7", "--ttl", "10s"],
            vec!["put", "k", "v", "--ttl", "10"],
            vec!["put", "k", "v", "--ttl", "500ms"],
            vec!["lock", "n", "--ttl", "500ms"],
            vec!["elect", "n", "v", "--ttl", "0s"],
            vec!["lease", "grant", "999ms"],
            vec!["lease", "grant", "60"],
            vec!["lease", "revoke"],
            vec!["lease", "revoke", "0"],
            vec!["lease", "grant", "60s", "--id", "0"],
            vec!["lease", "grant", "60s", "--id", "9223372036854775808"],
            vec!["put", "k", "v", "--lease", "9223372036854775808"],
            vec!["put", "k", "v", "--lease", "0"],
            vec!["lock"],
            vec!["lock", "n", "sh"],
            vec!["elect", "n"],
            vec!["nonsense"],
        ] {
            let error = parse(&line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
            assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{line:?}");
        }
    }

    #[test]
    fn a_time_to_live_is_one_that_nodes_take() {
        for (text, lasts) in
            [("1s", Some(LEASE_TTL_MIN)), ("9000000000s", Some(LEASE_TTL_MAX)), ("999ms", None), ("9000000001s", None)]
        {
            assert_eq!(ttl(text).ok(), lasts, "{text}");
        }
        assert_eq!(ttl("500ms"), Err("the shortest time to live is 1s".to_owned()));
        assert_eq!(ttl("60"), duration("60"), "what is wrong with a duration is told as of any other");
    }

    #[test]
    fn leases_have_numbers_that_etcd_has_too() {
        assert_eq!(lease_id("9223372036854775807"), Ok(LEASE_ID_MAX));
        for bad in ["0", "-1", "9223372036854775808", "99999999999999999999", "seven"] {
            let problem = lease_id(bad).unwrap_err();
            assert_eq!(problem, "leases have numbers from 1 to 9223372036854775807", "{bad}");
        }
    }

    #[test]
    fn a_negative_number_is_a_value_and_other_dashes_go_after_two_dashes() {
        let Command::Put(put) = parse(&["put", "balance", "-5"]).unwrap().command else { panic!("not put") };
        assert_eq!(put.value.unwrap(), "-5");
        let Command::Put(put) = parse(&["put", "k", "--prev", "--", "--v"]).unwrap().command else { panic!("not put") };
        assert_eq!((put.value.unwrap().to_str(), put.prev), (Some("--v"), true));
    }
}
