//! Finding free ports on loopback, for the demo and for tests.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below the range from which the kernel takes ports for outgoing sockets, so that none of those is in the way later.
const CANDIDATES: std::ops::Range<u16> = 10_000..32_000;
const ATTEMPTS: u32 = 10_000;

/// Ports handed out by this process, so that it does not hand one out twice.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The first ports of `count` free runs of three (clients, peers, status page).
///
/// Another process may take one before it is used; whoever binds it then says so.
///
/// # Errors
/// When no free run is found, which means that something on the machine holds most of the ports.
pub fn free_runs_of_three(count: u16) -> std::io::Result<Vec<u16>> {
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut ports = Vec::new();
    for _ in 0..ATTEMPTS {
        if ports.len() == usize::from(count) {
            return Ok(ports);
        }
        let port = rand::random_range(CANDIDATES);
        if (port..port + 3).any(|port| taken.contains(&port)) {
            continue;
        }
        let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))
            .and_then(|_clients| UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)))
            .and_then(|_peers| TcpListener::bind((Ipv4Addr::LOCALHOST, port + 2)));
        if bound.is_ok() {
            taken.extend(port..port + 3);
            ports.push(port);
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "no free ports found on loopback"))
}
