//! Pipelining: many requests at once over few connections, each dealt with when its answer comes, and never more than so many.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example pipelining
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;

use raftkv_client::{Builder, Client, Delete, Error as ClientError, Range, Scan};
use std::error::Error;
use std::time::Instant;
use tokio::task::JoinSet;

const PREFIX: &str = "example/pipelining/";
/// Requests under way: what a program keeps in memory for them, and how much it asks of the cluster at once. A session has room for 1,024.
const WINDOW: usize = 200;
const KEYS: usize = 2_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?, &common::builder()?).await
}

/// A list of names, as fast as the cluster takes it.
pub(crate) async fn example(client: &Client, builder: &Builder) -> Result<(), Box<dyn Error>> {
    client.delete(Delete::range(Range::prefix(PREFIX))).await?;
    // One connection carries thousands of requests; a second one spreads the work of encryption over more processors.
    let pipe = builder.clone().connections(2).build()?;
    let key = |number: usize| format!("{PREFIX}{number:06}");

    let began = Instant::now();
    for number in 0..100 {
        pipe.put((key(number), "one by one")).await?;
    }
    println!("one by one: {:.0} a second", 100.0 / began.elapsed().as_secs_f64());

    let began = Instant::now();
    // Each task has its number, so an answer is known by it, in whichever order they come. What is dropped before its end is cancelled.
    let mut under_way: JoinSet<Result<(usize, u64), ClientError>> = JoinSet::new();
    let (mut answered, mut most, mut overtaken, mut newest) = (0, 0, 0, 0);
    let mut waiting = 0..KEYS;
    loop {
        // Fill the window; then, and only then, wait.
        while under_way.len() < WINDOW
            && let Some(number) = waiting.next()
        {
            let pipe = pipe.clone();
            under_way.spawn(async move { Ok((number, pipe.put((key(number), number.to_string())).await?.revision)) });
        }
        most = most.max(under_way.len());
        // The first error ends it. What is still under way then may be applied or not.
        let Some(outcome) = under_way.join_next().await else { break };
        let (_number, revision) = outcome??;
        answered += 1;
        overtaken += usize::from(revision < newest);
        newest = newest.max(revision);
    }
    println!("{WINDOW} at once: {:.0} a second", KEYS as f64 / began.elapsed().as_secs_f64());
    println!("{answered} answers, {overtaken} of them after one that the cluster had carried out later");
    assert_eq!((answered, most), (KEYS, WINDOW));

    let mut reads = JoinSet::new();
    for number in 0..WINDOW {
        let pipe = pipe.clone();
        reads.spawn(async move { Ok::<_, ClientError>((number, pipe.get(key(number)).await?.kv)) });
    }
    while let Some(outcome) = reads.join_next().await {
        let (number, kv) = outcome??;
        assert_eq!(kv.map(|kv| kv.value), Some(number.to_string().into()));
    }

    let mut scan = client.scan(Scan::new(Range::prefix(PREFIX)).count_only()).await?;
    assert_eq!(scan.next().await?, None);
    assert_eq!(scan.summary().map(|summary| summary.count), Some(KEYS as u64));
    let gone = client.delete(Delete::range(Range::prefix(PREFIX))).await?;
    println!("{} keys gone at revision {}", gone.deleted, gone.revision);
    pipe.close_session().await;
    Ok(())
}
