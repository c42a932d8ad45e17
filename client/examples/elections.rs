//! Elections: one leader among many candidates, known to everybody.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example elections
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;

use raftkv_client::{Client, Election};
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?).await
}

/// Two candidates, and somebody who wants to know which of them leads.
pub(crate) async fn example(client: &Client) -> Result<(), Box<dyn Error>> {
    let name = "example/elections/scheduler";
    let mut observer = client.observe(name)?;
    println!("before: {:?}", observer.next().await?.map(|leader| leader.value));

    let first = client.campaign(Election::new(name), "10.0.0.7:9000").await?;
    println!("{:?} leads", observer.next().await?.map(|leader| leader.value));
    // The second one waits until the first one resigns, or its lease ends.
    let second = tokio::spawn({
        let client = client.clone();
        async move { client.campaign(Election::new(name), "10.0.0.8:9000").await }
    });
    first.proclaim("10.0.0.7:9001").await?;
    println!("{:?} leads", observer.next().await?.map(|leader| leader.value));

    let former = first.token();
    first.resign().await?;
    let second = second.await??;
    assert!(second.token() > former);
    let leader = client.elected(name).await?.ok_or("somebody leads")?;
    println!("{:?} leads, with token {}", leader.value, leader.token);
    assert_eq!(leader.value, "10.0.0.8:9000");
    second.resign().await?;
    assert_eq!(client.elected(name).await?, None);
    Ok(())
}
