//! Leases: keys that end with whoever put them, and keys that end by themselves.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example leases
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;

use raftkv_client::{Client, Delete, Put, Range, Scan, Watch, WatchEvent};
use std::error::Error;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?).await
}

/// An instance of a service that others can find for as long as it lives.
pub(crate) async fn example(client: &Client) -> Result<(), Box<dyn Error>> {
    client.delete(Delete::range(Range::prefix("example/leases/"))).await?;
    // Kept alive in the background until it is dropped or revoked.
    let lease = client.grant_lease(Duration::from_secs(10)).await?;
    client.put(Put::new("example/leases/web/7", "10.0.0.7:80").lease(lease.id())).await?;
    client.put(Put::new("example/leases/web/7/load", "0.3").lease(lease.id())).await?;
    let (info, keys) = client.show_lease(lease.id(), true).await?;
    println!("lease {} of {:?} has {keys:?} and {:?} left", info.id, info.ttl, info.remaining);
    tokio::select! {
        loss = lease.lost() => println!("others do not see us any more: {loss}"),
        () = work() => println!("{} keys gone at once", lease.revoke().await?.deleted),
    }
    let mut rest = client.scan(Scan::new(Range::prefix("example/leases/"))).await?;
    assert_eq!(rest.next().await?, None);

    // Without anybody to keep it alive. When it is time, the cluster deletes it, and watchers see that like any other delete.
    let key = "example/leases/invitation";
    let mut watch = client.watch(Watch::key(key).no_puts()).await?;
    client.put(Put::new(key, "ann").ttl(Duration::from_secs(1))).await?;
    loop {
        if let Some(WatchEvent::Delete { revision, .. }) = watch.next().await?.events.first() {
            println!("the invitation ended at revision {revision}");
            return Ok(());
        }
    }
}

async fn work() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}
