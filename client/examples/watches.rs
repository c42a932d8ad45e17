//! Watches: every change of a range, in order, taken up again later with nothing missed and nothing twice.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example watches
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;

use raftkv_client::{Client, Range, Watch, WatchEvent, WatchStream};
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?).await
}

async fn next_events(watch: &mut WatchStream) -> Result<(u64, Vec<WatchEvent>), Box<dyn Error>> {
    loop {
        // A batch without events says how far the watch is: there was nothing of interest up to there.
        let batch = watch.next().await?;
        if !batch.events.is_empty() {
            return Ok((batch.revision, batch.events));
        }
    }
}

/// A configuration that a program follows, over a restart of its own.
pub(crate) async fn example(client: &Client) -> Result<(), Box<dyn Error>> {
    let range = || Range::prefix("example/watches/");
    let mut watch = client.watch(Watch::range(range()).no_deletes()).await?;
    client.put(("example/watches/color", "green")).await?;
    let (seen, events) = next_events(&mut watch).await?;
    println!("through revision {seen}: {events:?}");
    // The program ends, and with it the watch. What happens meanwhile is not lost.
    drop(watch);
    let changed = client.put(("example/watches/color", "blue")).await?.revision;

    // It goes on after what it has dealt with: `seen` is what to keep.
    let again = Watch::range(range()).from_revision(seen + 1).with_previous();
    let mut watch = client.watch(again).await?;
    let (_, events) = next_events(&mut watch).await?;
    assert_eq!(events[0].revision(), changed);
    let before = events[0].previous().map(|kv| kv.value.clone());
    println!("{:?} was {before:?} and changed at revision {changed}", events[0].key());
    Ok(())
}
