//! Single keys: put, get and delete, conditions, old revisions, and what an error says of the write.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example keys
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;

use raftkv_client::{Client, Delete, Error as ClientError, Get, Level, Put};
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?).await
}

/// A counter that nobody counts past anybody else, and its history.
pub(crate) async fn example(client: &Client) -> Result<(), Box<dyn Error>> {
    let key = "example/keys/counter";
    client.delete(Delete::key(key)).await?;
    let first = client.put(Put::new(key, "1").if_absent()).await?;
    println!("1 is there since revision {}", first.revision);

    // Only over what was read: whoever is slower reads again.
    let found = client.get(key).await?.kv.ok_or("somebody deleted it")?;
    let next = client.put(Put::new(key, "2").if_revision(found.mod_revision).with_previous()).await?;
    println!("2 is there since revision {}, and before it was {:?}", next.revision, next.previous.map(|kv| kv.value));
    match client.put(Put::new(key, "3").if_revision(found.mod_revision).with_previous()).await {
        Err(ClientError::PreconditionFailed { existing, .. }) => {
            println!("3 came too late: {:?}", existing.map(|kv| kv.value));
        }
        // Certainly not applied, after the client has tried for as long as its deadline lets it.
        Err(error) if error.is_certainly_not_applied() => return Err(error.into()),
        // It may be applied; only reading tells.
        Err(error @ ClientError::OutcomeUnknown { .. }) => println!("to be looked at: {error}"),
        other => return Err(format!("{other:?}").into()),
    }

    let before = client.get(Get::new(key).at_revision(first.revision)).await?.kv;
    println!("at revision {} it was {:?}", first.revision, before.map(|kv| kv.value));
    // From the nearest node, which may be behind, but not behind what this program has written itself.
    let nearby = Get::new(key).level(Level::Stale { age_max: None }).at_least_revision(next.revision);
    assert_eq!(client.get(nearby).await?.kv.map(|kv| kv.version), Some(2));

    let deleted = client.delete(Delete::key(key)).await?.deleted;
    println!("{deleted} key deleted");
    assert_eq!(client.get(key).await?.kv, None);
    Ok(())
}
