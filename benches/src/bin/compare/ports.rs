//! Free ports on loopback.

use anyhow::bail;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Below the range from which the kernel takes ports for outgoing sockets, so that none of those is in the way later.
const CANDIDATES: std::ops::Range<u16> = 10_000..32_000;
const ATTEMPTS: u32 = 10_000;
/// A node's ports are neighbours: clients, peers, and a status page.
pub(crate) const PORTS_PER_NODE: u16 = 3;

/// The first ports of `count` runs of [`PORTS_PER_NODE`], free for TCP and UDP. Another process may take one before it is used; whoever
/// binds it then says so.
pub(crate) fn free_runs(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut runs: Vec<u16> = Vec::new();
    for _ in 0..ATTEMPTS {
        if runs.len() == count {
            return Ok(runs);
        }
        let first = rand::random_range(CANDIDATES);
        let apart = runs.iter().all(|other| other.abs_diff(first) >= PORTS_PER_NODE);
        if apart && (first..first + PORTS_PER_NODE).all(is_free) {
            runs.push(first);
        }
    }
    bail!(
        "no free ports were found on 127.0.0.1 between {} and {}: something on this machine holds most of them",
        CANDIDATES.start,
        CANDIDATES.end
    )
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn runs_do_not_overlap() {
        let mut runs = free_runs(20).unwrap();
        runs.sort_unstable();
        assert!(runs.windows(2).all(|pair| pair[1] - pair[0] >= PORTS_PER_NODE), "{runs:?}");
    }
}
