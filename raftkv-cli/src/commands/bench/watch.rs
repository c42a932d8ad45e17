//! `bench watch`: how soon watchers hear of puts.
//!
//! Every value begins with the moment of its put, on this process's clock, so an event says by itself how old it is. A watcher that falls behind shows as latency:
//! it hears of everything, in order.

use super::{BenchArguments, Recorder, client_for, keys, tell};
use crate::arguments::Globals;
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::source::bytes_of;
use bytes::{BufMut, Bytes, BytesMut};
use client::{Client, Put, Range, Watch, WatchEvent};
use std::sync::Arc;
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
    /// Puts end here.
    until: Duration,
    events: Recorder,
}

pub(super) async fn run(load: &BenchArguments, watchers: u32, globals: &Globals) -> Result<(), Failure> {
    if (load.value as usize) < MOMENT_BYTES {
        return Err(Failure::usage(format!(
            "--value has to be at least {MOMENT_BYTES}: a value carries the moment of its put"
        ))
        .with_next(format!("--value {MOMENT_BYTES}, or more; without it, 256")));
    }
    let measured_from = Duration::from_secs(load.warmup.into());
    let elapsed = Duration::from_secs(load.seconds.into());
    let client = client_for(load, globals)?;
    tell(&format!(
        "{watchers} watchers of the puts of {} clients for {} s, after {} s of warm-up",
        load.clients, load.seconds, load.warmup
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
        measured_from,
        until: measured_from + elapsed,
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
    while let Some(ended) = writing.join_next().await {
        ended.expect("a writer neither panics nor is cancelled")?;
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
        while self.origin.elapsed() < self.until {
            let key = self.keys[rand::random_range(0..self.keys.len())].clone();
            self.client.put(Put::new(key, self.value())).await?;
        }
        Ok(())
    }

    /// A value of this moment.
    fn value(&self) -> Bytes {
        let mut value = BytesMut::zeroed(self.value_bytes);
        rand::fill(&mut value[MOMENT_BYTES..]);
        let now = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        (&mut value[..]).put_u64(now);
        value.freeze()
    }

    /// Listens until an event of a put after the end comes.
    async fn listen(self: Arc<Shared>, number: usize, mut stream: client::WatchStream) -> Result<(), Failure> {
        loop {
            for event in stream.next().await?.events {
                let WatchEvent::Put { kv, .. } = event else { continue };
                let Some(moment) = kv.value.first_chunk::<MOMENT_BYTES>() else { continue };
                let put_at = Duration::from_nanos(u64::from_be_bytes(*moment));
                if put_at >= self.until {
                    return Ok(());
                }
                if put_at >= self.measured_from {
                    self.events.record(number, self.origin.elapsed().saturating_sub(put_at));
                }
            }
        }
    }
}
