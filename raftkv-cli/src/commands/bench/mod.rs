//! `bench`: a closed loop of puts, gets or both, and what it measures; `watch` measures how soon watchers hear of puts.
//!
//! Each client is a task that sends its next operation when the last one is answered, so clients are operations under way; connections are
//! shared among them. Latency is from the call to its answer, over all attempts that the client library makes, and includes the time that
//! operations wait for this machine's processors. Operations that end during the warm-up do not count.

mod report;
mod watch;

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::{Format, Output};
use crate::source::bytes_of;
use bytes::{BufMut, Bytes, BytesMut};
use clap::{Args, Subcommand};
use client::{CONNECTIONS_MAX, Client, Error, Get, Level, MemberStatus, Put};
use hdrhistogram::Histogram;
use humantime::format_duration;
use report::{Report, histogram};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Keys are made beforehand and kept: making them while measuring would be measured too.
const KEYS_MAX: u64 = 4_000_000;
/// Different values that puts take in turn, so that nothing below can profit from writing the same one; large ones are fewer.
const VALUES: usize = 16;
const VALUES_BYTES_MAX: usize = 16 << 20;
/// Histograms, each for some of the clients: few enough to merge, enough that clients rarely wait for one another.
const HISTOGRAMS: usize = 16;
/// The longest that is measured, and that is run before.
const MEASURED_MAX: Duration = Duration::from_secs(86_400);
const WARMUP_MAX: Duration = Duration::from_secs(3600);
/// Puts under way while the keys for gets are written.
const FILL_WINDOW: usize = 256;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Puts of random keys
    #[command(after_help = "Example:
  raftkv-cli bench put --clients 64 --conns 4 --value 256 --seconds 10")]
    Put(BenchArguments),
    /// Gets of random keys, which are written first
    #[command(after_help = "Example:
  raftkv-cli bench get --clients 64 --conns 4 --seconds 10 --level linearizable")]
    Get {
        #[command(flatten)]
        arguments: BenchArguments,
        /// How current answers have to be: linearizable, lease, stale or stale=AGE
        ///
        /// Linearizable gets go to the leader, which saves the question who it is; stale ones to the first endpoint given.
        #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = arguments::level)]
        level: Level,
    },
    /// Gets and puts of random keys, reported apart
    #[command(after_help = "Example:
  raftkv-cli bench mixed --gets 90 --clients 64 --seconds 10")]
    Mixed {
        #[command(flatten)]
        arguments: BenchArguments,
        /// Gets among a hundred operations
        #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(1..=99))]
        gets: u8,
        /// How current answers have to be: linearizable, lease, stale or stale=AGE
        #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = arguments::level)]
        level: Level,
    },
    /// Puts of random keys, and how soon watchers hear of them
    ///
    /// Each put is told to every watcher. Latency is from the call of the put to its event at a watcher; an operation is such an event.
    #[command(after_help = "Example:
  raftkv-cli bench watch --watchers 100 --clients 1 --seconds 10")]
    Watch {
        #[command(flatten)]
        arguments: BenchArguments,
        /// Watchers, each of all keys
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        watchers: u32,
    },
}

/// The load.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArguments {
    /// Clients: operations under way at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// Connections to each node, shared by the clients
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX as i64))]
    pub(crate) conns: u32,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    pub(crate) value: u32,
    /// How long to measure, like 10s or 1m; a number alone is seconds. Ctrl-C ends it early, with what was measured so far
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = measured)]
    pub(crate) seconds: Duration,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    pub(crate) keys: u64,
    /// How long to run before measuring, as above
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = warmed_up)]
    pub(crate) warmup: Duration,
    /// What the keys begin with. They stay afterwards: `raftkv-cli del --prefix PREFIX` takes them away, and all else that begins so
    #[arg(long, value_name = "PREFIX", default_value = "bench/")]
    pub(crate) prefix: OsString,
    /// Send puts without a session: one whose answer is lost is not repeated, and more than 1,024 may be under way
    #[arg(long)]
    pub(crate) no_session: bool,
}

/// A duration; seconds, where there is no unit.
fn duration(text: &str) -> Result<Duration, String> {
    text.parse().map_or_else(|_| arguments::duration(text), |seconds| Ok(Duration::from_secs(seconds)))
}

fn measured(text: &str) -> Result<Duration, String> {
    let is_possible = |measured: &Duration| !measured.is_zero() && *measured <= MEASURED_MAX;
    let wanted = || format!("give more than zero, and {} at most", format_duration(MEASURED_MAX));
    Some(duration(text)?).filter(is_possible).ok_or_else(wanted)
}

fn warmed_up(text: &str) -> Result<Duration, String> {
    let wanted = || format!("give {} at most", format_duration(WARMUP_MAX));
    Some(duration(text)?).filter(|warmup| *warmup <= WARMUP_MAX).ok_or_else(wanted)
}

pub(crate) async fn run(command: BenchCommand, globals: &Globals) -> Result<(), Failure> {
    let (mix, load) = match command {
        BenchCommand::Put(load) => (Mix { gets: 0, level: Level::Linearizable }, load),
        BenchCommand::Get { arguments, level } => (Mix { gets: 100, level }, arguments),
        BenchCommand::Mixed { arguments, gets, level } => (Mix { gets, level }, arguments),
        BenchCommand::Watch { arguments, watchers } => return watch::run(&arguments, watchers, globals).await,
    };
    let asks_leader = mix.gets > 0 && !matches!(mix.level, Level::Stale { .. });
    let client =
        if asks_leader { client_for(&load, &with_leader_first(globals).await?)? } else { client_for(&load, globals)? };
    let keys = keys(&load);
    let values = values(load.value as usize);
    if mix.gets > 0 {
        tell(&format!("writing {} keys", load.keys));
        fill(&client, &keys, &values).await?;
    }
    let (measured, warmup) = (format_duration(load.seconds), format_duration(load.warmup));
    tell(&format!("{} clients for {measured}, after {warmup} of warm-up", load.clients));
    let bench = Arc::new(Bench::new(client, mix, keys, values));
    let elapsed = bench.clone().measure(&load).await?;
    bench.client.close_session().await;
    let reports = bench.reports(&load, elapsed);
    let mut output = Output::standard();
    let format = globals.output.unwrap_or(Format::Table);
    for (number, report) in reports.iter().enumerate() {
        if number > 0 && format == Format::Table {
            output.write(|out| writeln!(out))?;
        }
        output.write(|out| report.print(out, format))?;
    }
    output.finish()?;
    match bench.last_error() {
        Some(error) if reports.iter().all(|report| report.operations == 0) => Err(error.into()),
        Some(error) => {
            tell(&format!("the last error: {error} (endpoint {})", error.endpoint()));
            Ok(())
        }
        None => Ok(()),
    }
}

/// A client with the connections that were asked for, and a session unless there is to be none.
fn client_for(load: &BenchArguments, globals: &Globals) -> Result<Client, Failure> {
    let connections = load.conns as usize;
    if load.no_session {
        connect::client_without_session(globals, connections)
    } else {
        connect::client_with_connections(globals, connections)
    }
}

/// The same endpoints, the leader's first. A client stays with the first endpoint that answers, so what is measured would
/// otherwise depend on the order in which the endpoints were given.
async fn with_leader_first(globals: &Globals) -> Result<Globals, Failure> {
    let lines = connect::client(globals)?.cluster_status().await?;
    let mut globals = globals.clone();
    match leader(&lines) {
        Some(address) => {
            tell(&format!("reading from the leader, {address}"));
            globals.endpoints.retain(|endpoint| endpoint.trim() != address);
            globals.endpoints.insert(0, address);
        }
        None => tell("no leader is known; reading from the first endpoint"),
    }
    Ok(globals)
}

/// Where clients reach the leader: of several that take themselves for it, the one in the newest term.
fn leader(lines: &[MemberStatus]) -> Option<String> {
    let answers = lines.iter().filter_map(|line| Some((line, line.status.as_ref().ok()?)));
    let leaders = answers.filter(|(_, status)| status.leader == Some(status.node));
    leaders.max_by_key(|(_, status)| status.term).map(|(line, _)| line.address.clone())
}

/// Ctrl-C came before anything counted.
fn interrupted_too_early() -> Failure {
    Failure::new(Code::Interrupted, "interrupted before anything was measured")
}

/// A remark for whoever watches.
fn tell(text: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // It is only a remark.
        let _told = writeln!(stderr, "{text}");
    }
}

fn keys(load: &BenchArguments) -> Vec<Bytes> {
    let prefix = bytes_of(load.prefix.clone());
    (0..load.keys)
        .map(|number| {
            let mut key = BytesMut::with_capacity(prefix.len() + 12);
            key.put_slice(&prefix);
            key.put_slice(format!("{number:012}").as_bytes());
            key.freeze()
        })
        .collect()
}

/// Random bytes, since real values do not compress to nothing.
fn values(bytes: usize) -> Vec<Bytes> {
    let count = (VALUES_BYTES_MAX / bytes.max(1)).clamp(1, VALUES);
    let random = || (0..bytes).map(|_| rand::random::<u8>()).collect::<Vec<u8>>().into();
    std::iter::repeat_with(random).take(count).collect()
}

/// Writes every key once, before gets.
async fn fill(client: &Client, keys: &[Bytes], values: &[Bytes]) -> Result<(), Failure> {
    let mut puts: JoinSet<Result<(), Error>> = JoinSet::new();
    for (number, key) in keys.iter().enumerate() {
        if puts.len() >= FILL_WINDOW
            && let Some(ended) = puts.join_next().await
        {
            ended.expect("a put neither panics nor is cancelled")?;
        }
        let (client, put) = (client.clone(), Put::new(key.clone(), values[number % values.len()].clone()));
        puts.spawn(async move { client.put(put).await.map(|_| ()) });
    }
    while let Some(ended) = puts.join_next().await {
        ended.expect("a put neither panics nor is cancelled")?;
    }
    Ok(())
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
struct Mix {
    /// Gets among a hundred operations; the others are puts.
    gets: u8,
    /// How current the gets are.
    level: Level,
}

/// What is counted of one kind of operation.
struct Recorder {
    histograms: Vec<Mutex<Histogram<u64>>>,
    errors: AtomicU64,
    unknown: AtomicU64,
}

impl Recorder {
    fn new() -> Recorder {
        let histograms = (0..HISTOGRAMS).map(|_| Mutex::new(histogram())).collect();
        Recorder { histograms, errors: AtomicU64::new(0), unknown: AtomicU64::new(0) }
    }

    /// An operation of client number `client` took so long.
    fn record(&self, client: usize, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let mut histogram = self.histograms[client % HISTOGRAMS].lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(nanoseconds);
    }

    fn count_error(&self, error: &Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.unknown.fetch_add(u64::from(!error.is_certainly_not_applied()), Ordering::Relaxed);
    }

    fn report(&self, operation: String, load: &BenchArguments, elapsed: Duration) -> Report {
        let mut all = histogram();
        for part in &self.histograms {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&*part).expect("both have the same bounds");
        }
        Report {
            operation,
            clients: load.clients,
            connections: load.conns,
            value_bytes: load.value,
            elapsed,
            operations: all.len(),
            errors: self.errors.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            latencies: all,
        }
    }
}

// Phases of a run, in `Bench::phase`.
const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const ENDED: u8 = 2;

/// What all clients of a run share.
struct Bench {
    client: Client,
    mix: Mix,
    keys: Vec<Bytes>,
    values: Vec<Bytes>,
    phase: AtomicU8,
    turn: AtomicUsize,
    puts: Recorder,
    gets: Recorder,
    error: Mutex<Option<Error>>,
}

impl Bench {
    fn new(client: Client, mix: Mix, keys: Vec<Bytes>, values: Vec<Bytes>) -> Bench {
        Bench {
            client,
            mix,
            keys,
            values,
            phase: AtomicU8::new(WARMING_UP),
            turn: AtomicUsize::new(0),
            puts: Recorder::new(),
            gets: Recorder::new(),
            error: Mutex::new(None),
        }
    }

    /// Runs the load. Returns how long was measured.
    async fn measure(self: Arc<Bench>, load: &BenchArguments) -> Result<Duration, Failure> {
        let mut clients = JoinSet::new();
        for number in 0..load.clients as usize {
            clients.spawn(self.clone().one_client(number));
        }
        let phases = async {
            if !load.warmup.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(load.warmup) => {}
                    interrupted = interrupt::interrupted() => {
                        interrupted?;
                        return Err(interrupted_too_early());
                    }
                }
            }
            self.phase.store(MEASURING, Ordering::Relaxed);
            let began = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(load.seconds) => {}
                // What was measured so far is worth as much as if so long had been asked for.
                interrupted = interrupt::interrupted() => interrupted?,
            }
            self.phase.store(ENDED, Ordering::Relaxed);
            Ok(began.elapsed())
        };
        let mut phases = std::pin::pin!(phases);
        let elapsed = loop {
            tokio::select! {
                elapsed = &mut phases => break elapsed?,
                // Before its time a client ends only with an error that stays.
                Some(ended) = clients.join_next() => ended.expect("a client neither panics nor is cancelled")?,
            }
        };
        while let Some(ended) = clients.join_next().await {
            ended.expect("a client neither panics nor is cancelled")?;
        }
        Ok(elapsed)
    }

    async fn one_client(self: Arc<Bench>, number: usize) -> Result<(), Failure> {
        while self.phase.load(Ordering::Relaxed) != ENDED {
            let gets = rand::random_range(0..100) < self.mix.gets;
            let recorder = if gets { &self.gets } else { &self.puts };
            let began = Instant::now();
            let outcome = if gets { self.get().await } else { self.put().await };
            let latency = began.elapsed();
            let counts = self.phase.load(Ordering::Relaxed) == MEASURING;
            match outcome {
                Ok(()) if counts => recorder.record(number, latency),
                Ok(()) => {}
                Err(error) => {
                    if counts {
                        recorder.count_error(&error);
                    }
                    self.take_error(error)?;
                }
            }
        }
        Ok(())
    }

    async fn put(&self) -> Result<(), Error> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.values.len();
        self.client.put(Put::new(self.key(), self.values[turn].clone())).await.map(|_| ())
    }

    async fn get(&self) -> Result<(), Error> {
        self.client.get(Get::new(self.key()).level(self.mix.level)).await.map(|_| ())
    }

    fn key(&self) -> Bytes {
        self.keys[rand::random_range(0..self.keys.len())].clone()
    }

    /// Keeps an error, and ends the run with one that would come again at once every time.
    fn take_error(&self, error: Error) -> Result<(), Failure> {
        let failure = Failure::from(error.clone());
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        if matches!(failure.code, Code::Unavailable | Code::OutcomeUnknown) { Ok(()) } else { Err(failure) }
    }

    fn last_error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What came of gets and of puts.
    fn reports(&self, load: &BenchArguments, elapsed: Duration) -> Vec<Report> {
        let get = match self.mix.level {
            Level::Linearizable => "get linearizable",
            Level::Lease => "get lease",
            Level::Stale { .. } => "get stale",
        };
        let mut reports = Vec::new();
        if self.mix.gets > 0 {
            reports.push(self.gets.report(get.to_owned(), load, elapsed));
        }
        if self.mix.gets < 100 {
            reports.push(self.puts.report("put".to_owned(), load, elapsed));
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> BenchArguments {
        let prefix = OsString::from("bench/");
        let (seconds, warmup) = (Duration::from_secs(1), Duration::ZERO);
        BenchArguments { clients: 2, conns: 1, value: 100, seconds, keys: 3, warmup, prefix, no_session: false }
    }

    #[test]
    fn a_time_has_a_unit_or_is_of_seconds() {
        for (text, wanted) in [("10", 10_000), ("10s", 10_000), ("1m", 60_000), ("500ms", 500), ("1day", 86_400_000)] {
            assert_eq!(measured(text), Ok(Duration::from_millis(wanted)), "{text}");
        }
        for bad in ["0", "0s", "2days", "86401", "-1", "1.5", "soon", ""] {
            assert!(measured(bad).is_err(), "{bad:?}");
        }
        assert_eq!((warmed_up("0"), warmed_up("1h")), (Ok(Duration::ZERO), Ok(WARMUP_MAX)));
        assert!(warmed_up("61m").is_err());
    }

    fn member(node: u64, term: u64, leader: Option<u64>) -> MemberStatus {
        let status = client::Status {
            cluster: "main".into(),
            node,
            name: format!("n{node}"),
            version: "0.1.0".into(),
            role: "follower".into(),
            term,
            leader,
            log_first: 1,
            log_last: 1,
            commit: 1,
            applied: 1,
            flushed: 1,
            revision: 1,
            state_hash: Vec::new(),
            members: Vec::new(),
            uptime: Duration::ZERO,
            state_bytes: 0,
            log_bytes: 0,
            under_repair: false,
        };
        MemberStatus { member: None, address: format!("n{node}:7420"), status: Ok(status) }
    }

    #[test]
    fn gets_go_to_the_leader_of_the_newest_term() {
        let deposed = member(1, 4, Some(1));
        let lines = [deposed, member(2, 5, Some(3)), member(3, 5, Some(3))];
        assert_eq!(leader(&lines).as_deref(), Some("n3:7420"));
        assert_eq!(leader(&[member(1, 4, None), member(2, 4, Some(3))]), None);
    }

    #[test]
    fn keys_are_distinct_and_begin_with_the_prefix() {
        let keys = keys(&load());
        assert_eq!(keys, ["bench/000000000000", "bench/000000000001", "bench/000000000002"].map(Bytes::from));
    }

    #[test]
    fn values_have_their_size_and_take_bounded_memory() {
        assert_eq!((values(100).len(), values(100)[0].len()), (VALUES, 100));
        assert_eq!(values(8 << 20).len(), 2);
        assert_eq!((values(64 << 20).len(), values(0).len()), (1, VALUES));
    }
}
