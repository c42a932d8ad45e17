//! Locks: one at a time, with a token by which the later can be told from the earlier.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example locks
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;

use raftkv_client::{Client, Compare, Lock, Operation, Transaction};
use std::error::Error;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?).await
}

/// A backup that is made by one program at a time, and whose result counts only if the lock was held to the end.
pub(crate) async fn example(client: &Client) -> Result<(), Box<dyn Error>> {
    let backup = || Lock::new("example/locks/backup").value("host 7").ttl(Duration::from_secs(10));
    let guard = client.lock(backup()).await?;
    println!("held, with token {}", guard.token());
    assert!(client.try_lock(backup()).await?.is_none(), "somebody has it, so nobody else can");

    // Any storage can refuse a writer that was overtaken by comparing tokens. This one compares the key of the lock itself.
    let held = Compare::create_revision(guard.key().clone()).equals(guard.token());
    let note = Transaction::new().when(held).then(Operation::put(("example/locks/last", "today")));
    let first_token = guard.token();
    tokio::select! {
        // The lease was not kept alive, or the key is gone: somebody else may hold it now.
        loss = guard.lost() => return Err(format!("stopped in the middle: {loss}").into()),
        () = make_a_backup() => assert!(client.transaction(note.clone()).await?.succeeded),
    }
    guard.unlock().await?;
    assert!(!client.transaction(note).await?.succeeded, "who held it once cannot write any more");

    let patience = tokio::time::sleep(Duration::from_secs(30));
    let Some(guard) = client.lock_unless(backup(), patience).await? else { return Err("still held".into()) };
    println!("held again, with token {}", guard.token());
    assert!(guard.token() > first_token);
    guard.unlock().await?;
    Ok(())
}

async fn make_a_backup() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}
