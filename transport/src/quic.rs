//! QUIC endpoints: sockets, transport parameters, and the door that incoming connections come through.
//!
//! # The door
//!
//! Anybody can send a first packet, so what happens before a certificate has been seen is bounded tightly: so many handshakes at once
//! ([`HANDSHAKES_MAX`]), each for so long ([`HANDSHAKE_TIMEOUT`]), with so little buffered (quinn's defaults are a hundred times
//! larger). Once half of the places are taken, a newcomer must first prove that it receives at its address (QUIC Retry, RFC 9000
//! §8.1.2): a flood with forged addresses then costs nothing, and honest newcomers pay one round trip.
//!
//! # Parameters
//!
//! Sized for a LAN: an initial round-trip estimate of 50 ms in place of 333 ms (only loss recovery during the handshake uses it), windows
//! that hold a few MiB, keep-alives every second and an idle timeout of a few: QUIC has no reset when a process is killed, so
//! silence is how its death shows, until it is back: then it resets what it does not know. Migration is off for peers: a node that moves dials anew and is checked anew.
//!
//! Absent: per-address limits at the door.

use crate::alert;
use crate::client_server::WATCHES_MAX;
use crate::error::{Refusal, RefusalCode};
use crate::log_limit::LogLimit;
use crate::tls::{Credentials, Protocol};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, TokioRuntime, TransportConfig, VarInt};
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// Connections of one endpoint that may be in their handshake or Hello at the same time.
pub const HANDSHAKES_MAX: usize = 256;

/// A connection that is not through handshake and Hello by then is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// With nothing received for this long, a connection counts as dead.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

const KEEP_ALIVE: Duration = Duration::from_secs(1);
const INITIAL_ROUND_TRIP: Duration = Duration::from_millis(50);

// Connection attempts that quinn holds for us, and bytes it keeps for each and for all: a few packets of a ClientHello.
const INCOMING_MAX: usize = 1024;
const INCOMING_BUFFER_BYTES: u64 = 16 << 10;
const INCOMING_BUFFER_TOTAL_BYTES: u64 = 4 << 20;

// Asked of the operating system for each socket; it grants less where its own limit is lower, which costs throughput only.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

// What one stream and one connection may have under way unread, and sent but not acknowledged. A peer's connection carries everything for a
// follower, so it gets more. A client may leave scans unread: only when there are sixteen do they hold up what else there is on the connection.
const PEER_STREAM_WINDOW_BYTES: u32 = 4 << 20;
const PEER_WINDOW_BYTES: u32 = 16 << 20;
const CLIENT_STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CLIENT_WINDOW_BYTES: u32 = 8 << 20;

/// Bidirectional streams that the other side may have open at once: request streams and scans, or snapshot files.
const BIDIRECTIONAL_STREAMS_MAX: u32 = 128;
/// The same for a client, whose watches have one each.
const CLIENT_STREAMS_MAX: u32 = BIDIRECTIONAL_STREAMS_MAX + WATCHES_MAX as u32;
/// Unidirectional ones: a peer's lanes.
const UNIDIRECTIONAL_STREAMS_MAX: u32 = 4;

fn transport(protocol: Protocol) -> Arc<TransportConfig> {
    let (stream_window, window) = match protocol {
        Protocol::Peer => (PEER_STREAM_WINDOW_BYTES, PEER_WINDOW_BYTES),
        Protocol::Client => (CLIENT_STREAM_WINDOW_BYTES, CLIENT_WINDOW_BYTES),
    };
    let idle = IDLE_TIMEOUT.try_into().expect("a few seconds fit QUIC's variable-length integer");
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(INITIAL_CONGESTION_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_ROUND_TRIP)
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(window))
        .send_window(u64::from(window))
        .max_concurrent_bidi_streams(VarInt::from_u32(match protocol {
            Protocol::Peer => BIDIRECTIONAL_STREAMS_MAX,
            Protocol::Client => CLIENT_STREAMS_MAX,
        }))
        .max_concurrent_uni_streams(VarInt::from_u32(match protocol {
            Protocol::Peer => UNIDIRECTIONAL_STREAMS_MAX,
            Protocol::Client => 0,
        }))
        .mtu_discovery_config(Some(quinn::MtuDiscoveryConfig::default()))
        .congestion_controller_factory(Arc::new(congestion))
        .datagram_receive_buffer_size(None)
        .send_fairness(true);
    Arc::new(config)
}

// A whole append travels in the first round trip of a quiet connection.
const INITIAL_CONGESTION_WINDOW_BYTES: u64 = 256 << 10;

fn socket(bind: SocketAddr) -> io::Result<UdpSocket> {
    let domain = if bind.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    if bind.is_ipv6() && bind.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // The operating system may grant less without an error; an error here means that it knows no such option.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&bind.into())?;
    Ok(socket.into())
}

/// A listening endpoint that can dial as well.
pub(crate) fn listen(bind: SocketAddr, protocol: Protocol, credentials: &Credentials) -> io::Result<Endpoint> {
    let mut server = quinn::ServerConfig::with_crypto(credentials.server_config(protocol));
    server
        .transport_config(transport(protocol))
        .migration(protocol == Protocol::Client)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
    Endpoint::new(credentials.endpoint_config(), Some(server), socket(bind)?, Arc::new(TokioRuntime))
}

/// An endpoint that only dials, for an address of this family.
pub(crate) fn dialler(remote: SocketAddr) -> io::Result<Endpoint> {
    let unspecified = if remote.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    Endpoint::new(EndpointConfig::default(), None, socket(unspecified)?, Arc::new(TokioRuntime))
}

/// How to dial.
pub(crate) fn dial_config(protocol: Protocol, credentials: &Credentials) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(credentials.client_config(protocol));
    config.transport_config(transport(protocol));
    config
}

/// The name handed to TLS where it wants one. It is neither sent nor checked: identities are URIs.
pub(crate) const SERVER_NAME: &str = "raftkv";

/// What admits connections to one endpoint, and logs those it turns away.
pub(crate) struct Door {
    name: &'static str,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    log: LogLimit,
}

/// A place among the endpoint's connections; given back when dropped.
pub(crate) struct Place {
    _connection: OwnedSemaphorePermit,
}

impl Door {
    pub(crate) fn new(name: &'static str, connections_max: usize) -> Arc<Door> {
        Arc::new(Door {
            name,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            connections: Arc::new(Semaphore::new(connections_max)),
            log: LogLimit::new(),
        })
    }

    /// One line about a connection that was turned away.
    pub(crate) fn log_refusal(&self, remote: SocketAddr, cause: &str) {
        if let Some(suppressed) = self.log.admit() {
            warn!(port = self.name, %remote, cause, suppressed, "connection refused");
        }
    }

    /// Takes connections until the endpoint closes. `greet` does identity check and Hello within the handshake's time limit; what it
    /// returns is handed to `serve`, which lives as long as the connection.
    pub(crate) async fn run<Greeted, Greet, Greeting, Serve, Serving>(
        self: Arc<Door>,
        endpoint: Endpoint,
        greet: Greet,
        serve: Serve,
    ) where
        Greet: Fn(Connection) -> Greeting + Clone + Send + Sync + 'static,
        Greeting: Future<Output = Result<Greeted, String>> + Send,
        Serve: Fn(Greeted) -> Serving + Clone + Send + Sync + 'static,
        Serving: Future<Output = ()> + Send,
        Greeted: Send,
    {
        while let Some(incoming) = endpoint.accept().await {
            let Some((incoming, place, handshake)) = self.admit(incoming) else { continue };
            let (door, greet, serve) = (self.clone(), greet.clone(), serve.clone());
            tokio::spawn(async move {
                let remote = incoming.remote_address();
                let outcome = greet_in_time(incoming, greet).await;
                drop(handshake);
                match outcome {
                    Ok(greeted) => serve(greeted).await,
                    Err(cause) => door.log_refusal(remote, &cause),
                }
                drop(place);
            });
        }
    }

    fn admit(&self, incoming: Incoming) -> Option<(Incoming, Place, OwnedSemaphorePermit)> {
        let crowded = self.handshakes.available_permits() <= HANDSHAKES_MAX / 2;
        if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
            // Costs us no memory; whoever is there comes back with the token. An error would mean that it may not be asked.
            if incoming.retry().is_err() {
                warn!(port = self.name, "a connection could not be asked to prove its address");
            }
            return None;
        }
        let Ok(connection) = self.connections.clone().try_acquire_owned() else {
            self.log_refusal(incoming.remote_address(), "as many connections as the limit allows");
            incoming.refuse();
            return None;
        };
        let Ok(handshake) = self.handshakes.clone().try_acquire_owned() else {
            self.log_refusal(incoming.remote_address(), "too many handshakes at once");
            incoming.refuse();
            return None;
        };
        Some((incoming, Place { _connection: connection }, handshake))
    }
}

async fn greet_in_time<Greeted, Greeting: Future<Output = Result<Greeted, String>>>(
    incoming: Incoming,
    greet: impl Fn(Connection) -> Greeting,
) -> Result<Greeted, String> {
    let deadline = tokio::time::Instant::now() + HANDSHAKE_TIMEOUT;
    let connection = tokio::time::timeout_at(deadline, incoming)
        .await
        .map_err(|_| "the handshake was not finished in time".to_owned())?
        .map_err(|cause| alert::explain_handshake(&cause))?;
    match tokio::time::timeout_at(deadline, greet(connection.clone())).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let refusal = Refusal::new(RefusalCode::HelloTimeout, "Hello was not finished in time");
            refusal.close(&connection);
            Err(refusal.reason)
        }
    }
}
