//! Transactions: several keys at once, depending on what others hold.
//!
//! ```sh
//! . demo/env    # or the env file of your cluster, or the variables by hand
//! cargo run --locked --release --example transactions
//! ```

#![expect(clippy::print_stdout, reason = "it shows what it does")]

mod common;

use raftkv_client::{Client, Compare, Operation, Put, Transaction};
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    example(&common::connect()?).await
}

/// Money goes from one account to another, or nothing happens.
pub(crate) async fn example(client: &Client) -> Result<(), Box<dyn Error>> {
    let (from, to) = ("example/transactions/ann", "example/transactions/bob");
    let open = Transaction::new().then(Operation::put((from, "10"))).then(Operation::put((to, "0")));
    println!("both accounts are open since revision {}", client.transaction(open).await?.revision);

    for attempt in 1.. {
        let (Some(ann), Some(bob)) = (client.get(from).await?.kv, client.get(to).await?.kv) else {
            return Err("an account is gone".into());
        };
        let (has, gets): (u64, u64) =
            (std::str::from_utf8(&ann.value)?.parse()?, std::str::from_utf8(&bob.value)?.parse()?);
        let transfer = Transaction::new()
            .when(Compare::mod_revision(from).equals(ann.mod_revision))
            .when(Compare::mod_revision(to).equals(bob.mod_revision))
            .then(Operation::put(Put::new(from, (has - 3).to_string()).with_previous()))
            .then(Operation::put((to, (gets + 3).to_string())))
            .otherwise(Operation::get(from));
        let outcome = client.transaction(transfer).await?;
        if outcome.succeeded {
            println!("moved at revision {}, at attempt {attempt}", outcome.revision);
            break;
        }
        // Somebody was faster. What stands under `otherwise` was read at that same moment.
        println!("once more: {:?}", outcome.operations[0].pairs());
    }

    let both = Transaction::new().then(Operation::get(from)).then(Operation::get(to));
    // It cannot write, so it is a read: of both at one revision.
    for operation in client.transaction(both).await?.operations {
        println!("{:?}", operation.pairs().iter().map(|kv| (&kv.key, &kv.value)).collect::<Vec<_>>());
    }
    assert_eq!(client.get(to).await?.kv.map(|kv| kv.value), Some("3".into()));
    Ok(())
}
