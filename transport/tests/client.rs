//! The client protocol over real QUIC on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{DEADLINE, client, get, listener, node, put, until};
use raft::NodeId;
use raftkv_transport::proto::client as wire;
use raftkv_transport::proto::client::ErrorCode;
use raftkv_transport::{CallError, ClientConnection, ClientLimits, Identity, NamedGroup, Response, ScanError};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_is_tls13_with_hybrid_key_exchange_and_a_proved_peer() {
    let authority = common::authority("main");
    let (_listener, address, _) = listener(&node(&authority, 7), ClientLimits::default());
    let (connection, hello) =
        ClientConnection::connect(&address, &client(&authority, "admin"), DEADLINE).await.unwrap();
    let negotiated = connection.negotiated();
    assert_eq!(negotiated.tls_version, "TLS 1.3");
    assert_eq!(negotiated.key_exchange, NamedGroup::X25519MLKEM768);
    assert_eq!(negotiated.alpn, b"raftkv-client/1");
    assert_eq!(negotiated.peer, Identity::node(authority.cluster().clone(), NodeId(7)));
    assert_eq!(hello.name, "raftkv://main/client/admin", "what the node takes the client for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pipelined_requests_get_each_its_own_answer() {
    let authority = common::authority("main");
    let (_listener, address, _) = listener(&node(&authority, 1), ClientLimits::default());
    let (connection, _) = ClientConnection::connect(&address, &client(&authority, "admin"), DEADLINE).await.unwrap();
    let connection = Arc::new(connection);
    let calls: Vec<_> = (0..10_000usize)
        .map(|number| {
            let connection = connection.clone();
            tokio::spawn(async move { (number, connection.call(put("k", number % 700)).await) })
        })
        .collect();
    for call in calls {
        let (number, response) = call.await.unwrap();
        let Response::Put(reply) = response.unwrap() else { panic!("a put reply is due") };
        assert_eq!(reply.header.unwrap().revision, (number % 700) as u64);
    }
}
