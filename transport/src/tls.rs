//! What a program proves who it is with, and how it checks others.
//!
//! TLS 1.3 and nothing older, mutual, with the aws-lc-rs provider. Key exchange offers X25519MLKEM768 first, so that traffic recorded
//! today stays closed to a quantum computer of tomorrow, and falls back to classical curves only with a program that has none.
//!
//! Checks come in two steps. The handshake proves that a certificate chains to the cluster's authority and has not expired; names
//! play no part, since a certificate holds no DNS name. After it, [`check_peer`] reads the identity and asks whether *this* cluster, role
//! and node may be on *this* connection. The second step is not done inside the TLS verifier, because there a refusal is an alert
//! without words; afterwards it is a close with a reason that the other side can print.
//!
//! Resumption is off on both sides and no tickets are sent: a resumed session would skip the certificate, and promise 6 is that
//! it is checked on *every* connection. Without resumption there is no 0-RTT either.
//!
//! Absent: revocation. A lost key is answered by a new authority.

use crate::error::{Refusal, RefusalCode};
use crate::identity::{ClusterId, Identity, IdentityError, Role};
use aws_lc_rs::hmac;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use raft::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A protocol, as TLS negotiates it: each has a port of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Between nodes.
    Peer,
    /// From clients to nodes.
    Client,
}

impl Protocol {
    /// The name in the ALPN extension.
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Peer => b"raftkv-peer/1",
            Protocol::Client => b"raftkv-client/1",
        }
    }
}

/// Where the three PEM files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialPaths {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// Our certificate.
    pub certificate: PathBuf,
    /// Our private key.
    pub key: PathBuf,
}

/// What a program proves who it is with, and whom it trusts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Credentials {
    roots: Arc<RootCertStore>,
    certificate: Arc<CertifiedKey>,
    identity: Identity,
    expires: UnixTime,
    resets: ResetSecret,
}

/// What the tokens of stateless resets (RFC 9000 §10.3) are made with. Derived from the private key, so that a process that has been killed and
/// started again can tell the other ends of its former connections that they are gone, instead of letting them wait for silence.
#[derive(Clone)]
struct ResetSecret([u8; 32]);

impl ResetSecret {
    fn derive(private_key: &[u8]) -> ResetSecret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, private_key);
        let tag = hmac::sign(&key, b"raftkv stateless reset 1");
        ResetSecret(tag.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl std::fmt::Debug for ResetSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResetSecret(…)")
    }
}

impl Credentials {
    /// Reads and checks the three files.
    ///
    /// # Errors
    /// Each names the file and the next step: see [`CredentialsError`].
    pub fn load(paths: &CredentialPaths) -> Result<Credentials, CredentialsError> {
        let authority = read(&paths.authority)?;
        let certificate = read(&paths.certificate)?;
        let key = read(&paths.key)?;
        Credentials::check(paths, &authority, &certificate, &key)
    }

    /// Checks three PEM texts. Errors name them `ca`, `certificate` and `key`.
    ///
    /// # Errors
    /// As [`Credentials::load`], reading aside.
    pub fn from_pem(authority: &str, certificate: &str, key: &str) -> Result<Credentials, CredentialsError> {
        let names = CredentialPaths { authority: "ca".into(), certificate: "certificate".into(), key: "key".into() };
        Credentials::check(&names, authority.as_bytes(), certificate.as_bytes(), key.as_bytes())
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When our certificate ends, in seconds since 1970 UTC.
    #[must_use]
    pub fn expires_unix_seconds(&self) -> u64 {
        self.expires.as_secs()
    }

    fn check(
        paths: &CredentialPaths,
        authority: &[u8],
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Credentials, CredentialsError> {
        let authorities = certificates(&paths.authority, authority)?;
        let chain = certificates(&paths.certificate, certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| CredentialsError::NotPem { path: paths.key.clone(), expected: "PRIVATE KEY" })?;
        let mut roots = RootCertStore::empty();
        for root in authorities {
            roots.add(root).map_err(|cause| CredentialsError::Malformed {
                path: paths.authority.clone(),
                detail: cause.to_string(),
            })?;
        }
        let roots = Arc::new(roots);
        let resets = ResetSecret::derive(key.secret_der());
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|cause| {
            if matches!(cause, rustls::Error::InconsistentKeys(_)) {
                CredentialsError::KeyMismatch { key: paths.key.clone(), certificate: paths.certificate.clone() }
            } else {
                CredentialsError::Malformed { path: paths.key.clone(), detail: cause.to_string() }
            }
        })?;
        check_chain(paths, &roots, &certified.cert)?;
        let leaf = &certified.cert[0];
        let identity = Identity::from_certificate(leaf)
            .map_err(|cause| CredentialsError::Identity { path: paths.certificate.clone(), cause })?;
        let expires = expiry(leaf).ok_or_else(|| CredentialsError::Identity {
            path: paths.certificate.clone(),
            cause: IdentityError::Certificate,
        })?;
        Ok(Credentials { roots, certificate: Arc::new(certified), identity, expires, resets })
    }

    /// Settings of an endpoint that lives on under the same resets after a restart of its process.
    pub(crate) fn endpoint_config(&self) -> quinn::EndpointConfig {
        let mut config = quinn::EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.resets.0)));
        let [a, b, c, d, e, f, g, h, ..] = self.resets.0;
        // Connection ids carry a checksum under this key: without the same one, packets of a former life would be ignored.
        let ids = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(ids)));
        config
    }

    /// Settings for dialling.
    pub(crate) fn client_config(&self, protocol: Protocol) -> Arc<QuicClientConfig> {
        let verifier = ChainVerifier { roots: self.roots.clone(), provider: provider() };
        let mut config = rustls::ClientConfig::builder_with_provider(provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.certificate.clone())));
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Arc::new(QuicClientConfig::try_from(config).expect("the provider has QUIC's initial cipher suite"))
    }

    /// Settings for listening.
    pub(crate) fn server_config(&self, protocol: Protocol) -> Arc<QuicServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider().into())
            .build()
            .expect("the store holds at least one authority");
        let mut config = rustls::ServerConfig::builder_with_provider(provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.certificate.clone())));
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Arc::new(QuicServerConfig::try_from(config).expect("the provider has QUIC's initial cipher suite"))
    }
}

/// aws-lc-rs with its hybrid key exchange in front, whatever features other programs switch on in rustls.
pub(crate) fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.sort_by_key(|group| group.name() != rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(
        provider.kx_groups.first().map(|group| group.name()),
        Some(rustls::NamedGroup::X25519MLKEM768),
        "the provider has no X25519MLKEM768"
    );
    provider
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    std::fs::read(path).map_err(|cause| {
        if cause.kind() == io::ErrorKind::NotFound {
            CredentialsError::Missing { path: path.to_owned() }
        } else {
            CredentialsError::Unreadable { path: path.to_owned(), cause }
        }
    })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let not_pem = || CredentialsError::NotPem { path: path.to_owned(), expected: "CERTIFICATE" };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| not_pem())?;
    if chain.is_empty() { Err(not_pem()) } else { Ok(chain) }
}

// The check that the other side will make, made here first, where the message can name our file.
fn check_chain(
    paths: &CredentialPaths,
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
) -> Result<(), CredentialsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider().into())
        .build()
        .expect("the store holds at least one authority");
    let path = paths.certificate.clone();
    match verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            Err(CredentialsError::Expired { path })
        }
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Err(CredentialsError::NotYetValid { path }),
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            Err(CredentialsError::OtherAuthority { path, authority: paths.authority.clone() })
        }
        Err(cause) => Err(CredentialsError::Malformed { path, detail: cause.to_string() }),
    }
}

fn expiry(leaf: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

/// Verifies that a server's certificate chains to the authority and is in its time, and nothing about names.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    provider: CryptoProvider,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The identity that a connection's other side has proved.
pub(crate) fn identity_of(connection: &quinn::Connection) -> Result<Identity, IdentityError> {
    let certificates = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(IdentityError::Missing)?;
    Identity::from_certificate(certificates.first().ok_or(IdentityError::Missing)?)
}

/// Whether the other side may be on this connection: same cluster, and one of the roles.
pub(crate) fn check_peer(
    connection: &quinn::Connection,
    cluster: &ClusterId,
    roles: &[Role],
) -> Result<Identity, Refusal> {
    let identity = identity_of(connection).map_err(|cause| Refusal::new(RefusalCode::NoIdentity, cause.to_string()))?;
    if identity.cluster != *cluster {
        let reason = format!("the certificate {identity} is of another cluster; this is cluster {cluster}");
        return Err(Refusal::new(RefusalCode::WrongCluster, reason));
    }
    if !roles.contains(&identity.role()) {
        let reason = match identity.role() {
            Role::Client => format!("the client certificate {identity} may not be used on the peer port"),
            Role::Node => {
                format!("the node certificate {identity} may not be used on the client port; use a client certificate")
            }
        };
        return Err(Refusal::new(RefusalCode::WrongRole, reason));
    }
    Ok(identity)
}

/// What TLS agreed on for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The version of TLS. QUIC knows only 1.3, and so do our settings.
    pub tls_version: &'static str,
    /// How the session keys came about.
    pub key_exchange: rustls::NamedGroup,
    /// The protocol of the ALPN extension.
    pub alpn: Vec<u8>,
    /// Who the other side proved to be.
    pub peer: Identity,
}

pub(crate) fn negotiated(connection: &quinn::Connection, peer: &Identity) -> Negotiated {
    let data = connection
        .handshake_data()
        .and_then(|any| any.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
        .expect("a connection that is through its handshake has handshake data, and rustls made it");
    Negotiated {
        tls_version: "TLS 1.3",
        key_exchange: data.negotiated_key_exchange_group,
        alpn: data.protocol.unwrap_or_default(),
        peer: peer.clone(),
    }
}

/// Why credentials cannot be used. Each message names the file and the next step.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No such file.
    #[error("{}: no such file; check the path, or issue certificates with `raftkv init`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// There, but not to be read.
    #[error("{}: cannot be read: {cause}; check its owner and mode", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// Not PEM, or PEM of something else.
    #[error("{}: not PEM: expected a block \"BEGIN {expected}\"; check that the file is the right one", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// PEM, but what is inside does not parse or is of a kind we do not take.
    #[error("{}: cannot be used: {detail}; issue it anew", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Key and certificate are not a pair.
    #[error("{}: this key does not belong to the certificate {}; use the pair that was issued together", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Signed by somebody else.
    #[error("{}: not issued by the authority in {}; use the CA file and the certificate of the same cluster", path.display(), authority.display())]
    OtherAuthority {
        /// The certificate's file.
        path: PathBuf,
        /// The authority's file.
        authority: PathBuf,
    },
    /// Past its time.
    #[error("{}: the certificate has expired; issue a new one", path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
    },
    /// Before its time.
    #[error("{}: the certificate is not valid yet; check this machine's clock", path.display())]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
    },
    /// No identity that we understand.
    #[error("{}: {cause}; issue it anew with this cluster's authority", path.display())]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        cause: IdentityError,
    },
}

/// Whether the node that answered is the one that was dialled.
pub(crate) fn is_node(identity: &Identity, wanted: NodeId) -> bool {
    identity.node_id() == Some(wanted)
}
