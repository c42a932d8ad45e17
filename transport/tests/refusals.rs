//! Who does not get in: each is refused with one line in the server's log and a typed error at the other end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::{BufMut, Bytes, BytesMut};
use common::{DEADLINE, Logs, authority, client, listener, loopback, node, until};
use prost::Message as _;
use raft::NodeId;
use raftkv_transport::proto::client as wire;
use raftkv_transport::proto::client::ErrorCode;
use raftkv_transport::{
    Authority, ClientConnection, ClientLimits, ConnectError, CredentialPaths, Credentials, CredentialsError, Inbound,
    PeerConfig, PeerLimits, PeerLinks, PeerSet, RefusalCode, Validity,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

// What the log and the error at the other end say, since an alert's number tells nobody what to mend.
const OTHER_AUTHORITY: &str = "its certificate is not from this cluster's authority";
const OTHER_PROTOCOL: &str =
    "it speaks another protocol (ALPN): clients belong on the client port, nodes on the peer port";

const DAY: Duration = Duration::from_secs(86_400);

fn links(credentials: &Credentials, peers: Vec<(NodeId, String)>, settings_digest: u64) -> PeerLinks {
    let config = PeerConfig {
        bind: loopback(),
        // Every number up to 99 was given out: whoever is not named was removed.
        peers: PeerSet { id_max: NodeId(99), ..PeerSet::new(peers) },
        address: String::new(),
        settings_digest,
        format_max: 2,
        agent: "test".to_owned(),
        credentials: credentials.clone(),
        limits: PeerLimits::default(),
        snapshots: None,
    };
    PeerLinks::start(config, Arc::new(|_: Inbound| {})).unwrap()
}

/// A client of quinn and rustls alone, which checks nothing and shows whatever certificate it is given: what an intruder would use.
struct Intruder {
    alpn: &'static [u8],
    pair: Option<(String, String)>,
}

#[derive(Debug)]
struct TrustsAnybody(rustls::crypto::CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Intruder {
    fn config(&self) -> quinn::ClientConfig {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider)));
        let mut config = match &self.pair {
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![self.alpn.to_vec()];
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        quinn::ClientConfig::new(Arc::new(crypto))
    }

    /// Dials, says something, and returns how the connection ended.
    async fn ended(&self, address: SocketAddr) -> quinn::ConnectionError {
        let endpoint = quinn::Endpoint::client(loopback()).unwrap();
        match endpoint.connect_with(self.config(), address, "x").unwrap().await {
            Err(error) => error,
            Ok(connection) => tokio::time::timeout(DEADLINE, connection.closed()).await.expect("it is closed"),
        }
    }
}

/// A connection that is through TLS, for sending what no client of ours would.
async fn raw(authority: &Authority, address: &str) -> (quinn::Endpoint, quinn::Connection) {
    let issued = authority.issue_client("raw", Validity::lasting(DAY)).unwrap();
    let intruder = Intruder { alpn: b"raftkv-client/1", pair: Some((issued.certificate_pem, issued.key_pem)) };
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let connecting = endpoint.connect_with(intruder.config(), address.parse().unwrap(), "x").unwrap();
    (endpoint, connecting.await.unwrap())
}

fn envelope(length: u32, version: u8, kind: u8, request: u64) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32(length);
    out.put_u8(version);
    out.put_u8(kind);
    out.put_u16(0);
    out.put_u64(request);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_port_refuses_certificates_of_another_authority() {
    let logs = Logs::capture().await;
    let (ours, other) = (authority("main"), authority("main"));
    let (_listener, address, _) = listener(&node(&ours, 1), ClientLimits::default());
    // Our own client turns the server down first, as it must.
    let error = ClientConnection::connect(&address, &client(&other, "admin"), DEADLINE).await.err().unwrap();
    assert!(matches!(error, ConnectError::Tls { by_peer: false, .. }) && error.is_permission(), "{error}");
    assert!(error.to_string().contains(OTHER_AUTHORITY), "{error}");
    logs.wait_for(&["connection refused", "it does not accept our certificate: not from its cluster's authority"])
        .await;
    // One that does not is turned down by the server.
    let issued = other.issue_client("admin", Validity::lasting(DAY)).unwrap();
    let intruder = Intruder { alpn: b"raftkv-client/1", pair: Some((issued.certificate_pem, issued.key_pem)) };
    let end = intruder.ended(address.parse().unwrap()).await;
    assert!(matches!(&end, quinn::ConnectionError::ConnectionClosed(_)), "{end}");
    logs.wait_for(&["connection refused", OTHER_AUTHORITY, "invalid peer certificate"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_whose_certificate_the_server_rejects_learns_it_at_hello() {
    // A certificate that our side takes for good and the server does not: the server trusts another authority, the client trusts both.
    let logs = Logs::capture().await;
    let (ours, other) = (authority("main"), authority("main"));
    let (_listener, address, _) = listener(&node(&ours, 1), ClientLimits::default());
    let issued = other.issue_client("admin", Validity::lasting(DAY)).unwrap();
    let both = format!("{}{}", other.certificate_pem(), ours.certificate_pem());
    let credentials = Credentials::from_pem(&both, &issued.certificate_pem, &issued.key_pem).unwrap();
    let error = ClientConnection::connect(&address, &credentials, DEADLINE).await.err().unwrap();
    assert!(matches!(error, ConnectError::Tls { by_peer: true, .. }) && error.is_permission(), "{error}");
    assert!(error.to_string().contains("does not accept our certificate"), "{error}");
    logs.wait_for(&["connection refused", OTHER_AUTHORITY, "invalid peer certificate"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_under_the_same_authority_is_refused_by_name() {
    let logs = Logs::capture().await;
    let main = authority("main");
    let (_listener, address, _) = listener(&node(&main, 1), ClientLimits::default());
    let (certificate, key) = common::issue_raw(&main, "raftkv://other/client/admin");
    let credentials = Credentials::from_pem(main.certificate_pem(), &certificate, &key).unwrap();
    let error = ClientConnection::connect(&address, &credentials, DEADLINE).await.err().unwrap();
    assert!(matches!(error, ConnectError::WrongPeer { .. }) && error.is_permission(), "{error}");
    let intruder = Intruder { alpn: b"raftkv-client/1", pair: Some((certificate, key)) };
    let end = intruder.ended(address.parse().unwrap()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = &end else { panic!("{end}") };
    assert_eq!(close.error_code, RefusalCode::WrongCluster.code().into());
    logs.wait_for(&["connection refused", "another cluster"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_certificate_on_the_client_port_is_refused() {
    let logs = Logs::capture().await;
    let authority = authority("main");
    let (_listener, address, _) = listener(&node(&authority, 1), ClientLimits::default());
    let error = ClientConnection::connect(&address, &node(&authority, 2), DEADLINE).await.err().unwrap();
    let ConnectError::Refused { code: RefusalCode::WrongRole, reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("use a client certificate") && error.is_permission(), "{error}");
    logs.wait_for(&["connection refused", "raftkv://main/node/2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificate_on_the_peer_port_is_refused() {
    let logs = Logs::capture().await;
    let authority = authority("main");
    let links = links(&node(&authority, 1), vec![(NodeId(2), "127.0.0.1:1".to_owned())], 0);
    let address = links.local_address().unwrap();
    // With our client, which speaks the client protocol.
    let error =
        ClientConnection::connect(&address.to_string(), &client(&authority, "admin"), DEADLINE).await.err().unwrap();
    assert!(matches!(error, ConnectError::Tls { by_peer: true, alert: 120, .. }), "{error}");
    assert!(error.to_string().contains(OTHER_PROTOCOL) && error.is_permission(), "{error}");
    logs.wait_for(&["connection refused", "port=\"peer\"", OTHER_PROTOCOL, "alert 120"]).await;
    // With a program that speaks the peer protocol.
    let issued = authority.issue_client("admin", Validity::lasting(DAY)).unwrap();
    let intruder = Intruder { alpn: b"raftkv-peer/1", pair: Some((issued.certificate_pem, issued.key_pem)) };
    let end = intruder.ended(address).await;
    let quinn::ConnectionError::ApplicationClosed(close) = &end else { panic!("{end}") };
    assert_eq!(close.error_code, RefusalCode::WrongRole.code().into());
    logs.wait_for(&["connection refused", "may not be used on the peer port"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_dials_the_client_port_is_told_so_on_both_sides() {
    let logs = Logs::capture().await;
    let authority = authority("main");
    let (_listener, client_port, _) = listener(&node(&authority, 1), ClientLimits::default());
    let second = links(&node(&authority, 2), vec![(NodeId(1), client_port)], 0);
    logs.wait_for(&["cannot connect to peer", OTHER_PROTOCOL]).await;
    logs.wait_for(&["connection refused", "port=\"client\"", OTHER_PROTOCOL]).await;
    assert!(!second.is_connected(NodeId(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_certificate_an_expired_one_and_a_self_signed_one_are_refused_on_both_ports() {
    let logs = Logs::capture().await;
    let authority = authority("main");
    let (_listener, client_port, _) = listener(&node(&authority, 1), ClientLimits::default());
    let links = links(&node(&authority, 1), vec![(NodeId(2), "127.0.0.1:1".to_owned())], 0);
    let past = Validity { from: SystemTime::now() - 3 * DAY, until: SystemTime::now() - DAY };
    let expired_client = authority.issue_client("admin", past).unwrap();
    let expired_node = authority.issue_node(NodeId(2), past).unwrap();
    let own = common::self_signed("raftkv://main/node/2");
    let cases = [
        (&b"raftkv-client/1"[..], None, "it showed no certificate"),
        (b"raftkv-peer/1", None, "it showed no certificate"),
        (
            b"raftkv-client/1",
            Some((expired_client.certificate_pem, expired_client.key_pem)),
            "its certificate has expired",
        ),
        (b"raftkv-peer/1", Some((expired_node.certificate_pem, expired_node.key_pem)), "its certificate has expired"),
        (b"raftkv-client/1", Some(own.clone()), OTHER_AUTHORITY),
        (b"raftkv-peer/1", Some(own), OTHER_AUTHORITY),
    ];
    for (alpn, pair, logged) in cases {
        let on_peer_port = alpn == b"raftkv-peer/1";
        let address = if on_peer_port { links.local_address().unwrap() } else { client_port.parse().unwrap() };
        logs.clear();
        let end = Intruder { alpn, pair }.ended(address).await;
        assert!(matches!(&end, quinn::ConnectionError::ConnectionClosed(_)), "{end}");
        logs.wait_for(&["connection refused", logged]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_node_at_the_address_is_refused_by_the_dialler() {
    let logs = Logs::capture().await;
    let authority = authority("main");
    let third = links(&node(&authority, 3), vec![(NodeId(1), "127.0.0.1:1".to_owned())], 0);
    let address = third.local_address().unwrap().to_string();
    let first = links(&node(&authority, 1), vec![(NodeId(2), address)], 0);
    logs.wait_for(&["cannot connect to peer", "raftkv://main/node/3", "node 2 of cluster main was wanted"]).await;
    assert!(!first.is_connected(NodeId(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_no_members_and_nodes_with_other_settings_are_refused() {
    let logs = Logs::capture().await;
    let authority = authority("main");
    let second = links(&node(&authority, 2), vec![(NodeId(1), "127.0.0.1:1".to_owned())], 1);
    let address = second.local_address().unwrap().to_string();
    let first = links(&node(&authority, 1), vec![(NodeId(2), address.clone())], 2);
    logs.wait_for(&["cannot connect to peer", "cluster-wide settings differ"]).await;
    logs.wait_for(&["connection refused", "cluster-wide settings differ"]).await;
    let stranger = links(&node(&authority, 9), vec![(NodeId(2), address)], 1);
    logs.wait_for(&["connection refused", "node 9 is not a member as node 2 knows them"]).await;
    assert!(!first.is_connected(NodeId(2)) && !stranger.is_connected(NodeId(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_frame_version_ends_the_connection_with_a_reason() {
    let logs = Logs::capture().await;
    let authority = authority("main");
    let (_listener, address, _) = listener(&node(&authority, 1), ClientLimits::default());
    let (_endpoint, connection) = raw(&authority, &address).await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&envelope(0, 9, 1, 0)).await.unwrap();
    let end = tokio::time::timeout(DEADLINE, connection.closed()).await.unwrap();
    assert!(end.to_string().contains("frame version 9 is not known here"), "{end}");
    logs.wait_for(&["connection refused", "frame version 9"]).await;
}

async fn frame(receive: &mut quinn::RecvStream) -> (u8, u64, Bytes) {
    let mut head = [0; 16];
    receive.read_exact(&mut head).await.unwrap();
    let mut body = vec![0; u32::from_be_bytes(head[..4].try_into().unwrap()) as usize];
    receive.read_exact(&mut body).await.unwrap();
    (head[5], u64::from_be_bytes(head[8..].try_into().unwrap()), Bytes::from(body))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_and_unknown_requests_are_answered_under_their_number() {
    let authority = authority("main");
    let (_listener, address, _) = listener(&node(&authority, 1), ClientLimits::default());
    let (_endpoint, connection) = raw(&authority, &address).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&envelope(0, 1, 1, 0)).await.unwrap();
    assert_eq!(frame(&mut receive).await.0, 2, "Hello is answered");
    for (kind, request, code) in [(5, 11, ErrorCode::Invalid), (99, 12, ErrorCode::Unsupported)] {
        let mut out = envelope(3, 1, kind, request);
        out.put_slice(&[0xff; 3]);
        send.write_all(&out).await.unwrap();
        let (answered_kind, answered, body) = frame(&mut receive).await;
        assert_eq!((answered_kind, answered), (4, request));
        assert_eq!(wire::Error::decode(body).unwrap().code(), code);
    }
    send.write_all(&envelope(0, 1, 13, 13)).await.unwrap();
    assert_eq!(frame(&mut receive).await.1, 13, "the stream goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_peer_message_closes_the_connection_and_is_counted() {
    let logs = Logs::capture().await;
    let authority = authority("main");
    let links = links(&node(&authority, 1), vec![(NodeId(2), "127.0.0.1:1".to_owned())], 0);
    let issued = authority.issue_node(NodeId(2), Validity::lasting(DAY)).unwrap();
    let member = Intruder { alpn: b"raftkv-peer/1", pair: Some((issued.certificate_pem, issued.key_pem)) };
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let address = links.local_address().unwrap();
    let connection = endpoint.connect_with(member.config(), address, "x").unwrap().await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&envelope(0, 1, 1, 0)).await.unwrap();
    assert_eq!(frame(&mut receive).await.0, 2, "Hello is answered");
    let mut lane = connection.open_uni().await.unwrap();
    let mut out = envelope(3, 1, 3, 0);
    out.put_slice(&[0xff; 3]);
    lane.write_all(&out).await.unwrap();
    let end = tokio::time::timeout(DEADLINE, connection.closed()).await.unwrap();
    assert!(end.to_string().contains("malformed message"), "{end}");
    assert_eq!(links.counts().malformed, 1);
    logs.wait_for(&["peer sent something that is no message"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_finish_do_not_hold_the_listener() {
    let authority = authority("main");
    let (_listener, address, _) = listener(&node(&authority, 1), ClientLimits::default());
    let server: SocketAddr = address.parse().unwrap();
    // First packets of real handshakes, sent on from sockets of their own and never followed up.
    let tap = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let config = Intruder { alpn: b"raftkv-client/1", pair: None }.config();
    let mut buffer = vec![0; 65_536];
    let mut half_open = Vec::new();
    for _ in 0..600 {
        let connecting = endpoint.connect_with(config.clone(), tap.local_addr().unwrap(), "x").unwrap();
        let (length, _) = tap.recv_from(&mut buffer).await.unwrap();
        let socket = std::net::UdpSocket::bind(loopback()).unwrap();
        socket.send_to(&buffer[..length], server).unwrap();
        half_open.push((connecting, socket));
    }
    let (connection, _) =
        ClientConnection::connect(&address, &client(&authority, "admin"), Duration::from_secs(2)).await.unwrap();
    connection.call(common::put("k", 10)).await.unwrap();
    assert_eq!(half_open.len(), 600);
}

#[test]
fn bad_credentials_name_the_file_and_the_next_step() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (ours, other) = (authority("main"), authority("main"));
    let good = ours.issue_node(NodeId(1), Validity::lasting(DAY)).unwrap();
    let foreign = other.issue_node(NodeId(1), Validity::lasting(DAY)).unwrap();
    let past = Validity { from: SystemTime::now() - 3 * DAY, until: SystemTime::now() - DAY };
    let expired = ours.issue_node(NodeId(1), past).unwrap();
    let write = |ca: &str, certificate: &str, key: &str| {
        std::fs::write(path("ca.pem"), ca).unwrap();
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
    };
    let load = || {
        Credentials::load(&CredentialPaths {
            authority: path("ca.pem"),
            certificate: path("cert.pem"),
            key: path("key.pem"),
        })
    };
    let error = load().unwrap_err();
    assert!(matches!(error, CredentialsError::Missing { .. }) && error.to_string().contains("ca.pem"), "{error}");
    write("hello", &good.certificate_pem, &good.key_pem);
    let error = load().unwrap_err();
    assert!(matches!(error, CredentialsError::NotPem { .. }) && error.to_string().contains("ca.pem"), "{error}");
    write(ours.certificate_pem(), &good.certificate_pem, &good.certificate_pem);
    let error = load().unwrap_err();
    assert!(matches!(error, CredentialsError::NotPem { .. }) && error.to_string().contains("key.pem"), "{error}");
    write(ours.certificate_pem(), &good.certificate_pem, &foreign.key_pem);
    assert!(matches!(load().unwrap_err(), CredentialsError::KeyMismatch { .. }));
    write(ours.certificate_pem(), &foreign.certificate_pem, &foreign.key_pem);
    assert!(matches!(load().unwrap_err(), CredentialsError::OtherAuthority { .. }));
    write(ours.certificate_pem(), &expired.certificate_pem, &expired.key_pem);
    assert!(matches!(load().unwrap_err(), CredentialsError::Expired { .. }));
    write(ours.certificate_pem(), &good.certificate_pem, &good.key_pem);
    assert_eq!(load().unwrap().identity().node_id(), Some(NodeId(1)));
    assert!(Bytes::from(good.key_pem).starts_with(b"-----BEGIN PRIVATE KEY-----"));
}

#[tokio::test]
async fn nobody_there_is_not_a_question_of_permission() {
    let credentials = client(&authority("main"), "admin");
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = ClientConnection::connect(&address, &credentials, Duration::from_millis(200)).await.err().unwrap();
    assert!(matches!(error, ConnectError::TimedOut { .. }) && !error.is_permission(), "{error}");
    let error = ClientConnection::connect("no-port", &credentials, DEADLINE).await.err().unwrap();
    assert!(matches!(error, ConnectError::Resolve { .. }) && !error.is_permission(), "{error}");
    until("the silent socket is still bound", || silent.local_addr().is_ok()).await;
}
