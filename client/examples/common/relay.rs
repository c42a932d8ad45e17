//! A way to a node on which datagrams get lost when the example says so, as they do in a network.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{UdpSocket, lookup_host};
use tokio::task::{JoinHandle, JoinSet};

/// More than any datagram has.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Hands on what comes, both ways, until it is dropped.
pub(crate) struct Relay {
    address: String,
    passes_answers: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// A way to `node`, a `host:port`. A node is known by its certificate, so it may be reached at any address.
    pub(crate) async fn to(node: &str) -> io::Result<Relay> {
        let node = lookup_host(node).await?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let address = front.local_addr()?.to_string();
        let passes_answers = Arc::new(AtomicBool::new(true));
        let task = tokio::spawn(run(front, node, passes_answers.clone()));
        Ok(Relay { address, passes_answers, task })
    }

    /// What a client takes for the address of the node.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether answers come through from here on. What the client sends always does.
    pub(crate) fn pass_answers(&self, passes: bool) {
        self.passes_answers.store(passes, Ordering::Relaxed);
    }
}

/// Each socket of a client has one of its own on the other side, so that answers find back.
async fn run(front: Arc<UdpSocket>, node: SocketAddr, passes_answers: Arc<AtomicBool>) {
    let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut back = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // A datagram that cannot be handed on is one that got lost: the other side sends it again.
        let Ok((bytes, client)) = front.recv_from(&mut datagram).await else { continue };
        let way = match ways.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let Ok(way) = connected(node).await.map(Arc::new) else { continue };
                back.spawn(answers(way.clone(), front.clone(), client, passes_answers.clone()));
                new.insert(way)
            }
        };
        let _lost = way.send(&datagram[..bytes]).await;
    }
}

async fn connected(node: SocketAddr) -> io::Result<UdpSocket> {
    let own = match node {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let way = UdpSocket::bind(own).await?;
    way.connect(node).await?;
    Ok(way)
}

async fn answers(way: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, passes: Arc<AtomicBool>) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok(bytes) = way.recv(&mut datagram).await else { return };
        if passes.load(Ordering::Relaxed) {
            let _lost = front.send_to(&datagram[..bytes], client).await;
        }
    }
}
