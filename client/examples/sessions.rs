//! Sessions: a write whose answer gets lost is applied once all the same; and what a program does where nobody can know.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example sessions
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;
#[path = "common/relay.rs"]
mod relay;

use raftkv_client::{Builder, Client, Delete, Error as ClientError, Put};
use relay::Relay;
use std::error::Error;
use std::time::Duration;

/// A third of it is what the client waits for one answer before it asks elsewhere.
const TIMEOUT: Duration = Duration::from_secs(9);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?, &common::builder()?).await
}

/// Three ways for the answer to a write to get lost.
pub(crate) async fn example(client: &Client, builder: &Builder) -> Result<(), Box<dyn Error>> {
    a_lost_answer_is_asked_for_again(client, builder).await?;
    a_write_without_a_session_is_settled_by_reading(client, builder).await?;
    a_session_that_ended_is_replaced(client, builder).await
}

/// Where clients reach the nodes, the leader first.
async fn addresses(client: &Client) -> Result<Vec<String>, ClientError> {
    let mut nodes = client.cluster_status().await?;
    let leads = |status: &raftkv_client::Status| status.leader == Some(status.node);
    nodes.sort_by_key(|node| !node.status.as_ref().is_ok_and(leads));
    Ok(nodes.into_iter().map(|node| node.address).collect())
}

async fn a_lost_answer_is_asked_for_again(client: &Client, builder: &Builder) -> Result<(), Box<dyn Error>> {
    let key = "example/sessions/once";
    client.delete(Delete::key(key)).await?;
    let nodes = addresses(client).await?;
    let relay = Relay::to(&nodes[0]).await?;
    let endpoints = std::iter::once(relay.address()).chain(nodes.iter().map(String::as_str));
    let writer = builder.clone().endpoints(endpoints).timeout(TIMEOUT).build()?;
    // The first write opens the session, which numbers all that come after it. Clones of the client share it.
    writer.put((key, "1")).await?;
    relay.pass_answers(false);
    // The leader gets this, carries it out and answers into the void. The client sends it again by another way, under the same number, and
    // gets the first answer.
    let answered = writer.put((key, "2")).await?;
    let found = client.get(key).await?.kv.ok_or("somebody deleted it")?;
    assert_eq!((found.version, found.mod_revision), (2, answered.revision), "it was applied once");
    println!("sent twice and applied once, at revision {}", answered.revision);
    // A program that ends lets the cluster forget the answers at once; otherwise the session ends by itself.
    writer.close_session().await;
    Ok(())
}

/// Without a session, nobody sends a write again that may have arrived.
async fn a_write_without_a_session_is_settled_by_reading(
    client: &Client,
    builder: &Builder,
) -> Result<(), Box<dyn Error>> {
    let key = "example/sessions/counter";
    let count = || Put::new(key, "8").if_value("7").with_previous();
    let doubt = loop {
        client.put((key, "7")).await?;
        let relay = Relay::to(&addresses(client).await?[0]).await?;
        let hasty = builder.clone().endpoints([relay.address()]).timeout(TIMEOUT / 3).without_session().build()?;
        // Over a connection that is there already the write certainly leaves.
        let connected = hasty.get(key).await;
        relay.pass_answers(false);
        match (connected, hasty.put(count()).await) {
            (Ok(_), Err(error @ ClientError::OutcomeUnknown { .. })) => break error,
            // An election went on meanwhile, and it took another way.
            (_, other) => println!("once more: {other:?}"),
        }
    };
    assert!(!doubt.is_certainly_not_applied());
    println!("{doubt}; {}", doubt.next_step());
    // The condition makes it safe to do it again: whichever of the two comes second does not hold.
    match client.put(count()).await {
        Ok(outcome) => println!("it had not been applied, and is at revision {}", outcome.revision),
        Err(ClientError::PreconditionFailed { existing: Some(kv), .. }) if kv.value == "8" => {
            println!("it had been applied, at revision {}", kv.mod_revision);
        }
        Err(error) => return Err(error.into()),
    }
    assert_eq!(client.get(key).await?.kv.map(|kv| kv.value), Some("8".into()));
    Ok(())
}

/// A session ends when nobody has used it for its time to live, or when it is closed. The client opens another one by itself; only of a write
/// that was under way at that moment nobody can know any more.
async fn a_session_that_ended_is_replaced(client: &Client, builder: &Builder) -> Result<(), Box<dyn Error>> {
    let key = "example/sessions/ended";
    let nodes = addresses(client).await?;
    let relay = Relay::to(&nodes[0]).await?;
    let endpoints = std::iter::once(relay.address()).chain(nodes.iter().map(String::as_str));
    let writer = builder.clone().endpoints(endpoints).timeout(TIMEOUT).build()?;
    let before = writer.put((key, "before")).await?.revision;
    relay.pass_answers(false);
    let under_way = tokio::spawn({
        let writer = writer.clone();
        async move { writer.put((key, "under way")).await }
    });
    while !under_way.is_finished() && client.get(key).await?.kv.is_some_and(|kv| kv.mod_revision == before) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    writer.close_session().await;
    match under_way.await? {
        // The number means nothing to the cluster any more, and the answer that was kept under it is gone.
        Err(error @ ClientError::OutcomeUnknown { .. }) => println!("{error}"),
        // Its second attempt was faster than the end of the session.
        Ok(outcome) => println!("answered in time, at revision {}", outcome.revision),
        // Certainly not applied: it may be done again as it is.
        Err(error @ ClientError::SessionUnknown { .. }) => return Err(error.into()),
        Err(error) => return Err(error.into()),
    }
    relay.pass_answers(true);
    // What comes next is in a new session, and nobody notices.
    let after = writer.put((key, "after")).await?;
    assert_eq!(client.get(key).await?.kv.map(|kv| (kv.value, kv.mod_revision)), Some(("after".into(), after.revision)));
    println!("and in a new session, at revision {}", after.revision);
    writer.close_session().await;
    Ok(())
}
