//! Deadlines: how long a request may take, what an error says happened to the write, and how a program goes on.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example deadlines
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;
#[path = "common/relay.rs"]
mod relay;

use raftkv_client::{Builder, Client, Error as ClientError, Put, PutOutcome};
use relay::Relay;
use std::error::Error;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?, &common::builder()?).await
}

/// A node that does not answer: alone, among others, and for a while.
pub(crate) async fn example(client: &Client, builder: &Builder) -> Result<(), Box<dyn Error>> {
    let key = "example/deadlines/key";
    let before = client.put((key, "before")).await?.revision;
    // Whatever is sent here goes nowhere, as behind a firewall.
    let silent = UdpSocket::bind("127.0.0.1:0").await?;
    let nowhere = silent.local_addr()?.to_string();

    // The deadline is the client's. One for requests with another is cheap, but has connections of its own.
    let hasty = builder.clone().endpoints([nowhere.as_str()]).timeout(Duration::from_millis(300)).build()?;
    let began = Instant::now();
    let error = hasty.put((key, "never")).await.err().ok_or("nobody can have answered")?;
    println!("after {:?}, {}: {error} (endpoint {})", began.elapsed(), what_happened(&error), error.endpoint());
    assert!(matches!(error, ClientError::Unavailable { .. }) && error.is_certainly_not_applied());
    assert_eq!(error.endpoint(), nowhere);
    assert_eq!(client.get(key).await?.kv.map(|kv| kv.mod_revision), Some(before));
    let error = hasty.get(key).await.err().ok_or("nobody can have answered")?;
    println!("a read, {}: {error}", what_happened(&error));

    // Among others, such a node costs a moment: the client goes on with the next one, and remembers which one answers.
    let nodes = client.cluster_status().await?.into_iter().map(|node| node.address);
    let patient = builder.clone().endpoints(std::iter::once(nowhere).chain(nodes)).timeout(Duration::from_secs(20));
    let outcome = patient.build()?.put((key, "elsewhere")).await?;
    println!("by another endpoint, at revision {}", outcome.revision);

    // Dropping a future is no deadline for a write: what was sent may be applied all the same, and there is no error that says so.
    let dropped = tokio::time::timeout(Duration::ZERO, client.put(("example/deadlines/dropped", "perhaps"))).await;
    println!("whoever does not wait does not know: {dropped:?}");

    // A cluster that is away for longer than the client's deadline is the program's to wait for.
    let leader = client
        .cluster_status()
        .await?
        .into_iter()
        .find(|node| node.status.as_ref().is_ok_and(|status| status.leader == Some(status.node)));
    let relay = Relay::to(&leader.ok_or("nobody leads")?.address).await?;
    relay.pass_answers(false);
    let cut_off = builder.clone().endpoints([relay.address()]).timeout(Duration::from_secs(1)).build()?;
    let (attempts, mut attempted) = watch::channel(0);
    let put = Put::new(key, "at last").if_revision(client.put((key, "now")).await?.revision);
    let waiting = tokio::spawn(async move { put_with_patience(&cut_off, put, &attempts).await });
    attempted.wait_for(|attempts| *attempts >= 2).await?;
    relay.pass_answers(true);
    let outcome = waiting.await??;
    println!("there again: at revision {}, after {} attempts in vain", outcome.revision, *attempted.borrow());
    assert_eq!(
        client.get(key).await?.kv.map(|kv| (kv.value, kv.mod_revision)),
        Some(("at last".into(), outcome.revision))
    );
    Ok(())
}

/// What became of a write that ended with this error.
fn what_happened(error: &ClientError) -> &'static str {
    match error {
        // Only reading tells, or doing it again under a condition.
        ClientError::OutcomeUnknown { .. } | ClientError::AnswerForgotten { .. } => "applied or not",
        // Nobody has taken it before the deadline, and nobody will: it may be done again as it is.
        ClientError::Unavailable { .. } | ClientError::TimedOut { .. } | ClientError::SessionUnknown { .. } => {
            "certainly not applied, and worth another attempt"
        }
        // The cluster is full, and may have room later.
        ClientError::NoSpace { .. } | ClientError::TooMany { .. } => "certainly not applied, for lack of room",
        // The cluster's state is such that it cannot be: another write may.
        ClientError::PreconditionFailed { .. }
        | ClientError::CompactedRevision { .. }
        | ClientError::FutureRevision { .. }
        | ClientError::LeaseUnknown { .. }
        | ClientError::LeaseExists { .. }
        | ClientError::KeyUnknown { .. }
        | ClientError::Unsafe { .. } => "certainly not applied, as things are",
        // The same would come again.
        ClientError::Tls { .. }
        | ClientError::Permission { .. }
        | ClientError::TooLarge { .. }
        | ClientError::RangeTooLarge { .. }
        | ClientError::Invalid { .. }
        | ClientError::Unsupported { .. } => "certainly not applied, and refused for good",
        ClientError::Internal { .. } | ClientError::Corrupt { .. } => "certainly not applied, and a case for the log",
    }
}

/// Does it again for as long as it takes, with pauses that grow and differ between programs, so that all who wait do not come at once. Counts
/// what was in vain.
async fn put_with_patience(
    client: &Client,
    put: Put,
    attempts: &watch::Sender<u32>,
) -> Result<PutOutcome, ClientError> {
    let mut pause = Duration::from_millis(100);
    loop {
        match client.put(put.clone()).await {
            Err(error @ (ClientError::Unavailable { .. } | ClientError::TimedOut { .. })) => {
                println!("in vain: {error}");
            }
            outcome => return outcome,
        }
        attempts.send_modify(|attempts| *attempts += 1);
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
