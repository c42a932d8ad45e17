//! Mutual TLS for etcd, with certificates made for one run.

use anyhow::Context;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// An authority and one certificate below it (ECDSA P-256, like raftkv's), good for servers and clients on 127.0.0.1.
pub(crate) struct TlsFiles {
    /// The authority's certificate.
    pub(super) authority: PathBuf,
    /// The one certificate.
    pub(super) certificate: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
}

impl TlsFiles {
    /// Makes them in `folder`.
    pub(super) fn create(folder: &Path) -> anyhow::Result<TlsFiles> {
        let authority_key = KeyPair::generate().context("cannot make a key")?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_pem = authority.self_signed(&authority_key).context("cannot make an authority")?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let key = KeyPair::generate().context("cannot make a key")?;
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf_pem = leaf.signed_by(&key, &issuer).context("cannot issue a certificate")?.pem();

        let files = TlsFiles {
            authority: folder.join("ca.crt"),
            certificate: folder.join("etcd.crt"),
            key: folder.join("etcd.key"),
        };
        write(&files.authority, &authority_pem)?;
        write(&files.certificate, &leaf_pem)?;
        write(&files.key, &key.serialize_pem())?;
        Ok(files)
    }

    /// Connects to `127.0.0.1:port` through TLS, and proves who it is.
    pub(super) async fn connect(&self, endpoint: &Endpoint, port: u16) -> anyhow::Result<Channel> {
        let config = Arc::new(self.client_config()?);
        let connector = tower::service_fn(move |_: Uri| {
            let connector = TlsConnector::from(Arc::clone(&config));
            async move {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        endpoint.connect_with_connector(connector).await.context("cannot connect through TLS")
    }

    fn client_config(&self) -> anyhow::Result<ClientConfig> {
        let certificate = |path: &Path| {
            CertificateDer::from_pem_file(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.authority)?).context("cannot trust the authority")?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key).with_context(|| format!("cannot read {}", self.key.display()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("TLS 1.3 is not to be had")?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate(&self.certificate)?], key)
            .context("the client's certificate is not usable")?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
