//! Issuing certificates: a cluster's own authority, and what it signs.
//!
//! Keys are ECDSA P-256. A node's certificate is good for both ends of a connection; a client's only for the dialling end, so
//! that whoever holds one cannot pose as a server even towards a program that checks nothing else. The identity is the one URI of
//! [`crate::identity`]; there are no DNS names and no addresses in a certificate.
//!
//! Absent so far: revocation lists, ML-DSA keys, signing requests made elsewhere.

use crate::identity::{ClusterId, Identity, IdentityError};
use raft::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an authority's certificate is good for: ten years.
pub const AUTHORITY_VALIDITY: Duration = Duration::from_secs(3650 * DAY.as_secs());

/// How long a node's or client's certificate is good for unless said otherwise: two years.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(730 * DAY.as_secs());

/// Certificates begin this long before they are issued, so that a machine whose clock is a little behind takes them.
pub const BACKDATED_BY: Duration = Duration::from_secs(60 * 60);

/// A certificate with its private key, both PEM. The key is PKCS#8: write it to a file only its owner can read.
#[derive(Clone)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key.
    pub key_pem: String,
}

impl std::fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedCertificate").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before this moment.
    pub from: SystemTime,
    /// Not after this moment.
    pub until: SystemTime,
}

impl Validity {
    /// From a little before the present moment, for this long after it.
    #[must_use]
    pub fn lasting(duration: Duration) -> Validity {
        let issued = SystemTime::now();
        Validity { from: issued - BACKDATED_BY, until: issued + duration }
    }
}

/// A cluster's certificate authority.
pub struct Authority {
    cluster: ClusterId,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority with a fresh key, good for [`AUTHORITY_VALIDITY`].
    ///
    /// # Errors
    /// When the cryptographic library fails to make or use a key.
    pub fn create(cluster: ClusterId) -> Result<Authority, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Issue)?;
        let mut params = params(AUTHORITY_COMMON_NAME, Validity::lasting(AUTHORITY_VALIDITY));
        // The subject is where the authority says which cluster it is for.
        params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(PkiError::Issue)?.pem();
        Ok(Authority { cluster, certificate_pem, issuer: Issuer::new(params, key) })
    }

    /// Takes up an authority made by [`Authority::create`]. The cluster's name is in its certificate.
    ///
    /// # Errors
    /// When either text is not PEM, the certificate is not a raftkv authority's, or the key is another one's.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Authority, PkiError> {
        let key = KeyPair::from_pem(key_pem).map_err(|_| PkiError::AuthorityKey)?;
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).map_err(|_| PkiError::AuthorityCertificate)?;
        let cluster = authority_cluster(&pem.contents, &key)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(|_| PkiError::AuthorityCertificate)?;
        Ok(Authority { cluster, certificate_pem: certificate_pem.to_owned(), issuer })
    }

    /// The cluster it signs for.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Its own certificate, PEM: what everybody in the cluster trusts.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key, PKCS#8 PEM. Whoever holds it can become any node.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a node's certificate, for both ends of a connection.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn issue_node(&self, id: NodeId, validity: Validity) -> Result<IssuedCertificate, PkiError> {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&Identity::node(self.cluster.clone(), id), validity, usages)
    }

    /// Issues a client's certificate, for the dialling end only.
    ///
    /// # Errors
    /// When `name` is not a client name, or the cryptographic library fails.
    pub fn issue_client(&self, name: &str, validity: Validity) -> Result<IssuedCertificate, PkiError> {
        let identity = Identity::client(self.cluster.clone(), name)?;
        self.issue(&identity, validity, vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue(
        &self,
        identity: &Identity,
        validity: Validity,
        usages: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<IssuedCertificate, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Issue)?;
        let uri = identity.to_string();
        // A common name holds at most 64 characters, a URI may be longer: the name is for people, the URI is what counts.
        let common_name: String = uri.chars().take(64).collect();
        let mut params = params(&common_name, validity);
        let san = uri.try_into().map_err(PkiError::Issue)?;
        params.subject_alt_names = vec![SanType::URI(san)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Issue)?;
        Ok(IssuedCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = OffsetDateTime::from(validity.from);
    params.not_after = OffsetDateTime::from(validity.until);
    params
}

const AUTHORITY_COMMON_NAME: &str = "raftkv authority";

fn authority_cluster(der: &[u8], key: &KeyPair) -> Result<ClusterId, PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| PkiError::AuthorityCertificate)?;
    if !certificate.is_ca() {
        return Err(PkiError::AuthorityCertificate);
    }
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(PkiError::AuthorityKeyMismatch);
    }
    let cluster = certificate.subject().iter_organization().next().and_then(|name| name.as_str().ok());
    Ok(ClusterId::new(cluster.ok_or(PkiError::AuthorityCertificate)?)?)
}

/// Why a certificate could not be issued, or an authority not be taken up.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The authority's key is not a PEM private key.
    #[error("the authority's key is not a PKCS#8 private key in PEM")]
    AuthorityKey,
    /// The authority's certificate is not one.
    #[error("the authority's certificate is not a raftkv certificate authority in PEM")]
    AuthorityCertificate,
    /// Key and certificate are not a pair.
    #[error("the authority's key does not belong to its certificate: use the pair that was made together")]
    AuthorityKeyMismatch,
    /// A name that cannot be an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The library refused.
    #[error("the certificate could not be made: {0}")]
    Issue(#[source] rcgen::Error),
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn an_authority_survives_being_written_and_loaded() {
        let made = Authority::create(ClusterId::new("a".repeat(63)).unwrap()).unwrap();
        let loaded = Authority::load(made.certificate_pem(), &made.key_pem()).unwrap();
        assert_eq!(loaded.cluster(), made.cluster());
        let issued = loaded.issue_node(NodeId(7), Validity::lasting(LEAF_VALIDITY)).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate_pem.as_bytes()).unwrap();
        let identity = Identity::from_certificate(&pem.contents).unwrap();
        assert_eq!(identity, Identity::node(made.cluster().clone(), NodeId(7)));
    }

    #[test]
    fn key_of_another_authority_is_refused() {
        let one = Authority::create(ClusterId::new("one").unwrap()).unwrap();
        let other = Authority::create(ClusterId::new("one").unwrap()).unwrap();
        assert!(matches!(
            Authority::load(one.certificate_pem(), &other.key_pem()),
            Err(PkiError::AuthorityKeyMismatch)
        ));
    }

    #[test]
    fn a_leaf_is_no_authority() {
        let authority = Authority::create(ClusterId::new("one").unwrap()).unwrap();
        let leaf = authority.issue_client("admin", Validity::lasting(LEAF_VALIDITY)).unwrap();
        assert!(matches!(Authority::load(&leaf.certificate_pem, &leaf.key_pem), Err(PkiError::AuthorityCertificate)));
    }

    #[test]
    fn two_identities_in_one_certificate_are_refused() {
        let mut params = params("two", Validity::lasting(DAY));
        let uri = |text: &str| SanType::URI(text.to_owned().try_into().unwrap());
        params.subject_alt_names = vec![uri("raftkv://a/node/1"), uri("raftkv://a/node/2")];
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(Identity::from_certificate(certificate.der()), Err(IdentityError::Several));
    }
}
