//! `bench watch`: how soon watchers hear of puts.
//!
//! Every value begins with the moment of its put, on this process's clock, so an event says by itself how old it is. A watcher that falls behind shows as latency:
//! it hears of everything, in order.

use super::{BenchArguments, Recorder, client_for, interrupted_too_early, keys, tell};
use crate::arguments::Globals;
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{Format, Output};
use crate::source::bytes_of;
use bytes::{BufMut, Bytes, BytesMut};
use client::{Client, Put, Range, Watch, WatchEvent};
use humantime::format_duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Bytes of the moment that a value begins with.
const MOMENT_BYTES: usize = 8;

/// What all tasks share.
struct Shared {
    client: Client,
    keys: Vec<Bytes>,
    value_bytes: usize,
    /// Moments are nanoseconds since then.
    origin: Instant,
    /// Puts from here on are measured.
    measured_from: Duration,
    /// Puts end here, in nanoseconds: sooner than was asked for where somebody interrupts.
    until: AtomicU64,
    events: Recorder,
}

pub(super) async fn run(load: &BenchArguments, watchers: u32, globals: &Globals) -> Result<(), Failure> {
    if (load.value as usize) < MOMENT_BYTES {
        return Err(Failure::usage(format!(
            "--value has to be at least {MOMENT_BYTES}: a value carries the moment of its put"
        ))
        .with_next(format!("--value {MOMENT_BYTES}, or more; without it, 256")));
    }
    let client = client_for(load, globals)?;
    let (measured, warmup) = (format_duration(load.seconds), format_duration(load.warmup));
    tell(&format!(
        "{watchers} watchers of the puts of {} clients for {measured}, after {warmup} of warm-up",
        load.clients
    ));
    let mut streams = Vec::new();
    for _ in 0..watchers {
        streams.push(client.watch(Watch::range(Range::prefix(bytes_of(load.prefix.clone()))).no_deletes()).await?);
    }
    let shared = Arc::new(Shared {
        client,
        keys: keys(load),
        value_bytes: load.value as usize,
        origin: Instant::now(),
        measured_from: load.warmup,
        until: AtomicU64::new(nanoseconds(load.warmup + load.seconds)),
        events: Recorder::new(),
    });
    let mut listening = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        listening.spawn(shared.clone().listen(number, stream));
    }
    let mut writing = JoinSet::new();
    for _ in 0..load.clients {
        writing.spawn(shared.clone().write());
    }
    let mut is_interrupted = false;
    loop {
        tokio::select! {
            ended = writing.join_next() => match ended {
                Some(ended) => ended.expect("a writer neither panics nor is cancelled")?,
                None => break,
            },
            interrupted = interrupt::interrupted(), if !is_interrupted => {
                interrupted?;
                is_interrupted = true;
                shared.end_now();
            }
        }
    }
    let elapsed = shared.until().saturating_sub(shared.measured_from);
    if elapsed.is_zero() {
        return Err(interrupted_too_early());
    }
    // Watchers have heard of everything once they have heard of the last put; what came after the end is not counted.
    shared.client.put(Put::new(shared.keys[0].clone(), shared.value())).await?;
    while let Some(ended) = listening.join_next().await {
        ended.expect("a watcher neither panics nor is cancelled")?;
    }
    let report = shared.events.report(format!("event of {watchers} watchers"), load, elapsed);
    shared.client.close_session().await;
    let mut output = Output::standard();
    output.write(|out| report.print(out, globals.output.unwrap_or(Format::Table)))?;
    output.finish()
}

impl Shared {
    /// Puts until the time is over.
    async fn write(self: Arc<Shared>) -> Result<(), Failure> {
        while self.origin.elapsed() < self.until() {
            let key = self.keys[rand::random_range(0..self.keys.len())].clone();
            self.client.put(Put::new(key, self.value())).await?;
        }
        Ok(())
    }

    /// A value of this moment.
    fn value(&self) -> Bytes {
        let mut value = BytesMut::zeroed(self.value_bytes);
        rand::fill(&mut value[MOMENT_BYTES..]);
        (&mut value[..]).put_u64(nanoseconds(self.origin.elapsed()));
        value.freeze()
    }

    fn until(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::Relaxed))
    }

    /// What was measured so far is worth as much as if so long had been asked for.
    fn end_now(&self) {
        self.until.fetch_min(nanoseconds(self.origin.elapsed()), Ordering::Relaxed);
    }

    /// Listens until an event of a put after the end comes.
    async fn listen(self: Arc<Shared>, number: usize, mut stream: client::WatchStream) -> Result<(), Failure> {
        loop {
            for event in stream.next().await?.events {
                let WatchEvent::Put { kv, .. } = event else { continue };
                let Some(moment) = kv.value.first_chunk::<MOMENT_BYTES>() else { continue };
                let put_at = Duration::from_nanos(u64::from_be_bytes(*moment));
                if put_at >= self.until() {
                    return Ok(());
                }
                if put_at >= self.measured_from {
                    self.events.record(number, self.origin.elapsed().saturating_sub(put_at));
                }
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
