//! Ranges: streamed in order, sorted and filtered, counted, read as they were before, deleted, and let go of.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example ranges
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;

use raftkv_client::{Client, Delete, Error as ClientError, Range, Scan, SortBy};
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?).await
}

/// A shelf of books.
pub(crate) async fn example(client: &Client) -> Result<(), Box<dyn Error>> {
    let shelf = || Range::prefix("example/ranges/");
    client.delete(Delete::range(shelf())).await?;
    let mut full = 0;
    for (number, title) in ["Walden", "Emma", "Ulysses", "Dune"].into_iter().enumerate() {
        full = client.put((format!("example/ranges/{number}"), title)).await?.revision;
    }
    client.delete(Delete::key("example/ranges/2")).await?;

    // Pairs come as they are asked for: a range of any size takes little memory, and all of it is of one revision.
    let mut scan = client.scan(Scan::new(shelf())).await?;
    while let Some(kv) = scan.next().await? {
        println!("{:?} since revision {}", kv.value, kv.mod_revision);
    }
    let mut by_title = client.scan(Scan::new(shelf()).sort_by(SortBy::Value).limit(2).count_total()).await?;
    let mut titles = Vec::new();
    while let Some(kv) = by_title.next().await? {
        titles.push(kv.value);
    }
    let summary = by_title.summary().ok_or("a scan that has ended says how it ended")?;
    println!("{titles:?} come first of {:?}, more to come: {}", summary.total, summary.more);
    assert_eq!(titles, ["Dune", "Emma"]);

    // As it was before the last book went.
    let mut before = client.scan(Scan::new(shelf()).at_revision(full).count_only()).await?;
    assert_eq!(before.next().await?, None);
    println!("there were {:?}", before.summary().map(|summary| summary.count));

    let gone = client.delete(Delete::range(shelf())).await?;
    println!("{} books gone at revision {}", gone.deleted, gone.revision);
    // Nobody can read before that any more, and the space comes back.
    client.compact(gone.revision).await?;
    let late = client.scan(Scan::new(shelf()).at_revision(full)).await;
    assert!(matches!(late.map(|_| ()), Err(ClientError::CompactedRevision { .. })));
    Ok(())
}
