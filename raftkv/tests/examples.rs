//! The examples of the client library, as they stand in `client/examples/`, with a cluster of real processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::duplicate_mod, reason = "every example has the same module to begin with")]

extern crate client as raftkv_client;

mod common;

use common::{Cluster, TestNode};

#[path = "../../client/examples/deadlines.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod deadlines;
#[path = "../../client/examples/elections.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod elections;
#[path = "../../client/examples/keys.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod keys;
#[path = "../../client/examples/leases.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod leases;
#[path = "../../client/examples/locks.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod locks;
#[path = "../../client/examples/pipelining.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod pipelining;
#[path = "../../client/examples/ranges.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod ranges;
#[path = "../../client/examples/sessions.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod sessions;
#[path = "../../client/examples/transactions.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod transactions;
#[path = "../../client/examples/watches.rs"]
#[expect(dead_code, reason = "the test has a client of its own")]
mod watches;

#[tokio::test(flavor = "multi_thread")]
async fn examples_do_what_they_say() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    keys::example(&client).await.unwrap();
    ranges::example(&client).await.unwrap();
    transactions::example(&client).await.unwrap();
    watches::example(&client).await.unwrap();
    leases::example(&client).await.unwrap();
    locks::example(&client).await.unwrap();
    elections::example(&client).await.unwrap();
    let addresses = cluster.nodes.iter().map(TestNode::client_address);
    let builder = raftkv_client::Client::builder().endpoints(addresses).credentials(cluster.credentials());
    pipelining::example(&client, &builder).await.unwrap();
    sessions::example(&client, &builder).await.unwrap();
    deadlines::example(&client, &builder).await.unwrap();
}
